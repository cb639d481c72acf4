"""Watched folders -> one frozen, validated, deduplicated batch.

Files are copied and read one by one (`intake_take`), their rows wait on disk (`spool`) until all
are there and it is known which are new (`dedupe`), and then become one Parquet file
(`intake_batch`). Every file and row that is refused is written down with a reason. Nothing is
recorded in the ledger here: the daemon does that with the result.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from keeperd import config
from keeperd.api import JSON, BadInputError, BadRow, Context
from keeperd.folders import KnownFiles, Opener, Scan, UnreadableError, found_by_operator, scan
from keeperd.intake import batch as intake_batch
from keeperd.intake import fingerprint
from keeperd.intake.copy import copy
from keeperd.intake.decide import Joined, Protected, decide
from keeperd.intake.dedupe import Dedupe, Fate
from keeperd.intake.reading import FileRows, Load
from keeperd.intake.spool import NO_LABEL, Spool
from keeperd.intake.take import Quarantine, Taken, Taker, json_line, look_up, unpacked
from keeperd.rows import SCHEMA
from keeperd.versions import sha256_file

__all__ = [
    "FileRows",
    "KnownFiles",
    "Load",
    "Protected",
    "Scan",
    "found_by_operator",
    "freeze",
    "read_file",
    "scan",
]

READERS = ("text", "jsonl", "csv", "parquet")
MAX_TOLD = 1000
"""Most problems, and most labels, that a result names; the counts are complete."""


def freeze(
    found: Scan,
    *,
    settings: config.Intake,
    rows: FileRows,
    known: KnownFiles,
    batches: Sequence[Path],
    protected: Protected,
    out: Path,
    context: Context,
    sources: Mapping[str, str] | None = None,
) -> dict[str, JSON]:
    """Take these files, freeze what is new in them into `out`, and say what happened.

    Args:
        known: the ledger's files.
        batches: files of all earlier batches, oldest first.
        sources: watched folder -> what its rows have as their source, where they name none.
        out: gets batch.parquet (where a row is new), files.jsonl and quarantine.jsonl.

    Returns:
        the result of the intake job, see `jobs.intake`.

    Raises:
        Stopped: asked to stop; nothing in `out` counts.
        BadInputError: an earlier batch is missing or damaged.
    """
    spool = Spool(context.workdir / "rows.arrow")
    try:
        with Quarantine(out / "quarantine.jsonl") as quarantine:
            taken = Taker(settings, rows, known, spool, quarantine, context, sources or {}, 0.7).take_all(
                found.files
            )
            spool.finish()
            look_up(context)
            context.progress(0.7, "looking for duplicates")
            dedupe, joined = decide(spool, batches, protected, settings, context)
            _refuse_rows(spool, dedupe, taken, quarantine)
        look_up(context)
        context.progress(0.9, "writing the batch")
        return _write(spool, dedupe, joined, found, taken, settings.holdout, out)
    finally:
        spool.remove()


def _refuse_rows(spool: Spool, dedupe: Dedupe, taken: Taken, quarantine: Quarantine) -> None:
    """Write down the rows that turned out to be bad once all rows were there."""
    for row in np.flatnonzero(np.isin(dedupe.fates, (Fate.CONFLICT, Fate.UNKNOWN_ID))).tolist():
        reason = "label for an unknown id"
        if dedupe.fates[row] == Fate.CONFLICT:
            own = spool.vocabulary.name(int(spool.labels[row]))
            reason = f"label {own!r}, where it was {spool.vocabulary.name(dedupe.against[row])!r} before"
        taken.bad_rows += 1
        quarantine.add(taken.entries[spool.files[row]].file.path, int(spool.numbers[row]), reason)


def _write(
    spool: Spool, dedupe: Dedupe, joined: list[Joined], found: Scan, taken: Taken, holdout: float, out: Path
) -> dict[str, JSON]:
    kept = dedupe.fates == Fate.KEPT
    brought = np.array([each.row for each in joined], np.int64)

    def parts() -> Iterator[pa.Table]:
        yield from intake_batch.tables(spool, kept, dedupe.labels, holdout)
        if joined:
            labels = [str(spool.vocabulary.name(int(spool.labels[row]))) for row in brought]
            yield intake_batch.joined_table([each.earlier for each in joined], labels, holdout)

    batch = out / "batch.parquet"
    count = intake_batch.write(batch, parts())
    if count:
        _sync(batch)
    rows_of_file = np.bincount(spool.files[kept], minlength=len(taken.entries))
    np.add.at(rows_of_file, spool.files[brought], 1)
    _write_files(out / "files.jsonl", taken, rows_of_file.tolist())
    _sync(out / "quarantine.jsonl")

    labels = np.concatenate([dedupe.labels[kept], spool.labels[brought]])
    hashes = np.concatenate([spool.hashes[kept], np.array([each.earlier.hash for each in joined], np.uint64)])
    labelled = labels != NO_LABEL
    fates = np.bincount(dedupe.fates, minlength=len(Fate))
    files = dict.fromkeys(("accepted", "duplicate", "quarantined"), 0)
    for entry in taken.entries:
        files[entry.status] += 1
    problems = [*found.problems, *taken.problems]
    return {
        "batch": sha256_file(batch) if count else None,
        "rows": count,
        "labelled": int(labelled.sum()),
        "holdout": int((labelled & fingerprint.in_holdout(hashes, holdout)).sum()),
        "bad_rows": taken.bad_rows,
        "duplicates": int(fates[Fate.DUPLICATE]),
        "near_duplicates": int(fates[Fate.NEAR_DUPLICATE]),
        "leaks": int(fates[Fate.LEAK]),
        "late_labels": dedupe.late,
        "files": {**files, "waiting": found.waiting + taken.waiting},
        "labels": _label_counts(spool, labels[labelled]),
        "problems": problems[:MAX_TOLD],
    }


def _label_counts(spool: Spool, labels: npt.NDArray[np.int32]) -> dict[str, int]:
    counts = np.bincount(labels, minlength=len(spool.vocabulary.names))
    most = np.argsort(-counts, kind="stable")[:MAX_TOLD]
    return {spool.vocabulary.names[code]: int(counts[code]) for code in most if counts[code]}


def _write_files(path: Path, taken: Taken, rows: list[int]) -> None:
    with path.open("wb") as file:
        for entry, count in zip(taken.entries, rows, strict=True):
            found = entry.file
            line = {"path": found.path, "size": found.size, "mtime_ns": found.mtime_ns, "inode": found.inode}
            line |= {"sha256": entry.sha256, "status": entry.status, "reason": entry.reason, "rows": count}
            file.write(json_line(line))
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- one file, for commands and the golden set ----------------------------------------------------


def read_file(
    path: Path, settings: config.Intake, load: Load, readers: Sequence[str] = READERS
) -> tuple[pa.Table, list[BadRow]]:
    """One file's rows as intake reads them, equal texts and all; nothing is recorded.

    Args:
        path: chosen by the operator; links are followed.
        readers: names of the reader plugins to choose from.

    Returns:
        a table with `rows.SCHEMA`, and the rows that were refused.

    Raises:
        BadInputError: the file cannot be read, or is refused as a whole.
    """
    bad: list[BadRow] = []
    rows = FileRows(settings, readers, load)
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "rows.arrow")
        try:
            with _opened(path, settings, rows, Path(folder)) as content:
                reader, _ = rows.reader(str(path))
                with closing(rows.rows(reader, content)) as numbered:
                    for number, row in numbered:
                        if isinstance(row, BadRow):
                            bad.append(row)
                        elif not row.text:
                            bad.append(BadRow(number, "no text"))
                        elif fault := spool.add(row, 0, number):
                            bad.append(BadRow(number, fault))
        except BadInputError as error:
            raise BadInputError(f"{path}: {error}") from error
        spool.finish()
        everything = np.ones(spool.count, bool)
        tables = list(intake_batch.tables(spool, everything, spool.labels, settings.holdout))
        return pa.concat_tables([SCHEMA.empty_table(), *tables]).combine_chunks(), bad


def _opened(path: Path, settings: config.Intake, rows: FileRows, workdir: Path) -> BinaryIO:
    found = found_by_operator(path)
    rows.reader(str(path))
    try:
        with Opener() as opener:
            descriptor = opener.open(found)
        try:
            content, _ = copy(descriptor, settings.max_file, workdir)
        finally:
            os.close(descriptor)
    except UnreadableError as error:
        raise BadInputError(f"{error}; give the path of a readable file") from error
    return unpacked(content, str(path), rows, settings, workdir)
