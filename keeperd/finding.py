"""What `check` and `verify` find: one line each, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["ok", "warn", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: "ok"; "warn", it works and yet you should know; "wrong", it will not work.
        what: the thing.
        found: what is there, or what is wrong with it.
        do: what to do about it.
        repair: puts it right, where that is safe.
    """

    level: Level
    what: str
    found: str = ""
    do: str = ""
    repair: Callable[[], None] | None = None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "level": self.level,
            "what": self.what,
            "found": self.found,
            "do": self.do,
            "repairable": self.repair is not None,
        }


def ok(what: str, found: str = "") -> Finding:
    """All is well with it."""
    return Finding("ok", what, found)


def warn(what: str, found: str, do: str = "", repair: Callable[[], None] | None = None) -> Finding:
    """It works, and yet."""
    return Finding("warn", what, found, do, repair)


def wrong(what: str, found: str, do: str = "", repair: Callable[[], None] | None = None) -> Finding:
    """It does not work."""
    return Finding("wrong", what, found, do, repair)
