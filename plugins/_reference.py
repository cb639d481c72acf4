"""What the n-gram detector keeps of a reference window, and how it is stored: arrays and plain values,
no text, about 3 MB for 1000 rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from keeperd.api import JSON, PluginError, Statistics, Window
from keeperd_plugins import _blocks, _ngrams, _permutation, _sentinels, _shares, _terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

SKETCH = 256
PARTS = 20
"""Random parts of a reference without dates that show how well parts of it can be told from the rest."""
WIDEST = 1024
"""Wider embeddings are cut to their first columns, so that the statistics stay small."""


@dataclass(frozen=True)
class Reference:
    """A fitted reference window, of m rows.

    Attributes:
        counts: uint8 (m, columns) hashed n-grams.
        arrays, values: the rest, see `fit`.
    """

    counts: Any
    arrays: Mapping[str, NDArray[Any]]
    values: Mapping[str, JSON]

    def statistics(self) -> Statistics:
        """As it is stored."""
        arrays = {
            "counts": self.counts.data,
            "columns": self.counts.indices.astype(np.uint16),
            "starts": self.counts.indptr.astype(np.int32),
            **self.arrays,
        }
        return Statistics(arrays, self.values)

    def usual(self, sample: Window) -> _sentinels.Usual:
        """For the format sentinels of this sample."""
        rows, blocks = len(sample), self.blocks_in(sample)
        return _sentinels.Usual(
            self.arrays["descriptors"],
            self.arrays["digests"],
            self.arrays["characters"],
            self.values["odd"],
            tuple(self.inflation(name, rows, blocks)[0] for name in _sentinels.DESCRIPTORS),
        )

    def known_terms(self) -> _terms.Known:
        """Document frequencies of the reference's terms."""
        terms = bytes(self.arrays["terms"]).decode("utf-8").split("\n")
        counts = dict(zip(terms, self.arrays["term_counts"].tolist(), strict=True)) if terms != [""] else {}
        return _terms.Known(counts, self.counts.shape[0], self.values["term_floor"])

    def embeddings_beside(self, sample: Window) -> NDArray[np.float32] | None:
        """Embeddings of reference and sample, float32 (m + n, d), where both have them."""
        before, now = self.arrays.get("embeddings"), _embeddings(sample)
        if before is None or now is None:
            return None
        if before.shape[1] != now.shape[1]:
            raise PluginError(
                f"two-sample: the reference has embeddings of {before.shape[1]} numbers, the window of"
                f" {now.shape[1]}: another encoder; fit the detector again"
            )
        return np.vstack([before, now]).astype(np.float32)

    def blocks_in(self, sample: Window) -> float:
        """How many blocks, of the size that the reference has, a sample spans; at least 1."""
        return max(_blocks.days(sample.times) / self.values["days_each"], 1.0) if self.dated else 1.0

    @property
    def dated(self) -> bool:
        """True where the reference has enough days to know how days differ."""
        return "means" in self.arrays

    def inflation(self, name: str, rows: int, blocks: float) -> tuple[float, int]:
        """Design effect of what is compared under this name ("answers", "labels", "confidence" or a
        sentinel's), and its degrees of freedom; (1, 0) without dates."""
        if not self.dated or name not in self.values["alike"]:
            return 1.0, 0
        own = len(self.arrays["means"])
        alike = self.values["alike"][name]
        before = sum(self.values["labels"].values()) if name == "labels" else self.counts.shape[0]
        return _blocks.inflation(alike, rows, blocks, before, own), own - 1

    def p_by_days(self, counts: Any, sample: Window) -> float | None:
        """Probability that a further stretch of the reference would lie as far from it as this
        sample; None without dates."""
        if not self.dated:
            return None
        model = _blocks.BlockModel(self.arrays["means"], self.arrays["sizes"], self.arrays["within"])
        axes = _blocks.Axes(self.arrays["centre"], self.arrays["directions"])
        embeddings = _embeddings(sample) if "embeddings" in self.arrays else None
        rows = axes.project(_dense(counts, embeddings, self.values["seed"]))
        score = model.score(rows.mean(0), len(sample), self.blocks_in(sample))
        return _blocks.p_of_score(score, self.arrays["own_scores"])


