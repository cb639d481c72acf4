"""Few labels a day, for as long as it takes: a bet that the champion errs no more than is accepted.

Where ten labels a day come in, no single window holds enough of them to measure anything. So money is put,
block after block, on the champion's being worse than accepted. While it is not, the wealth can only be
expected to fall, and the chance that it ever reaches 1 / alpha is at most alpha (Ville 1939), whenever
and however often one looks. See Waudby-Smith and Ramdas 2024, "Estimating means of bounded random
variables by betting", JRSS B 86.

Pure, standard library only. The state between windows is plain JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keeperd.api import JSON

ALPHA = 0.05
"""Chance of a false alarm, over all time."""
TOLERANCE = 0.05
"""Loss of accuracy that is borne."""
SURE = 1.64
"""Standard errors by which the accepted error may be too low by luck."""
STAKES = (1 / 12, 1 / 3)
"""Share of its wealth that each bet can lose on one row: the small one finds small losses."""
RESERVE = 0.2
"""Share of the first wealth that is kept back ..."""
PATIENCE = 50
"""... and after n blocks, a share 1 / (n + PATIENCE) of what is left of it joins the bets: a loss that
begins after a long good time, in which all early bets have lost their money, is found by those that join
late (a mixture over starting times; compare Shin, Ramdas and Rinaldo 2023, "E-detectors")."""
LEAST_BLOCKS = 2
"""So many blocks at the least make an alarm: rows of one block resemble each other."""
MOST = 0.95


@dataclass(frozen=True)
class Block:
    """Labelled rows that came in together and were never counted before.

    Attributes:
        losses: of each row, its expectation is the champion's error rate: 1 where it is wrong and 0
            where it is right, or a less noisy stand-in (`harm.losses`).
        least: no loss can be below it, 0 or less; known before the labels.
        wrong: rows that the champion has wrong.
    """

    losses: Sequence[float]
    least: float
    wrong: int


@dataclass(frozen=True)
class LabelWatch:
    """What all labelled rows since the champion went live say together.

    Attributes:
        alarmed: it errs more than accepted; stays until the state is dropped.
        wealth: from 1 at the start; an alarm at 1 / alpha.
        rows: labelled rows counted.
        since: when the first of them was counted, as the caller tells time, or "".
        error: share of them that it has wrong, 0..1; None without rows.
        limit: error that is borne, 0..1.
    """

    alarmed: bool = False
    wealth: float = 1.0
    rows: int = 0
    since: str = ""
    error: float | None = None
    limit: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As a report holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LabelWatch:
        """From a report."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})

    def told(self) -> str:
        """One clause, in plain words."""
        if self.error is None or self.limit is None:
            return "no labels have been counted yet"
        since = f" since {self.since}" if self.since else ""
        seen = f"wrong on {self.error:.1%} of {self.rows} labelled rows{since}"
        if self.alarmed:
            return f"{seen}, more than the {self.limit:.1%} that is borne"
        return f"{seen}, {self.limit:.1%} is borne: no alarm so far"


def limit(accepted: float, rows: int, tolerance: float = TOLERANCE) -> float:
    """The error rate up to which nothing is said, 0..1: the accepted error and the tolerance; or its upper
    bound at `SURE` standard errors (Wilson 1927), where so few held-out rows were counted that it may be
    too low by more than the tolerance.

    Args:
        accepted: accuracy that the champion was accepted with, 0..1.
        rows: held-out rows that it was counted on; 0: it is exact.
    """
    error, square = 1 - accepted, SURE * SURE
    bound = 0.0
    if rows:
        spread = SURE * math.sqrt(error * (1 - error) / rows + square / (4 * rows * rows))
        bound = (error + square / (2 * rows) + spread) / (1 + square / rows)
    return min(max(error + tolerance, bound), MOST)


def count(
    state: JSON, blocks: Sequence[Block], borne: float, *, alpha: float = ALPHA, at: str = ""
) -> tuple[dict[str, JSON], LabelWatch]:
    """Bet on fresh blocks.

    Args:
        state: what the last call returned; None, or one for another limit: begin anew.
        blocks: oldest first; each row counts once, ever.
        borne: the error that is borne, see `limit`.
        at: when these blocks came in, for `LabelWatch.since`.

    Returns:
        the new state, {"limit", "bets": log wealth of each, "reserve": its log, "blocks", "rows", "wrong",
        "since", "alarmed"}, and what it means.
    """
    after = _begun(state, borne)
    bar = -math.log(alpha)
    for block in blocks:
        if not block.losses:
            continue
        _bet(after, block, bar / LEAST_BLOCKS)
        after["rows"] += len(block.losses)
        after["wrong"] += block.wrong
        after["since"] = after["since"] or at
        after["alarmed"] = after["alarmed"] or _wealth(after) >= bar - 1e-9
    return after, _watch(after)


def _begun(state: JSON, borne: float) -> dict[str, Any]:
    if isinstance(state, Mapping) and math.isclose(state["limit"], borne, rel_tol=1e-9):
        return {**state, "bets": list(state["bets"])}
    return {
        "limit": borne,
        "bets": [math.log((1 - RESERVE) / len(STAKES))] * len(STAKES),
        "reserve": math.log(RESERVE),
        "blocks": 0,
        "rows": 0,
        "wrong": 0,
        "since": "",
        "alarmed": False,
    }


def _bet(state: dict[str, Any], block: Block, most: float) -> None:
    """Each bet multiplies its wealth by 1 + stake x (loss - limit) / (limit - least) at every row, which is
    at least 1 - stake, and not above 1 in expectation while the error is below the limit. What a block
    gains beyond `most`, in logarithms, is given away."""
    before = _wealth(state)
    released = 1 / (state["blocks"] + PATIENCE)
    joins = state["reserve"] + math.log(released / len(STAKES))
    state["reserve"] += math.log1p(-released)
    state["blocks"] += 1
    borne, room = state["limit"], state["limit"] - min(block.least, 0.0)
    for place, stake in enumerate(STAKES):
        gain = sum(math.log1p(stake * (loss - borne) / room) for loss in block.losses)
        state["bets"][place] = _add([state["bets"][place], joins]) + gain
    if (excess := _wealth(state) - before - most) > 0:
        state["bets"] = [one - excess for one in state["bets"]]
        state["reserve"] -= excess


def _wealth(state: Mapping[str, Any]) -> float:
    return _add([*state["bets"], state["reserve"]])


def _add(logs: Sequence[float]) -> float:
    """Logarithm of a sum."""
    most = max(logs)
    return most + math.log(sum(math.exp(one - most) for one in logs))


def _watch(state: Mapping[str, Any]) -> LabelWatch:
    return LabelWatch(
        alarmed=state["alarmed"],
        wealth=math.exp(min(_wealth(state), 700.0)),
        rows=state["rows"],
        since=state["since"],
        error=state["wrong"] / state["rows"] if state["rows"] else None,
        limit=state["limit"],
    )
