"""What the detectors of text keep of a reference window, and how it is stored: arrays and plain values, no
text, about 5 MB.

Two things are kept: a sample of rows, as hashed counts and embeddings, beside which a window's rows are laid
to see whether they can be told apart and by what; and, where the reference has dates, the means of its
blocks of days in each channel, which say how much days differ by themselves.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from keeperd.api import JSON, PluginError, Statistics, Window
from keeperd_plugins import _blocks, _channels, _ngrams, _permutation, _sentinels, _shares, _terms, _tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

SKETCH = 256
PARTS = 20
"""Random parts of a reference without dates that show how well parts of it can be told from the rest."""
WIDEST = 1024
"""Wider embeddings are cut to their first columns, so that the statistics stay small."""
TEXT, ANSWERS, LABELS = "text", "answers", "labels"


@dataclass(frozen=True)
class Reference:
    """A fitted reference window.

    Attributes:
        counts: uint8 (m, columns) hashed n-grams of the sample.
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

    @property
    def usual(self) -> _sentinels.Usual:
        """For the format sentinels."""
        return _sentinels.Usual.load(self.arrays)

    @property
    def known_terms(self) -> _terms.Known:
        """Document frequencies of the sample's terms."""
        return _terms.Known.load(self.arrays, self.values)

    @property
    def answers(self) -> list[str] | None:
        """The class that each row of the sample was answered with, or None."""
        classes = self.values["answer_classes"]
        numbers = self.arrays.get("answered")
        return None if numbers is None else [classes[number] for number in numbers.tolist()]

    @property
    def dated(self) -> bool:
        """True where the reference has enough days to know how days differ."""
        return self.channel(TEXT) is not None

    @property
    def blocks(self) -> int:
        """Blocks of days that the text has; 0 without dates."""
        channel = self.channel(TEXT)
        return 0 if channel is None else len(channel.model.means)

    @property
    def fingerprint(self) -> str:
        """Changes with the reference: a state that was gathered against another one is worth nothing."""
        channel = self.channel(TEXT)
        kept = self.counts.data if channel is None else channel.model.means
        return hashlib.sha256(np.ascontiguousarray(kept).tobytes()).hexdigest()[:16]

    def channel(self, name: str) -> _channels.Channel | None:
        """The blocks in this channel, or None."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, _channels.Channel | None]:
        return {name: _channels.Channel.of(self.arrays, name) for name in (TEXT, ANSWERS, LABELS)}

    def embeddings_of(self, sample: Window) -> NDArray[np.float16] | None:
        """Directions of a window's embeddings, where the reference has them too.

        Raises:
            PluginError: they are of another encoder.
        """
        before, now = self.arrays.get("embeddings"), _embeddings(sample)
        if before is None or now is None:
            return None
        if before.shape[1] != now.shape[1]:
            raise PluginError(
                f"the reference has embeddings of {before.shape[1]} numbers, the window of"
                f" {now.shape[1]}: another encoder; fit the detector again"
            )
        return now

    def beside(self, sample: Window) -> Floats | None:
        """Embeddings of the reference's sample and a window's rows, float32 (m + n, d), or None."""
        now = self.embeddings_of(sample)
        return None if now is None else np.vstack([self.arrays["embeddings"], now]).astype(np.float32)

    def text_features(self, sample: Window) -> Floats:
        """Of a window's rows (n, d), for the channel of the text."""
        embeddings = self.embeddings_of(sample)
        if embeddings is None and "embeddings" in self.arrays:
            raise PluginError("the reference has embeddings, the window has none; fit the detector again")
        return _dense(_ngrams.count(sample.texts), embeddings, self.values["seed"])

    def answer_features(self, sample: Window) -> Floats:
        """Of the champion's answers to a window's rows, for their channel."""
        return _answer_features(sample, self.values["answer_classes"])

    def label_features(self, labels: Sequence[str]) -> Floats:
        """Of labels, for their channel."""
        return _channels.classes(labels, sorted(self.values["labels"]))

    def blocks_in(self, sample: Window) -> float:
        """How many blocks, of the size that the reference has, a sample spans; at least 1."""
        channel = self.channel(TEXT)
        return 1.0 if channel is None else max(_blocks.days(sample.times) / channel.days_each, 1.0)

    def inflation(self, name: str, rows: int, blocks: float) -> tuple[float, int]:
        """Design effect of what is compared under this name ("answers", "labels" or "confidence"), and
        its degrees of freedom; (1, 0) without dates."""
        if name not in self.values["alike"]:
            return 1.0, 0
        before = sum(self.values["labels"].values()) if name == LABELS else self.values["rows"]
        effect = _blocks.inflation(self.values["alike"][name], rows, blocks, before, self.blocks)
        return effect, self.blocks - 1

    def p_by_days(self, sample: Window) -> float | None:
        """Probability that a further stretch of the reference would lie as far from it as this
        sample; None without dates."""
        channel = self.channel(TEXT)
        return None if channel is None else channel.p(self.text_features(sample), self.blocks_in(sample))


