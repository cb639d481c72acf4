"""Detector "two-sample": has the text changed, how much, and in which words? Any language, no model needed.

A ridge classifier is asked to tell rows of the window from rows of the reference. Where it cannot do
so better on rows that it was not fitted to than under random splits of both, nothing has changed
(classifier two-sample test; Lopez-Paz and Oquab 2017, ICLR). Where the reference has dates, the window
must besides lie further from it than its own days do from one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import Field

from keeperd.api import (
    JSON,
    Component,
    Context,
    Detector,
    Options,
    PluginError,
    Signal,
    Statistics,
    Term,
    Window,
    hookimpl,
)

if TYPE_CHECKING:
    from keeperd_plugins import _reference

LEAST_ROWS = 20


class TwoSampleOptions(Options):
    """Options of the two-sample detector."""

    alpha: float = Field(0.01, gt=0.0, lt=0.5, description="chance of a false alarm of one check")
    rows: int = Field(1000, ge=50, le=2000, description="most rows of each window that are compared")
    permutations: int = Field(1999, ge=199, le=20_000, description="random splits that a p-value rests on")
    least_auc: float = Field(
        0.52, ge=0.5, le=1.0, description="a smaller difference is told but does not count as drift"
    )


@dataclass(frozen=True)
class Verdict:
    """Of one test of the text: p-values by rows and by days, and how well the windows can be told
    apart, beside the same figure for parts of the reference."""

    by_rows: float
    by_days: float | None
    auc: float
    usual: float
    spread: float
    typical: tuple[int, ...]

    @property
    def p(self) -> float:
        """Both tests must find drift."""
        return max(self.by_rows, self.by_days or 0.0)


class TwoSampleDetector(Detector[TwoSampleOptions]):
    """Compares texts by n-grams and, where there are any, the champion's embeddings; besides the
    champion's answers, its confidence, and labels. Warns when the format of texts changes."""

    name = "two-sample"
    Options = TwoSampleOptions

    def fit(self, reference: Window, context: Context) -> Statistics:
        """See `Detector.fit`. What is kept holds no text: hashed counts, term frequencies, figures."""
        from keeperd_plugins import _reference

        if len(reference) < LEAST_ROWS:
            raise PluginError(
                f"two-sample: a reference window of {len(reference)} rows says too little; give it {LEAST_ROWS}"
            )
        return _reference.fit(self._sample(reference, context.seed), context.seed).statistics()

    def detect(
        self, statistics: Statistics, window: Window, state: JSON, context: Context
    ) -> tuple[list[Signal], JSON]:
        """See `Detector.detect`. Each check stands alone: no state is kept."""
        from keeperd_plugins import _reference, _sentinels

        if not len(window):
            raise PluginError("two-sample: the window is empty; wait for rows")
        reference = _reference.load(statistics)
        sample = self._sample(window, context.seed)
        others = self._answers(reference, sample, context)
        level = self.options.alpha / 2 if others else self.options.alpha
        verdict = _test_text(reference, sample, self._permutations(level), context.seed)
        warnings, figures = _sentinels.look(reference.usual(sample), sample.texts, self.options.alpha)
        text = _text_signal(reference, sample, verdict, level, self.options.least_auc)
        text = replace(text, facts={**text.facts, "sentinels": figures, "rows": len(window)})
        return [text, *others, *warnings], state

    def _sample(self, window: Window, seed: int) -> Window:
        """At most `rows` rows, drawn fairly, in an order that does not depend on theirs."""
        from keeperd_plugins import _ngrams

        return window.take(_ngrams.canonical_order(window.texts, window.ids, seed)[: self.options.rows])

    def _permutations(self, level: float) -> int:
        """As many as configured, but never so few that no p-value could reach the level."""
        return max(self.options.permutations, min(math.ceil(2 / level), 20_000))

    def _answers(self, reference: _reference.Reference, sample: Window, context: Context) -> list[Signal]:
        """Signals of answers, confidence and labels. They share one half of alpha, the text has the
        other: together they keep the chance of a false alarm (Bonferroni)."""
        from keeperd_plugins import _shares

        blocks = reference.blocks_in(sample)

        def level(name: str, number: int, rows: int) -> _shares.Level:
            inflation, freedom = reference.inflation(name, rows, blocks)
            alpha = self.options.alpha / 2 / max(number, 1)
            return _shares.Level(alpha, self._permutations(alpha), context.seed, inflation, freedom)

        labels = [label for label in sample.labels if label is not None]
        by_label = reference.values["labels"]
        have_labels = min(len(labels), sum(by_label.values())) >= _shares.LEAST
        confidences = reference.arrays.get("confidence")
        have_answers = confidences is not None and sample.logits is not None
        number = have_labels + 2 * have_answers
        found: list[Signal | None] = []
        if sample.logits is not None and confidences is not None:
            answers, rows = _shares.answers(sample.logits, sample.classes), len(sample)
            found = [
                _shares.compare(
                    "predicted labels", reference.values["answers"], answers, level("answers", number, rows),
                    what="champion's answers",
                ),
                _shares.compare_confidence(
                    confidences, _shares.confidence(sample.logits), level("confidence", number, rows)
                ),
            ]  # fmt: skip
        if have_labels:
            rule = level("labels", number, len(labels))
            found.append(_shares.compare("labels", by_label, labels, rule, what="labels"))
        return [signal for signal in found if signal is not None]


