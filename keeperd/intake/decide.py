"""The order in which rows are compared: with what is protected, with earlier batches, with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keeperd.api import Context
from keeperd.config import Intake
from keeperd.intake import earlier, fingerprint
from keeperd.intake.dedupe import Dedupe
from keeperd.intake.earlier import EarlierRow
from keeperd.intake.fingerprint import Hashes
from keeperd.intake.similar import Flags, Places, Texts, like_any, like_before
from keeperd.intake.spool import Spool
from keeperd.intake.take import look_up

LEAK_SIMILARITY = 0.9
"""Golden and holdout rows are kept out at this Jaccard similarity, or below where duplicates are."""


class Protected:
    """Rows that must never be trained on: golden and holdout rows."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = Texts.of(list(texts))
        folded = map(fingerprint.fold, texts)
        self._hashes = np.array([fingerprint.digest(text)[1] for text in folded], np.uint64)

    def match(self, hashes: Hashes, texts: Texts, similarity: float) -> Flags:
        """For each of the texts, whether it is or nearly is one of these."""
        return np.isin(hashes, self._hashes) | like_any(self._texts, texts, similarity)


@dataclass(frozen=True)
class Joined:
    """A label that came late for a row of an earlier batch: the row that brought it, its number in
    the spool, and the earlier row."""

    row: int
    earlier: EarlierRow


def decide(
    spool: Spool, batches: Sequence[Path], protected: Protected, settings: Intake, context: Context
) -> tuple[Dedupe, list[Joined]]:
    """Judge every row of a finished spool.

    Args:
        batches: files of all earlier batches, oldest first.

    Returns:
        the rows' fates, and the rows of earlier batches that have got a label now.
    """
    dedupe = Dedupe(spool)
    newest = earlier.newest(batches, settings.dedupe_rows)
    leak_similarity = min(settings.near_duplicates, LEAK_SIMILARITY)
    look_up(context)
    rows = dedupe.texts()
    with spool.texts(rows) as texts:
        dedupe.drop_leaks(rows[protected.match(spool.hashes[rows], texts, leak_similarity)])
    look_up(context)
    dedupe.drop_duplicates(earlier.known_texts(newest, spool.hashes[dedupe.texts()], spool.vocabulary))
    look_up(context)
    near = _near_duplicates(spool, dedupe.not_brought(), newest, settings.near_duplicates, context)
    labelled = dedupe.drop_near_duplicates(near)
    pending = np.concatenate([dedupe.late_labels(), labelled])
    return dedupe, _join(spool, dedupe, pending.tolist(), batches, protected, leak_similarity)


def _near_duplicates(
    spool: Spool, rows: Places, batches: Sequence[Path], similarity: float, context: Context
) -> Places:
    """Those of the rows that are nearly a row of these batches, or one of the rows before them."""
    if similarity >= 1.0:
        return rows[:0]
    scratch = context.workdir / "earlier.arrow"
    with spool.texts(rows) as texts:
        with earlier.similar_texts(batches, texts.bands, similarity, scratch) as old:
            look_up(context)
            found = like_any(old, texts, similarity)
        look_up(context)
        return rows[like_before(texts, similarity, found)]


def _join(
    spool: Spool,
    dedupe: Dedupe,
    pending: list[int],
    batches: Sequence[Path],
    protected: Protected,
    leak_similarity: float,
) -> list[Joined]:
    """Bring the labels of these rows to the rows with their ids, here or in earlier batches."""
    ids = spool.ids(pending)
    here = spool.first_with(set(ids), spool.has_text & ~spool.forgotten)
    elsewhere = []
    for row, identity in zip(pending, ids, strict=True):
        target = here.get(identity)
        if target is None or target == row:
            elsewhere.append((row, identity))
        else:
            dedupe.label_row(row, target)
    found = earlier.rows_by_id(batches[::-1], [identity for _, identity in elsewhere])
    hashes = np.array([each.hash for each in found.values()], np.uint64)
    texts = Texts.of([each.text for each in found.values()])
    leaks = dict(zip(found, protected.match(hashes, texts, leak_similarity).tolist(), strict=True))
    joined = []
    for row, identity in elsewhere:
        if identity not in found:
            dedupe.drop_unknown(row)
        elif leaks[identity]:
            dedupe.drop_leaks(np.array([row]))
        elif dedupe.label_earlier(row, found[identity].hash, spool.vocabulary.code(found[identity].label)):
            joined.append(Joined(row, found[identity]))
    return joined
