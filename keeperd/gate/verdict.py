"""What the gate says, as a value: the verdict, its checks, and the words for their figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Check:
    """One check of a verdict.

    Attributes:
        name: "answers", "golden", "holdout", "new", "floor", "macro-F1", "flips", "gains",
            "forgetting", "calibration", "label: X", "source: X".
        passed: True also where it is only shown (`judged` False).
        text: one plain sentence.
        figure: what was measured: a difference, candidate less champion, or a share.
        low, high: 90 % interval of `figure`.
        limit: the least (of differences) or most (of shares) that passes.
        rows: on how many rows.
        p_value: of the one-sided exact McNemar test, Holm-corrected for labels and sources.
        judged: False where the check is shown but cannot reject.
    """

    name: str
    passed: bool
    text: str
    figure: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    rows: int = 0
    p_value: float | None = None
    judged: bool = True


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a candidate.

    Attributes:
        passed: every judged check passed.
        harmful: measured to do harm on what the champion knows, not merely no better on new rows.
        summary: one plain sentence.
        checks: every check, the decisive ones first.
        champion, candidate: "accuracy", "macro_f1", "ece" over all "rows", and the task's own
            metrics of each test set under "sets". Empty where nothing could be judged; the
            champion's is empty for version 1 too.
        golden_sha: sha256 of the golden file that was used, or None.
    """

    passed: bool
    harmful: bool
    summary: str
    checks: tuple[Check, ...]
    champion: Mapping[str, Any] = field(default_factory=dict)
    candidate: Mapping[str, Any] = field(default_factory=dict)
    golden_sha: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON; a figure that is not finite becomes None."""
        value: dict[str, Any] = _clean(asdict(self))
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_json` wrote; keys that are not its own are passed over."""
        own = {name: value[name] for name in (f.name for f in fields(cls)) if name in value}
        names = {f.name for f in fields(Check)}
        checks = tuple(Check(**{k: v for k, v in check.items() if k in names}) for check in value["checks"])
        return cls(**own | {"checks": checks})


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def percent(share: float) -> str:
    """A share as people read it, such as "91.2 %"."""
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """A difference of shares with its sign, such as "-1.2 points"."""
    return f"{100 * difference:+.1f} points"


def short(name: str) -> str:
    """A label or source fit for one line: no control characters, at most 60 characters."""
    plain = "".join(char if char.isprintable() else " " for char in name)
    return plain if len(plain) <= 60 else plain[:59] + "…"
