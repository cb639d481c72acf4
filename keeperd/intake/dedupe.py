"""Which rows of an intake are new, and where a label belongs that comes late.

Rows are judged in their order: against rows that training must never see, against rows of earlier
batches, and against the rows before them. Only numbers are looked at here: hashes of texts and
label numbers (see `spool.Spool`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np

from keeperd.intake.similar import Places
from keeperd.intake.spool import NO_LABEL, Spool

EARLIER = -1
"""Stands for a row of an earlier batch, where otherwise a row of this intake is named."""


class Fate(IntEnum):
    """What becomes of a row."""

    KEPT = 0
    REFUSED = 1  # with its file
    DUPLICATE = 2
    NEAR_DUPLICATE = 3
    LEAK = 4  # like a golden or holdout row
    JOINED = 5  # its label went to another row
    CONFLICT = 6  # its text has another label already
    UNKNOWN_ID = 7  # a late label that belongs to no row


class Dedupe:
    """The fates of the rows of one intake; call the methods in the order in which they stand.

    Attributes:
        fates: a `Fate` a row.
        labels: label numbers, with late labels filled in.
        late: how many labels came late and found their text.
        against: row -> the label number that its own contradicts.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.labels = spool.labels.copy()
        self.fates = np.where(spool.forgotten, Fate.REFUSED, Fate.KEPT).astype(np.int8)
        self.late = 0
        self.against: dict[int, int] = {}
        # Of every text that is told of more than once: the row that has it, and its label.
        self._owner: dict[int, int] = {}
        self._label: dict[int, int] = {}
        self._brought: list[int] = []
        self._in_hash_order: Places | None = None

    def texts(self) -> Places:
        """The rows with a text that are still kept."""
        return np.flatnonzero(self._spool.has_text & (self.fates == Fate.KEPT))

    def drop_leaks(self, rows: Places) -> None:
        """Drop these rows: training must not see them."""
        self.fates[rows] = Fate.LEAK

    def drop_duplicates(self, earlier: Mapping[int, int]) -> None:
        """Drop rows whose text was there before, and give a label that comes late to its text.

        Args:
            earlier: text hash -> label number, of texts of this intake that earlier batches have.
        """
        rows = self.texts()
        hashes = self._spool.hashes[rows]
        _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        known = np.isin(hashes, np.fromiter(earlier, np.uint64, len(earlier)))
        for row in rows[(counts[inverse] > 1) | known].tolist():
            text = int(self._spool.hashes[row])
            if text not in self._owner and text not in earlier:
                self._owner[text], self._label[text] = row, int(self.labels[row])
                continue
            if text not in self._owner:
                self._owner[text], self._label[text] = EARLIER, earlier[text]
            if self._is_news(row, text):
                if self._owner[text] == EARLIER:
                    self._owner[text] = row  # stays: the batch gets the text with its label
                    self._brought.append(row)
                else:
                    self._give_label(row, text)

    def _is_news(self, row: int, text: int) -> bool:
        """True where the row's label is the first of this text; otherwise the row is dropped."""
        label, known = int(self._spool.labels[row]), self._label[text]
        if label in (NO_LABEL, known):
            self.fates[row] = Fate.DUPLICATE
        elif known != NO_LABEL:
            self.fates[row] = Fate.CONFLICT
            self.against[row] = known
        else:
            self._label[text] = label
            self.late += 1
            return True
        return False

    def _give_label(self, row: int, text: int) -> None:
        self.labels[self._owner[text]] = self._label[text]
        self.fates[row] = Fate.JOINED

    def not_brought(self) -> Places:
        """The rows to be looked at for near duplicates: all that are kept but those that bring the
        label of an earlier batch's text, which they are like, of course."""
        rows = self.texts()
        return rows[~np.isin(rows, np.array(self._brought, np.int64))]

    def drop_near_duplicates(self, rows: Places) -> Places:
        """Drop these rows, which are nearly an earlier row or a row before them.

        Returns:
            those of them that have a label and an id: perhaps late labels for an edited text.
        """
        self.fates[rows] = Fate.NEAR_DUPLICATE
        labelled: Places = rows[(self.labels[rows] != NO_LABEL) & self._spool.named[rows]]
        return labelled

    def late_labels(self) -> Places:
        """The rows with id and label alone."""
        return np.flatnonzero(~self._spool.has_text & (self.fates == Fate.KEPT))

    def label_row(self, row: int, target: int) -> None:
        """Give the label of `row` to the row of this intake that has its id."""
        if self.fates[target] in (Fate.LEAK, Fate.NEAR_DUPLICATE):
            self.fates[row] = self.fates[target]
            return
        text = int(self._spool.hashes[target])
        if text not in self._owner:
            self._owner[text], self._label[text] = target, int(self.labels[target])
        if self._is_news(row, text):
            if self._owner[text] == EARLIER:  # so the target was dropped as a duplicate
                self._owner[text] = target
                self.fates[target] = Fate.KEPT
            self._give_label(row, text)

    def label_earlier(self, row: int, text: int, label: int) -> bool:
        """Give the label of `row` to the row of an earlier batch that has its id.

        Args:
            text: that row's text hash.
            label: that row's label number.

        Returns:
            True where that row must be added to this batch, with the label of `row`.
        """
        if text not in self._owner:
            here = self._row_with(text)
            self._owner[text] = here
            self._label[text] = label if here == EARLIER else int(self.labels[here])
        if not self._is_news(row, text):
            return False
        if self._owner[text] == EARLIER:
            self.fates[row] = Fate.JOINED
            return True
        self._give_label(row, text)
        return False

    def _row_with(self, text: int) -> int:
        """The kept row of this intake with this text, or EARLIER. It need not have been met before:
        only the newest of the earlier batches were compared."""
        if self._in_hash_order is None:
            self._in_hash_order = np.argsort(self._spool.hashes, kind="stable")
        order = self._in_hash_order
        place = int(np.searchsorted(self._spool.hashes, np.uint64(text), sorter=order))
        while place < len(order) and self._spool.hashes[order[place]] == text:
            if self.fates[order[place]] == Fate.KEPT and self._spool.has_text[order[place]]:
                return int(order[place])
            place += 1
        return EARLIER

    def drop_unknown(self, row: int) -> None:
        """Drop a late label whose id no row has; a near duplicate with such an id is just that."""
        if not self._spool.has_text[row]:
            self.fates[row] = Fate.UNKNOWN_ID
