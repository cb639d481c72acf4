"""The order in which rows are compared: with what is protected, with earlier batches, with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keeperd import earlier, fingerprint
from keeperd.api import Context
from keeperd.config import Intake
from keeperd.dedupe import Dedupe
from keeperd.earlier import EarlierRow
from keeperd.fingerprint import Bands, Hashes
from keeperd.intake_take import look_up
from keeperd.similar import Flags, like_any
from keeperd.spool import Spool

LEAK_SIMILARITY = 0.9
"""Golden and holdout rows are kept out at this Jaccard similarity, or below where duplicates are."""


@dataclass(frozen=True)
class Protected:
    """Rows that must never be trained on: golden and holdout rows, by the hashes of their folded
    texts and by their sketches."""

    hashes: Hashes
    bands: Bands

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> Protected:
        """Computed from the texts, as sketches in old files may be of another kind."""
        folded = [fingerprint.fold(text) for text in texts]
        hashes = np.array([fingerprint.digest(text)[1] for text in folded], np.uint64)
        return cls(hashes, fingerprint.sketch(folded))

    def match(self, hashes: Hashes, bands: Bands, needed: int) -> Flags:
        """For each row, whether it is or nearly is one of these."""
        return np.isin(hashes, self.hashes) | like_any(self.bands, bands, needed)


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
    texts = dedupe.texts()
    leak_needed = fingerprint.needed(min(settings.near_duplicates, LEAK_SIMILARITY))
    look_up(context)
    dedupe.drop_leaks(texts[protected.match(spool.hashes[texts], spool.bands[texts], leak_needed)])
    dedupe.drop_duplicates(earlier.known_texts(newest, spool.hashes[dedupe.texts()], spool.vocabulary))
    look_up(context)
    labelled = np.zeros(0, np.int64)
    if settings.near_duplicates < 1.0:
        needed = fingerprint.needed(settings.near_duplicates)
        candidates = dedupe.not_brought()
        bands = earlier.similar_rows(newest, spool.bands[candidates], needed)
        look_up(context)
        labelled = dedupe.drop_near_duplicates(candidates, bands, needed)
    look_up(context)
    pending = np.concatenate([dedupe.late_labels(), labelled])
    return dedupe, _join(spool, dedupe, pending.tolist(), batches, protected, leak_needed)


def _join(
    spool: Spool,
    dedupe: Dedupe,
    pending: list[int],
    batches: Sequence[Path],
    protected: Protected,
    needed: int,
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
    secret = Protected.of_texts([each.text for each in found.values()])
    leaks = dict(zip(found, protected.match(secret.hashes, secret.bands, needed).tolist(), strict=True))
    joined = []
    for row, identity in elsewhere:
        if identity not in found:
            dedupe.drop_unknown(row)
        elif leaks[identity]:
            dedupe.drop_leaks(np.array([row]))
        elif dedupe.label_earlier(row, found[identity].hash, spool.vocabulary.code(found[identity].label)):
            joined.append(Joined(row, found[identity]))
    return joined
