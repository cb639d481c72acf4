"""A look at watched folders: is there a file that the ledger does not know?

The daemon's look stops at the first one; intake, in a worker, walks the same way and takes them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from keeperd.store import KnownFiles


@dataclass(frozen=True)
class Look:
    """A settled file that is new, if any, and whether others are still being written."""

    settled: Path | None
    unsettled: bool
