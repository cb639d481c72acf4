"""Where things lie below the state directory. Nothing else of keeperd is written anywhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from keeperd.api import KeeperdError


@dataclass(frozen=True)
class ModelPaths:
    """Folders of one model."""

    folder: Path

    @property
    def versions(self) -> Path:
        """Immutable version folders, named 1, 2, 3 ..."""
        return self.folder / "versions"

    def version(self, number: int) -> Path:
        """The folder of one version."""
        return self.versions / str(number)

    @property
    def live(self) -> Path:
        """The one pointer: a symbolic link to the champion's folder."""
        return self.folder / "live"

    @property
    def batches(self) -> Path:
        """Frozen batches, SHA.parquet, and `quarantine/` beside them."""
        return self.folder / "batches"

    def batch(self, sha: str) -> Path:
        """The file of one batch."""
        return self.batches / f"{sha}.parquet"

    @property
    def quarantine(self) -> Path:
        """One JSON-lines file an intake run, with a reason for every refused row and file."""
        return self.batches / "quarantine"


@dataclass(frozen=True)
class StatePaths:
    """The state directory."""

    folder: Path

    def create(self) -> None:
        """Make the folder where it is missing.

        Raises:
            KeeperdError: it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise KeeperdError(
                f"{self.folder}: cannot be made: {error.strerror}; make it, or change `state`"
            ) from error

    @property
    def database(self) -> Path:
        """The ledger."""
        return self.folder / "keeperd.db"

    @property
    def lock(self) -> Path:
        """Held (flock) by the one process that may write."""
        return self.folder / "lock"

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.folder / "control.sock"

    def model(self, name: str) -> ModelPaths:
        """Folders of one model."""
        return ModelPaths(self.folder / "models" / name)

    @property
    def runs(self) -> Path:
        """Work of single subprocesses, a folder each."""
        return self.folder / "runs"

    def run(self, run: int) -> Path:
        """The folder of one run."""
        return self.runs / str(run)

    def report(self, cycle: int) -> Path:
        """HTML and figures of one cycle."""
        return self.folder / "reports" / str(cycle)


def fsync_folder(folder: Path) -> None:
    """Make renames inside the folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file so that after a crash it is there complete or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    fsync_folder(path.parent)