def fit(sample: Window, seed: int) -> Reference:
    """Everything of a sample of the reference that `detect` needs.

    Arrays: "embeddings" float16 (m, d), "descriptors" (m, 3), "digests" uint64 (m,), "characters",
    "terms" (UTF-8, one a line), "term_counts", "confidence" (m,); with dates also those of
    `_blocks.Axes` and `_blocks.BlockModel`, and "own_scores".
    """
    counts = _ngrams.count(sample.texts)
    known = _terms.known([_terms.terms(_ngrams.cut(text)) for text in sample.texts])
    signs, odd = _sentinels.characters(sample.texts)
    arrays: dict[str, NDArray[Any]] = {
        "descriptors": _sentinels.describe(sample.texts),
        "digests": _sentinels.digests(sample.texts),
        "characters": signs,
        "terms": np.frombuffer("\n".join(known.counts).encode("utf-8"), np.uint8),
        "term_counts": np.array(list(known.counts.values()), np.int32),
    }
    answers: list[str] = []
    if (embeddings := _embeddings(sample)) is not None:
        arrays["embeddings"] = embeddings
    if sample.logits is not None:
        arrays["confidence"] = _shares.confidence(sample.logits)
        answers = _shares.answers(sample.logits, sample.classes)
    split = _blocks.by_day(sample.times)
    values: dict[str, JSON] = {
        "features": _ngrams.SPECIFICATION,
        "seed": seed,
        "odd": odd,
        "term_floor": known.floor,
        "answers": dict(Counter(answers)),
        "labels": dict(Counter(label for label in sample.labels if label is not None)),
        "alike": {},
        "days_each": 1.0,
    }
    if split is not None:
        values["alike"] = _alike(sample, arrays, answers, split)
        values["days_each"] = split.days_each
        arrays |= _block_arrays(_dense(counts, embeddings, seed), split)
    values["usual_auc"], values["usual_auc_spread"] = _usual_auc(counts, embeddings, split, seed)
    return Reference(counts, arrays, values)


def load(statistics: Statistics) -> Reference:
    """What was stored.

    Raises:
        PluginError: another release of the detector has fitted it.
    """
    values, arrays = statistics.values, dict(statistics.arrays)
    if values.get("features") != _ngrams.SPECIFICATION:
        raise PluginError("two-sample: the reference was fitted with other features; fit the detector again")
    parts = arrays.pop("counts"), arrays.pop("columns").astype(np.int32), arrays.pop("starts")
    counts = sparse.csr_matrix(parts, shape=(len(parts[2]) - 1, 2 * _ngrams.COLUMNS))
    return Reference(counts, arrays, values)


def _embeddings(sample: Window) -> NDArray[np.float16] | None:
    """Directions of the embeddings; both windows are rounded alike."""
    if sample.embeddings is None:
        return None
    rows = np.nan_to_num(np.asarray(sample.embeddings[:, :WIDEST], np.float32))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), np.float16)


def _dense(counts: Any, embeddings: NDArray[np.float16] | None, seed: int) -> NDArray[np.float32]:
    """Sketched n-grams and embeddings side by side, both of length one."""
    rows = _ngrams.sketch(_ngrams.features(counts), SKETCH, seed)
    return rows if embeddings is None else np.hstack([rows, embeddings.astype(np.float32)])


def _block_arrays(rows: NDArray[np.float32], split: _blocks.Split) -> dict[str, NDArray[Any]]:
    axes = _blocks.axes(rows)
    model = _blocks.block_model(axes.project(rows), split)
    return {
        "centre": axes.centre,
        "directions": axes.directions,
        "means": model.means,
        "sizes": model.sizes,
        "within": model.within,
        "own_scores": model.own_scores(),
    }


def _alike(
    sample: Window, arrays: Mapping[str, NDArray[Any]], answers: list[str], split: _blocks.Split
) -> dict[str, float]:
    """Intraclass correlation of each descriptor (by rank), of answers, labels and confidence."""
    from scipy.stats import rankdata

    ranks = {name: arrays["descriptors"][:, i] for i, name in enumerate(_sentinels.DESCRIPTORS)}
    if "confidence" in arrays:
        ranks["confidence"] = arrays["confidence"]
    found = {name: _blocks.intraclass(rankdata(column)[:, None], split) for name, column in ranks.items()}
    if answers:
        found["answers"] = _blocks.intraclass(_indicators(answers), split)
    labelled = [row for row, label in enumerate(sample.labels) if label is not None]
    if labelled:
        labels = _indicators([str(sample.labels[row]) for row in labelled])
        found["labels"] = _blocks.intraclass(labels, replace(split, block=split.block[labelled]))
    return found


def _indicators(names: list[str]) -> NDArray[np.float64]:
    """(n, classes) of 0 and 1."""
    classes, codes = np.unique(np.array(names), return_inverse=True)
    return np.asarray(np.eye(len(classes))[codes], np.float64)


def _usual_auc(
    counts: Any, embeddings: NDArray[np.float16] | None, split: _blocks.Split | None, seed: int
) -> tuple[float, float]:
    """How well parts of the reference can be told from the rest of it, mean and standard deviation:
    blocks of days where there are dates, random parts else."""
    kernel = _ngrams.kernel(counts, None if embeddings is None else embeddings.astype(np.float32))
    if kernel is None:
        return 0.5, 0.0
    rows = counts.shape[0]
    if split is not None:
        members = (split.block == np.arange(split.count)[:, None]).astype(np.float32)
    else:
        members = _permutation.splits(rows - rows // 3, rows // 3, PARTS, seed)[1:]
    scores = _permutation.smoother(kernel).left_out(members)
    found = [_permutation.auc(one, part > 0) for one, part in zip(scores, members, strict=True)]
    return float(np.mean(found)), float(np.std(found, ddof=1))
