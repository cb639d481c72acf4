"""The rows of one intake on their way to a batch: texts on disk, what decides about them in memory.

A row costs about 160 bytes of memory here, however long its text is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from keeperd.api import Row
from keeperd.intake import fingerprint
from keeperd.intake.fingerprint import Bands, Hashes
from keeperd.intake.similar import Texts

CHUNK_ROWS = 4096
CHUNK_CHARACTERS = 4_000_000
NO_LABEL = -1

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("source", pa.string()),
    ]
)


_KINDS = (np.uint64, np.int32, np.int32, np.int64, bool, bool)


class Labels:
    """Labels as small numbers, in the order in which they were first seen."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, label: str | None) -> int:
        """The number of a label, `NO_LABEL` for None."""
        if label is None:
            return NO_LABEL
        code = self._codes.setdefault(label, len(self.names))
        if code == len(self.names):
            self.names.append(label)
        return code

    def name(self, code: int) -> str | None:
        """The label of a number."""
        return None if code == NO_LABEL else self.names[code]


class Spool:
    """Rows in the order of arrival. After `finish`, every array has one entry a row.

    Attributes:
        hashes: of the folded text; 0 for a late label, which has none.
        bands: sketches of the texts.
        labels: label numbers, see `vocabulary`.
        files, numbers: which file a row is from (as the caller counts them), and which row of it.
        has_text: False for a late label, a row with id and label alone.
        named: True where the row came with an id of its own.
        forgotten: rows of files that were refused after all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.vocabulary = Labels()
        self.count = 0
        self._writer = pa.ipc.new_file(str(path), SCHEMA)
        self._parts: list[tuple[npt.NDArray[Any], ...]] = [tuple(np.zeros(0, kind) for kind in _KINDS)]
        self._bands: list[Bands] = [fingerprint.sketch([])]
        self._forgotten: list[tuple[int, int]] = []
        self._begin()

    def _begin(self) -> None:
        self._columns: tuple[
            list[str | None], list[str], list[str | None], list[datetime | None], list[str | None]
        ]
        self._columns = ([], [], [], [], [])
        self._facts: list[tuple[int, int, int, int, bool, bool]] = []
        self._folded: list[str] = []
        self._characters = 0

    def add(self, row: Row, file: int, number: int) -> str:
        """Take a row; returns why it was not taken, or ""."""
        folded = fingerprint.fold(row.text)
        if not folded and row.text:
            return "no visible text"
        sha, value = fingerprint.digest(folded) if folded else (None, 0)
        ids, texts, labels, times, sources = self._columns
        ids.append(row.id or sha)
        texts.append(row.text)
        labels.append(row.label)
        times.append(row.time)
        sources.append(row.source)
        label = self.vocabulary.code(row.label)
        self._facts.append((value, label, file, number, bool(folded), row.id is not None))
        self._folded.append(folded)
        self._characters += len(row.text)
        self.count += 1
        if len(texts) >= CHUNK_ROWS or self._characters >= CHUNK_CHARACTERS:
            self._flush()
        return ""

    def forget_since(self, count: int) -> None:
        """Drop the rows that were taken since the spool held `count` rows."""
        self._forgotten.append((count, self.count))

    def _flush(self) -> None:
        arrays = [pa.array(column, field.type) for column, field in zip(self._columns, SCHEMA, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
        facts = zip(*self._facts, strict=True)
        self._parts.append(tuple(np.array(fact, kind) for fact, kind in zip(facts, _KINDS, strict=True)))
        self._bands.append(fingerprint.sketch(self._folded))
        self._begin()

    def finish(self) -> None:
        """No more rows: write out the last ones and make the arrays."""
        if self._facts:
            self._flush()
        self._writer.close()
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        self.hashes: Hashes = columns[0]
        self.labels: npt.NDArray[np.int32] = columns[1]
        self.files: npt.NDArray[np.int32] = columns[2]
        self.numbers: npt.NDArray[np.int64] = columns[3]
        self.has_text: npt.NDArray[np.bool_] = columns[4]
        self.named: npt.NDArray[np.bool_] = columns[5]
        self.bands = np.concatenate(self._bands)
        self.forgotten = np.zeros(self.count, bool)
        for first, end in self._forgotten:
            self.forgotten[first:end] = True
        self._parts, self._bands = [], []

    def chunks(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows as tables with `SCHEMA`, each with the place of its first row."""
        with pa.memory_map(str(self.path)) as source:
            reader = pa.ipc.open_file(source)
            first = 0
            for index in range(reader.num_record_batches):
                chunk = reader.get_batch(index)
                yield first, chunk
                first += chunk.num_rows

    @contextmanager
    def texts(self, rows: npt.NDArray[np.int64]) -> Iterator[Texts]:
        """The texts of these rows, read from disk as they are needed."""
        with pa.memory_map(str(self.path)) as source:
            yield Texts(self.bands[rows], pa.ipc.open_file(source).read_all().column("text"), rows)

    def ids(self, rows: Sequence[int]) -> list[str]:
        """The ids of these rows."""
        column = pa.chunked_array([chunk.column("id") for _, chunk in self.chunks()], pa.string())
        ids: list[str] = column.take(pa.array(rows, pa.int64())).to_pylist()
        return ids

    def first_with(self, ids: set[str], among: npt.NDArray[np.bool_]) -> dict[str, int]:
        """For each id, the first row that has it and is flagged in `among`."""
        found: dict[str, int] = {}
        wanted = pa.array(sorted(ids), pa.string())
        for first, chunk in self.chunks() if ids else ():
            column = chunk.column("id")
            hits = (
                pc.is_in(column, wanted).to_numpy(zero_copy_only=False) & among[first : first + len(column)]
            )
            for place in np.flatnonzero(hits).tolist():
                found.setdefault(column[place].as_py(), first + place)
        return found

    def remove(self) -> None:
        """Delete the file; safe to call at any time."""
        self.path.unlink(missing_ok=True)
        self._writer.close()
