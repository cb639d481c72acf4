"""Detector "perplexity": does the text surprise a language model more, or less, than the reference does?

Surprise is told in bits per byte, which can be compared across tokenizers. Without a model of the
operator's, a small one of characters is fitted to one half of the reference, and the other half says what
is usual; with a model, all of the reference does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from keeperd.api import (
    JSON,
    Component,
    Context,
    Detector,
    Options,
    PluginError,
    Signal,
    Statistics,
    Window,
    hookimpl,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from keeperd_plugins import _blocks

    Doubles = NDArray[np.float64]

LEAST_ROWS = 20
EXAMPLES = 5


class PerplexityOptions(Options):
    """Options of the perplexity detector."""

    alpha: float = Field(0.01, gt=0.0, lt=0.5, description="chance of a false alarm of one check")
    rows: int = Field(1000, ge=50, le=2000, description="most rows of each window that are read")
    model: Path | None = Field(
        None,
        description="folder of a causal language model (Hugging Face layout, safetensors); without it a"
        " small model of characters is fitted to the reference",
    )
    max_tokens: int = Field(128, ge=8, le=4096, description="tokens of a row that the model reads")

    @field_validator("model")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_absolute():
            raise ValueError("expected an absolute path")
        return path


class PerplexityDetector(Detector[PerplexityOptions]):
    """Compares how surprising rows are to a language model, in bits per byte, by their ranks (Mann and
    Whitney 1947). Where the reference has dates, rows of one day count for less, as they are alike."""

    name = "perplexity"
    Options = PerplexityOptions

    def fit(self, reference: Window, context: Context) -> Statistics:
        """See `Detector.fit`. What is kept holds no text: figures of rows, and hashed counts.

        Raises:
            BadInputError: the model's folder is unsafe, incomplete or no causal language model.
        """
        if len(reference) < LEAST_ROWS:
            raise PluginError(
                f"perplexity: a reference window of {len(reference)} rows says too little; give {LEAST_ROWS}"
            )
        from keeperd_plugins import _blocks, _char_model

        sample = self._sample(reference, context.seed)
        split = _blocks.by_day(sample.times)
        kept = list(range(len(sample)))
        arrays: dict[str, NDArray[Any]] = {}
        if self.options.model is None:
            learnt, kept = _halves(split, len(sample))
            arrays = dict(_char_model.fit(sample.take(learnt).texts).arrays())
        scores = self._read(arrays, sample.take(kept).texts, context)
        usual, days = _usual(scores, kept, split)
        return Statistics({**arrays, "usual": usual}, {"scorer": self._scorer(), **days})

    def detect(
        self, statistics: Statistics, window: Window, state: JSON, context: Context
    ) -> tuple[list[Signal], JSON]:
        """See `Detector.detect`. Each check stands alone: no state is kept.

        Raises:
            PluginError: the window is empty or without any text, or the reference was read by another model.
            BadInputError: the model's folder is unsafe, incomplete or no causal language model.
        """
        if not len(window):
            raise PluginError("perplexity: the window is empty; wait for rows")
        if statistics.values.get("scorer") != self._scorer():
            raise PluginError("perplexity: the reference was read by another model; fit the detector again")
        sample = self._sample(window, context.seed)
        scores = self._read(statistics.arrays, sample.texts, context)
        read = _told(scores)
        if not read:
            raise PluginError("perplexity: no row of the window has text to read; wait for rows")
        return [self._compare(statistics, sample.take(read), scores[read], context.seed)], state

    def _sample(self, window: Window, seed: int) -> Window:
        """At most `rows` rows, drawn fairly, in an order that does not depend on theirs."""
        from keeperd_plugins import _ngrams

        return window.take(_ngrams.canonical_order(window.texts, window.ids, seed)[: self.options.rows])

    def _scorer(self) -> str:
        """What reads; it changes whenever the same text would get another figure."""
        if self.options.model is None:
            from keeperd_plugins import _char_model

            return _char_model.SPECIFICATION
        from keeperd_plugins import _language_model

        return f"{_language_model.fingerprint(self.options.model)}, {self.options.max_tokens} tokens, 1"

    def _read(self, arrays: Mapping[str, NDArray[Any]], texts: Sequence[str], context: Context) -> Doubles:
        """Bits per byte of each text, NaN where there is nothing to read."""
        if self.options.model is None:
            from keeperd_plugins import _char_model

            return _char_model.load(arrays).surprise(texts)
        from keeperd_plugins import _language_model

        model = _language_model.load(self.options.model, self.options.max_tokens, context.device)
        return model.surprise(texts, context)

    def _compare(self, statistics: Statistics, sample: Window, scores: Doubles, seed: int) -> Signal:
        from keeperd_plugins import _blocks, _shares

        usual, days = statistics.arrays["usual"], statistics.values
        inflation, freedom = 1.0, 0
        if blocks := days["blocks"]:
            here = max(_blocks.days(sample.times) / days["days_each"], 1.0)
            inflation = _blocks.inflation(days["alike"], len(scores), here, len(usual), blocks)
            freedom = blocks - 1
        now = scores.astype("float32")
        level = _shares.Level(self.options.alpha, 0, seed, inflation, freedom)
        test = _shares.compare_confidence(usual, now, level)
        auc, p = float(test.facts["auc"]), test.p_value or 0.0
        drifted = p <= self.options.alpha
        means = (
            f"{now.mean():.2f} bits per byte on average, in the reference {usual.mean():.2f} (p = {p:.2g})"
        )
        word = "more" if auc > 0.5 else "less"
        order = (-scores if auc > 0.5 else scores).argsort(kind="stable").tolist()
        return Signal(
            name="perplexity",
            drifted=drifted,
            summary=f"The text surprises a language model {word} than the reference does: {means}."
            if drifted
            else f"The text surprises a language model as much as usual: {means}.",
            p_value=p,
            effect=float(now.mean()),
            effect_unit="bits per byte",
            baseline=float(usual.mean()),
            facts={
                "auc": auc,
                "calibrated_on": "days" if blocks else "rows",
                "rows": len(scores),
                "examples": _different(sample, order) if drifted else [],
            },
        )


def _halves(split: _blocks.Split | None, rows: int) -> tuple[list[int], list[int]]:
    """Rows to learn from, and rows that are kept. Where there are days, every other block of them: rows
    of a day that the model has learnt from would surprise it less than those of a new day."""
    side = [row % 2 if split is None else int(split.block[row]) % 2 for row in range(rows)]
    return [row for row in range(rows) if not side[row]], [row for row in range(rows) if side[row]]


def _usual(
    scores: Doubles, kept: Sequence[int], split: _blocks.Split | None
) -> tuple[NDArray[np.float32], dict[str, JSON]]:
    """Figures of the reference's rows, and how alike those of a block are ("blocks" is 0 without days)."""
    import numpy as np
    from scipy.stats import rankdata

    from keeperd_plugins import _blocks

    read = _told(scores)
    if len(read) < LEAST_ROWS // 2:
        raise PluginError(
            f"perplexity: only {len(read)} rows of the reference have text to read; give it more"
        )
    usual = scores[read].astype(np.float32)
    if split is None:
        return usual, {"blocks": 0, "days_each": 1.0, "alike": 0.0}
    own = split.block[np.array(kept)[read]]
    alike = _blocks.intraclass(rankdata(usual)[:, None], _blocks.Split(own, split.count, split.days_each))
    blocks = len(np.unique(own[own >= 0]))
    return usual, {"blocks": blocks, "days_each": split.days_each, "alike": alike}


def _told(scores: Doubles) -> list[int]:
    """Rows that have a figure."""
    return [row for row, score in enumerate(scores.tolist()) if not math.isnan(score)]


def _different(sample: Window, order: Sequence[int]) -> list[str]:
    """Ids of the first rows in this order, each text once."""
    first: dict[str, str] = {}
    for row in order:
        first.setdefault(sample.texts[row], sample.ids[row])
    return list(first.values())[:EXAMPLES]


@hookimpl
def keeperd_components() -> Iterable[type[Component[PerplexityOptions]]]:
    """The component of this plugin."""
    return [PerplexityDetector]
