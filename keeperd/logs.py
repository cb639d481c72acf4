"""Log records on standard error: one record, one line a line of ours, whatever data it quotes.

Under systemd a line begins with its priority (sd-daemon(3)), elsewhere with the time.
"""

from __future__ import annotations

import logging
import os
import sys

from keeperd.terminal import plain

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
DEBUG_PRIORITY = 7


class Line(logging.Formatter):
    """A record as harmless text. Newlines in a message are escaped; a traceback keeps its own."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The record, each of its lines with the same beginning."""
        lines = [plain(record.getMessage())]
        if record.exc_info:
            lines += [plain(line) for line in self.formatException(record.exc_info).splitlines()]
        begin = self._begin(record)
        return "\n".join(begin + line for line in lines)

    def _begin(self, record: logging.LogRecord) -> str:
        if self._journal:
            return f"<{next((p for level, p in _PRIORITIES if record.levelno >= level), DEBUG_PRIORITY)}>"
        return f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower()}: "


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what `sys.stderr` is at that moment: a progress display stands in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


def begin(level: int = logging.INFO) -> None:
    """Log this process's records to standard error: keeperd's from `level`, others' from warnings."""
    handler = _Stderr()
    handler.setFormatter(Line(journal="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("keeperd").setLevel(level)
