"""The golden set: the operator's own test rows, sealed by the sha256 of their file.

Verdicts are only comparable on one and the same golden set, so a file that is not the sealed one is
refused, and so is one with a single row that cannot be judged. For workers; not for the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from keeperd import config, intake, rows
from keeperd.api import BadInputError, Window
from keeperd.intake.reading import Load
from keeperd.versions import sha256_file


@dataclass(frozen=True)
class Golden:
    """The labelled rows of a golden file, and the sha256 hex of the file's bytes."""

    rows: Window
    sha256: str


def read(
    path: Path,
    settings: config.Intake,
    load: Load,
    *,
    readers: Sequence[str] = intake.READERS,
    sealed: str | None = None,
) -> Golden:
    """Read the golden file with the readers and filters of the intake.

    Args:
        path: chosen by the operator.
        readers: names of the reader plugins to choose from.
        sealed: the sha256 that it must have, or None at its first use.

    Raises:
        BadInputError: it cannot be read, is not the sealed file, or has a row that is refused, is
            unlabelled, or has another label than an equal text before it.
    """
    # The look-up comes first: it says clearly what is wrong with a missing file.
    intake.found_by_operator(path)
    sha256 = sha256_file(path)
    if sealed is not None and sha256 != sealed:
        raise BadInputError(
            f"{path}: not the golden file that earlier verdicts were given on (sha256 {sha256[:12]}..., "
            f"sealed {sealed[:12]}...); put that one back"
        )
    table, bad = intake.read_file(path, settings, load, readers)
    if sha256_file(path) != sha256:
        raise BadInputError(f"{path}: changed while it was read; write it elsewhere and rename it into place")
    if bad:
        raise BadInputError(f"{path}: row {bad[0].number}: {bad[0].reason}; repair or remove it")
    _check(path, table)
    return Golden(rows.window(table), sha256)


def _check(path: Path, table: pa.Table) -> None:
    """Every row has a label, and equal texts the same."""
    seen: dict[int, str] = {}
    pairs = zip(table.column("hash").to_pylist(), table.column("label").to_pylist(), strict=True)
    number = 0
    for number, (text, label) in enumerate(pairs, 1):
        if label is None:
            raise BadInputError(f"{path}: row {number}: no label; give it one or remove it")
        if seen.setdefault(text, label) != label:
            raise BadInputError(
                f"{path}: row {number}: label {label!r}, but {seen[text]!r} for this text before; repair it"
            )
    if not number:
        raise BadInputError(f"{path}: no rows; a golden set has labelled rows")