def fit(window: Window, rows: int, seed: int) -> Reference:
    """Everything that `detect` needs of a reference.

    Arrays: of a sample of `rows` rows "counts", "embeddings" float16 (m, d), "answered" (class numbers) and
    "confidence" (m,), and what `_terms` stores; of all rows, at most `_channels.MOST_IN_BLOCK` a block, what
    `_sentinels` and `_channels` store.
    """
    ordered = window.take(_ngrams.canonical_order(window.texts, window.ids, seed))
    split = _blocks.by_day(ordered.times)
    kept = _channels.first_rows(split, len(ordered))
    whole = ordered.take(kept.tolist())
    split = None if split is None else replace(split, block=split.block[kept])
    sample = ordered.take(range(min(rows, len(ordered))))
    counts = _ngrams.count(sample.texts)
    known = _terms.known(_tokens.read(sample.texts))
    arrays: dict[str, NDArray[Any]] = {
        **known.arrays(),
        **_sentinels.fit(whole.texts, split).arrays(),
    }
    values: dict[str, JSON] = {
        "features": _ngrams.SPECIFICATION,
        "seed": seed,
        "rows": len(whole),
        "days": _blocks.days(window.times),
        **known.values(),
        "ids": list(sample.ids),
        "labels": dict(Counter(label for label in whole.labels if label is not None)),
        "answers": {},
        "answer_classes": list(whole.classes),
        "alike": {},
    }
    if (embeddings := _embeddings(sample)) is not None:
        arrays["embeddings"] = embeddings
    if whole.logits is not None and whole.classes:
        assert sample.logits is not None  # noqa: S101 - the sample is of the same window
        arrays["confidence"] = _shares.confidence(sample.logits)
        arrays["answered"] = np.nan_to_num(sample.logits, nan=-np.inf).argmax(axis=1).astype(np.int32)
        values["answers"] = dict(Counter(_shares.answers(whole.logits, whole.classes)))
    if split is not None:
        values["alike"] = _alike(whole, split)
        arrays |= _block_arrays(whole, split, seed)
    values["usual_auc"], values["usual_auc_spread"] = _usual_auc(sample, counts, embeddings, seed)
    return Reference(counts, arrays, values)


def load(statistics: Statistics) -> Reference:
    """What was stored.

    Raises:
        PluginError: another release of the detector has fitted it.
    """
    values, arrays = statistics.values, dict(statistics.arrays)
    if values.get("features") != _ngrams.SPECIFICATION:
        raise PluginError("the reference was fitted with other features; fit the detector again")
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


def _dense(counts: Any, embeddings: NDArray[np.float16] | None, seed: int) -> Floats:
    """Sketched n-grams and embeddings side by side, both of length one."""
    rows = _ngrams.sketch(_ngrams.features(counts), SKETCH, seed)
    return rows if embeddings is None else np.hstack([rows, embeddings.astype(np.float32)])


def _answer_features(sample: Window, classes: Sequence[str]) -> Floats:
    assert sample.logits is not None  # noqa: S101 - asked only of windows with answers
    confidence = _shares.confidence(sample.logits)[:, None]
    return _channels.classes(_shares.answers(sample.logits, sample.classes), classes, confidence)


def _block_arrays(whole: Window, split: _blocks.Split, seed: int) -> dict[str, NDArray[Any]]:
    """The channels of the reference. Labels have blocks of their own: they may be few."""
    features = _dense(_ngrams.count(whole.texts), _embeddings(whole), seed)
    channels = {TEXT: _channels.fit(features, split)}
    if whole.logits is not None and whole.classes:
        channels[ANSWERS] = _channels.fit(_answer_features(whole, whole.classes), split)
    labelled = whole.labelled()
    names = [str(label) for label in labelled.labels]
    by_label = _blocks.by_day(labelled.times) if names else None
    channels[LABELS] = _channels.fit(_channels.classes(names, sorted(set(names))), by_label)
    found = [channel.arrays(name) for name, channel in channels.items() if channel is not None]
    return {key: array for arrays in found for key, array in arrays.items()}


def _alike(whole: Window, split: _blocks.Split) -> dict[str, float]:
    """Intraclass correlation of answers, labels and confidence (by rank)."""
    found: dict[str, float] = {}
    if whole.logits is not None and whole.classes:
        ranks = rankdata(_shares.confidence(whole.logits))[:, None]
        found["confidence"] = _blocks.intraclass(ranks, split)
        found[ANSWERS] = _blocks.intraclass(_indicators(_shares.answers(whole.logits, whole.classes)), split)
    labelled = [row for row, label in enumerate(whole.labels) if label is not None]
    if labelled:
        labels = _indicators([str(whole.labels[row]) for row in labelled])
        found[LABELS] = _blocks.intraclass(labels, replace(split, block=split.block[labelled]))
    return found


def _indicators(names: list[str]) -> NDArray[np.float64]:
    """(n, classes) of 0 and 1."""
    classes, codes = np.unique(np.array(names), return_inverse=True)
    return np.asarray(np.eye(len(classes))[codes], np.float64)


def _usual_auc(
    sample: Window, counts: Any, embeddings: NDArray[np.float16] | None, seed: int
) -> tuple[float, float]:
    """How well parts of the sample can be told from the rest of it, mean and standard deviation:
    blocks of days where there are dates, random parts else."""
    kernel = _ngrams.kernel(counts, None if embeddings is None else embeddings.astype(np.float32))
    if kernel is None:
        return 0.5, 0.0
    rows, split = counts.shape[0], _blocks.by_day(sample.times)
    if split is not None:
        members = (split.block == np.arange(split.count)[:, None]).astype(np.float32)
    else:
        members = _permutation.splits(rows - rows // 3, rows // 3, PARTS, seed)[1:]
    scores = _permutation.smoother(kernel).left_out(members)
    found = [_permutation.auc(one, part > 0) for one, part in zip(scores, members, strict=True)]
    return float(np.mean(found)), float(np.std(found, ddof=1))
