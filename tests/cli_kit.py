"""Calling the command line in tests: in this process, in another, and in a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

from typer.testing import CliRunner, Result

from keeperd.cli import app
from tests.made_state import MadeState

CONTROL = {chr(code) for code in (*range(32), *range(127, 160))} - {"\n"}


def keeperd(state: MadeState | Path, *args: str, **env: str) -> Result:
    path = state.config if isinstance(state, MadeState) else state
    return CliRunner().invoke(
        app, [*args], env={"KEEPERD_CONFIG": str(path), "COLUMNS": "80", **env}, catch_exceptions=False
    )


def process(path: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keeperd.cli", *args],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "KEEPERD_CONFIG": str(path), **env},
    )  # fmt: skip


def error_line(result: Result) -> str:
    """The one line that an expected error leaves."""
    [line] = result.stderr.splitlines()
    assert line.startswith("keeperd: ")
    assert result.stdout == ""
    return line.removeprefix("keeperd: ")


class Terminal:
    """A command in a terminal of its own, 80 columns wide."""

    def __init__(self, path: Path, *args: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ |= {"KEEPERD_CONFIG": str(path), "TERM": "xterm-256color"}
            os.execv(sys.executable, [sys.executable, "-m", "keeperd.cli", *args])  # noqa: S606
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        self._data = b""

    @property
    def seen(self) -> str:
        return self._data.decode(errors="replace")

    def until(self, text: str) -> str:
        """Read until the text has appeared."""
        while text not in self.seen:
            self._read()
        return self.seen

    def _read(self) -> bool:
        ready, _, _ = select.select([self.fd], [], [], 60)
        assert ready, f"nothing more came after {self.seen!r}"
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # Linux: the other end is closed
            return False
        self._data += data
        return bool(data)

    def end(self) -> int:
        """Wait for the end; the exit code."""
        while self._read():
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
