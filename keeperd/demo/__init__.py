"""`make demo`: the real daemon on real text, in a few minutes, in a folder of its own.

Nothing is scripted to succeed. The demo drops files as a user would, reads what a user can read, and
shows what keeperd decides; `tests/test_demo.py` checks the outcome.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

from keeperd import terminal

FOLDER = Path("keeperd-demo")
INTERRUPTED = 130


def main(folder: Path = FOLDER) -> None:
    """Run the demo in this folder, which is made, or cleared where an earlier demo made it.

    Raises:
        KeeperdError: it cannot run here, or its daemon ended.
        SystemExit: after Ctrl-C, with status 130.
    """
    from keeperd.demo import run

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run.run(folder, terminal.console())
    except KeyboardInterrupt:
        what = f"stopped, the daemon too; what there is lies in {folder}, and the next demo starts afresh"
        terminal.show(terminal.text(what), on=terminal.console())
        sys.exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
