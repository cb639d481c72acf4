"""Probation: a new champion beside its predecessor, judged after every labelled row.

Pure, and standard library only: it runs in the daemon. A row's outcome x is +1 where only the
predecessor is right, -1 where only the champion is, else 0. The hypothesis is that the champion is
good: in the mean, whatever came before, x is at most `tolerance`. Against it a gambler bets: a bet
f in (0, 1) multiplies its stake by 1 + f (x - tolerance) / (1 + tolerance), which can never become
negative and cannot grow on average while the hypothesis holds. The mean of several such fortunes
is an e-process (Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting,
2023): the chance that it *ever* reaches 1 / alpha under the hypothesis is at most alpha (Ville's
inequality), so that one may look after each row and stop at any time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from keeperd.api import BadInputError
from keeperd.config import Probation

State = dict[str, Any]
"""JSON: "bets" and the log of each one's "fortune", the "peak" of the log of their mean, and how
often each outcome was seen: "both", "champion", "predecessor", "neither"."""

BETS = (0.2, 0.35, 0.6, 0.9)
"""Large bets find large losses sooner, small ones small losses; see bench/gate.py."""
OUTCOMES = {"b": "both", "c": "champion", "p": "predecessor", "n": "neither"}
"""Who has a labelled row right."""
_X = {"b": 0, "c": -1, "p": 1, "n": 0}
_LARGEST = 700.0  # e**700 is still a float


@dataclass(frozen=True)
class Decision:
    """What probation says now.

    Attributes:
        action: "undecided", "keep" or "roll back".
        why: one plain sentence.
        rows: labelled rows seen.
        bad_for_champion, good_for_champion: rows that only the predecessor, only the champion has right.
        evidence: the highest e-value so far that the champion is worse than tolerated, from 1 up.
        limit: the e-value that rolls back.
        accuracy_champion, accuracy_predecessor: 0..1, or None without rows.
    """

    action: Literal["undecided", "keep", "roll back"]
    why: str
    rows: int
    bad_for_champion: int
    good_for_champion: int
    evidence: float
    limit: float
    accuracy_champion: float | None
    accuracy_predecessor: float | None

    def facts(self) -> dict[str, Any]:
        """The decision as JSON, for events and reports."""
        return {
            "decision": self.action,
            "rows": self.rows,
            "bad_for_champion": self.bad_for_champion,
            "good_for_champion": self.good_for_champion,
            "evidence": self.evidence,
            "limit": self.limit,
            "accuracy_champion": self.accuracy_champion,
            "accuracy_predecessor": self.accuracy_predecessor,
        }


def start() -> State:
    """The state before the first row."""
    return {"bets": list(BETS), "fortunes": [0.0] * len(BETS), "peak": 0.0} | dict.fromkeys(
        OUTCOMES.values(), 0
    )


def watch(state: State, pairs: str, policy: Probation) -> State:
    """The state after more labelled rows; `state` itself stays as it is.

    Args:
        pairs: a character a row, in order of arrival: "b" both are right, "c" only the champion,
            "p" only the predecessor, "n" neither. Cutting it into several calls changes nothing.
        policy: its tolerance counts for these rows.

    Raises:
        BadInputError: another character.
    """
    if odd := set(pairs) - OUTCOMES.keys():
        raise BadInputError(
            f"probation: pairs hold {min(odd)!r}, expected b, c, p or n; look at the probe run"
        )
    stakes = [bet / (1 + policy.tolerance) for bet in state["bets"]]
    growth = {
        pair: [math.log1p(stake * (x - policy.tolerance)) for stake in stakes] for pair, x in _X.items()
    }
    fortunes, peak = list(state["fortunes"]), state["peak"]
    for pair in pairs:
        fortunes = [fortune + more for fortune, more in zip(fortunes, growth[pair], strict=True)]
        peak = max(peak, _log_mean(fortunes))
    seen = {name: state[name] + pairs.count(pair) for pair, name in OUTCOMES.items()}
    return state | seen | {"fortunes": fortunes, "peak": peak}


def _log_mean(logs: list[float]) -> float:
    """log(mean(exp(logs))), without overflow."""
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs) / len(logs))


def decide(state: State, policy: Probation, started_at: datetime, now: datetime) -> Decision:
    """Roll back once the evidence has ever reached the limit; keep after `policy.rows` labelled rows
    (where that is not 0) or `policy.time`; else wait."""
    rows = sum(state[name] for name in OUTCOMES.values())
    bad, good = state["predecessor"], state["champion"]
    limit = 1 / policy.alpha
    why: str
    action: Literal["undecided", "keep", "roll back"] = "keep"
    if state["peak"] >= math.log(limit):
        action, why = "roll back", _found(state, policy, rows)
    elif policy.rows and rows >= policy.rows:
        why = _not_found(state, policy, rows)
    elif now - started_at >= policy.time:
        why = (
            _not_found(state, policy, rows)
            if rows
            else ("Probation is over without one labelled row: nothing was proven, the champion stays.")
        )
    else:
        action, why = "undecided", _waiting(policy, rows)
    return Decision(
        action=action,
        why=why,
        rows=rows,
        bad_for_champion=bad,
        good_for_champion=good,
        evidence=math.exp(min(state["peak"], _LARGEST)),
        limit=limit,
        accuracy_champion=(state["both"] + good) / rows if rows else None,
        accuracy_predecessor=(state["both"] + bad) / rows if rows else None,
    )


def _score(state: State, rows: int) -> str:
    return (
        f"of {rows} labelled rows, {state['predecessor']} are right with the predecessor alone and "
        f"{state['champion']} with the champion alone"
    )


def _found(state: State, policy: Probation, rows: int) -> str:
    return (
        f"The champion is worse than its predecessor by more than the {100 * policy.tolerance:.1f} points "
        f"accepted: {_score(state, rows)}."
    )


def _not_found(state: State, policy: Probation, rows: int) -> str:
    """Keeping is no proof of being better: it says what so many rows could have shown."""
    differing = (state["champion"] + state["predecessor"] + 1) / (rows + 2)
    # A best bet grows by about (loss - tolerance)^2 / 2 / differing a row, and needs log(1 / alpha).
    seen = policy.tolerance + math.sqrt(2 * differing * math.log(1 / policy.alpha) / rows)
    return (
        f"The champion was not found worse: {_score(state, rows)}; a loss of less than about "
        f"{100 * min(seen, 1.0):.0f} points might not show in so few."
    )


def _waiting(policy: Probation, rows: int) -> str:
    if policy.rows:
        return f"{rows} of {policy.rows} labelled rows seen."
    return f"{rows} labelled rows seen; probation ends by time."
