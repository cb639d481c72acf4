"""What an intake must know of earlier batches, read column by column, newest batch first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from keeperd.api import BadInputError
from keeperd.intake import fingerprint
from keeperd.intake.fingerprint import BANDS, RECIPE_KEY, Bands, Hashes
from keeperd.intake.similar import Overlap, Texts
from keeperd.intake.spool import NO_LABEL, Labels

CHUNK = 16_384


@dataclass(frozen=True)
class EarlierRow:
    """A row of an earlier batch."""

    id: str
    text: str
    label: str | None
    time: datetime | None
    source: str | None
    hash: int


def newest(batches: Sequence[Path], rows: int) -> list[Path]:
    """The newest batches, newest first, until they have this many rows.

    Args:
        batches: files, oldest first.

    Raises:
        BadInputError: one is missing or damaged.
    """
    chosen: list[Path] = []
    for path in reversed(batches):
        if rows <= 0:
            break
        chosen.append(path)
        try:
            rows -= pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise BadInputError(f"{path}: not a readable batch ({error}); run `keeperd verify`") from error
    return chosen


def _chunks(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(CHUNK, columns=list(columns), use_threads=False)


def known_texts(batches: Sequence[Path], hashes: Hashes, vocabulary: Labels) -> dict[int, int]:
    """Text hash -> label number, of those of `hashes` that the batches have. Where a text is there
    more than once, the newest label counts."""
    wanted = np.unique(hashes)
    known: dict[int, int] = {}
    for path in batches:
        here: dict[int, int] = {}
        for chunk in _chunks(path, ("hash", "label")):
            values = chunk.column("hash").to_numpy()
            hits = np.flatnonzero(np.isin(values, wanted))
            labels = chunk.column("label").take(pa.array(hits)).to_pylist()
            for value, label in zip(values[hits].tolist(), labels, strict=True):
                if label is not None or value not in here:
                    here[value] = vocabulary.code(label)
        for value, label in here.items():
            if known.get(value, NO_LABEL) == NO_LABEL:
                known[value] = label
    return known


@contextmanager
def similar_texts(batches: Sequence[Path], bands: Bands, similarity: float, scratch: Path) -> Iterator[Texts]:
    """The batches' texts, without those that can be no near duplicate of texts with these `bands`.

    Args:
        scratch: a file to keep them in meanwhile.
    """
    overlap = Overlap(bands, similarity)
    schema = pa.schema([("text", pa.string())])
    parts = [fingerprint.sketch([])]
    try:
        with pa.ipc.new_file(str(scratch), schema) as writer:
            for path in batches:
                # Sketches of another kind are made anew.
                comparable = (pq.read_schema(path).metadata or {}).get(RECIPE_KEY) == fingerprint.recipe()
                for chunk in _chunks(path, ("text", "bands")):
                    made = _bands(chunk.column("bands")) if comparable else _sketched(chunk.column("text"))
                    shares = overlap.shares(made)
                    parts.append(made[shares])
                    texts = chunk.column("text").filter(pa.array(shares))
                    writer.write_batch(pa.record_batch([texts], schema=schema))
        with pa.memory_map(str(scratch)) as source:
            found = np.concatenate(parts)
            yield Texts(found, pa.ipc.open_file(source).read_all().column("text"), np.arange(len(found)))
    finally:
        scratch.unlink(missing_ok=True)


def _bands(column: pa.Array) -> Bands:
    values = column.flatten().to_numpy(zero_copy_only=False)
    bands: Bands = values.astype(np.uint32).reshape(-1, BANDS)
    return bands


def _sketched(texts: pa.Array) -> Bands:
    return fingerprint.sketch([fingerprint.fold(text) for text in texts.to_pylist()])


def rows_by_id(batches: Sequence[Path], ids: Sequence[str]) -> dict[str, EarlierRow]:
    """The newest row for each of the ids that the batches (newest first) have."""
    found: dict[str, EarlierRow] = {}
    missing = set(ids)
    for path in batches:
        if not missing:
            break
        wanted = pa.array(sorted(missing), pa.string())
        if not any(pc.any(pc.is_in(chunk.column("id"), wanted)).as_py() for chunk in _chunks(path, ("id",))):
            continue
        for chunk in _chunks(path, ("id", "text", "label", "time", "source", "hash")):
            hits = pa.table(chunk.filter(pc.is_in(chunk.column("id"), wanted)))
            found.update((row["id"], EarlierRow(**row)) for row in hits.to_pylist())
        missing -= found.keys()
    return found