def _test_text(reference: _reference.Reference, sample: Window, permutations: int, seed: int) -> Verdict:
    """The classifier test of the sample against the reference, by rows and by days."""
    import numpy as np
    from scipy import sparse

    from keeperd_plugins import _ngrams, _permutation

    counts = _ngrams.count(sample.texts)
    both = sparse.vstack([reference.counts, counts]).tocsr()
    embeddings = reference.embeddings_beside(sample)
    m, n = reference.counts.shape[0], len(sample)
    usual, spread = reference.values["usual_auc"], reference.values["usual_auc_spread"]
    kernel = _ngrams.kernel(both, embeddings)
    if kernel is None:
        return Verdict(1.0, None, 0.5, usual, spread, ())
    smoother = _permutation.smoother(kernel)
    members = _permutation.splits(m, n, permutations, seed)
    scores = smoother.left_out(members)
    by_rows = _permutation.p_value(_permutation.margins(scores, members))
    auc = max(_permutation.auc(scores[0], members[0] > 0), 0.5)
    typical = tuple(np.argsort(-scores[0, m:], kind="stable").tolist())
    return Verdict(by_rows, reference.p_by_days(counts, sample), auc, usual, spread, typical)


def _text_signal(
    reference: _reference.Reference, sample: Window, verdict: Verdict, level: float, least_auc: float
) -> Signal:
    real = verdict.p <= level
    drifted = real and verdict.auc >= least_auc
    large = verdict.auc > verdict.usual + 3 * verdict.spread
    words = _words(reference, sample) if drifted else ()
    figures = f"AUC {verdict.auc:.2f}, usually {verdict.usual:.2f}; p = {verdict.p:.2g}"
    if drifted and large:
        summary = f"The text is different from the reference ({figures})."
    elif drifted:
        summary = f"The text is different from the reference: a small but real change ({figures})."
    elif real:
        summary = f"The text differs from the reference, but so little that it does not count ({figures})."
    elif verdict.by_rows <= level:
        summary = (
            f"The text differs from the reference no more than its days differ among themselves ({figures})."
        )
    else:
        summary = f"The text is like the reference ({figures})."
    return Signal(
        name="text",
        drifted=drifted,
        summary=summary,
        p_value=verdict.p,
        effect=verdict.auc,
        effect_unit="AUC",
        baseline=verdict.usual,
        words=words,
        facts={
            "p_by_rows": verdict.by_rows,
            "p_by_days": verdict.by_days,
            "calibrated_on": "days" if verdict.by_days is not None else "rows",
            "large": large,
            "examples": _typical(sample, verdict.typical) if drifted else [],
        },
    )


def _typical(sample: Window, rows: tuple[int, ...], most: int = 5) -> list[str]:
    """Ids of rows least like the reference, each text once."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(sample.texts[row], sample.ids[row])
    return list(first.values())[:most]


def _words(reference: _reference.Reference, sample: Window) -> tuple[Term, ...]:
    from keeperd_plugins import _ngrams, _terms

    documents = [_terms.terms(_ngrams.cut(text)) for text in sample.texts]
    return _terms.changed(documents, reference.known_terms())


@hookimpl
def keeperd_components() -> Iterable[type[Component[TwoSampleOptions]]]:
    """The component of this plugin."""
    return [TwoSampleDetector]
