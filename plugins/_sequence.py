"""A sequence of blocks (days) against the blocks of the reference, with a budget of false alarms.

Two watches have half of the budget each. *Windows* of the last 1, 3, 7 and 28 blocks are compared with the
reference as one of its own blocks would be: they find large changes at once and middling ones in a week.
The *witness* finds small changes that last: a direction is learnt from the last two weeks against one half
of the reference's blocks, the next block is scored in it against the other half, and the evidence is
multiplied up and begun anew with every block (Shiryaev-Roberts; Shin, Ramdas and Rinaldo 2024, "E-detectors:
a nonparametric framework for sequential change detection", NEJSDS).

Three corrections keep the witness honest. A reference is off by itself, and a bettor would learn that too:
the score is lessened by two standard errors of the reference's mean. A direction is chosen where the
reference seems to vary little, hence where its variance is underrated: reference blocks, each left out in
turn, are scored in the same direction, and the score is divided by what they show. And it is clipped.

All of it rests on how blocks of the reference scatter, never on rows: it holds where blocks are
exchangeable. It is calibrated by trial (`bench/drift.py`), not proven.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from keeperd.api import JSON
from keeperd_plugins import _blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

YEAR = 365
WINDOWS = {1: 0.4, 3: 0.2, 7: 0.2, 28: 0.2}
"""Blocks in a window, and its part of the windows' budget."""
ODD_DAYS = 10
"""Degrees of freedom of a single block's score: the tail of real days is heavy, that of means less so."""
LEARN = 14
"""Blocks that the witness learns its direction from."""
BETS = np.array([0.25, 0.5, 1.0, 1.5])
VARIANCE = 1.15
"""Of a block's score, in units of what it should be; a little more than one, for heavier tails."""
CLIP = 4.0
CAUTION = 2.0
MOST_LEFT_OUT = 30
CALM_P = 0.05
CALM_BLOCKS = 7
"""A latched alarm is let go once this many blocks have come since, and neither the last 7 nor all since
(28 at most) differ from the reference at `CALM_P`."""


class Baseline:
    """The reference's blocks, ready for comparison.

    Args:
        model: block means (blocks, k), their sizes, and the covariance of rows about them.
        own: (blocks,) score of each block against others that it had no part in.
    """

    def __init__(self, model: _blocks.BlockModel, own: Doubles) -> None:
        self.model, self.own = model, own
        self.taught, self.tested = model.means[0::2].mean(0), model.means[1::2].mean(0)
        self.tests = len(model.means[1::2])

    def p(self, mean: Doubles, rows: float, blocks: float) -> float:
        """Probability that so many further rows and blocks of the reference would lie as far from it."""
        freedom = ODD_DAYS if blocks == 1 else len(self.own)
        return _blocks.p_of_score(self.model.score(mean, rows, blocks), self.own, freedom)

    @cached_property
    def between(self) -> Doubles:
        """(k, k) covariance of block means beyond what their rows explain."""
        return self.model.between()

    @cached_property
    def precision(self) -> Doubles:
        """(k, k) inverse covariance of the mean of one block of the usual size."""
        return _precision(self.model, self.between)

    @cached_property
    def left_out(self) -> list[tuple[Doubles, Doubles, Doubles]]:
        """Of at most `MOST_LEFT_OUT` blocks: the precision of all the others (k, k), the teaching half's
        mean without the block (k,), and the block's step from the mean of the others (k,)."""
        means = self.model.means
        found = []
        for block in range(0, len(means), -(-len(means) // MOST_LEFT_OUT)):
            others = self.model.without(block)
            teachers = [one for one in range(0, len(means), 2) if one != block]
            step = means[block] - others.means.mean(0)
            found.append((_precision(others, others.between()), means[teachers].mean(0), step))
        return found

    def score(self, learnt: Doubles, mean: Doubles, rows: float) -> tuple[float, float]:
        """The witness's score of a block, and the standard error of the reference's mean in the same
        direction: both in standard deviations of a block.

        Args:
            learnt: (k,) mean of the blocks that the direction is learnt from.
            mean, rows: of the block that is scored.
        """
        step = learnt - self.taught
        direction = self.precision @ step
        variance = direction @ (self.model.within / rows + self.between) @ direction
        if variance <= 0.0:
            return 0.0, 0.0
        score = direction @ (mean - self.tested) / np.sqrt(variance * max(self._shown(learnt), 1.0))
        return min(float(score), CLIP), 1 / np.sqrt(self.tests)

    def _shown(self, learnt: Doubles) -> float:
        """Variance of the reference's own blocks in the directions learnt without them, in units of what
        those without them expect; a little more, since it is of few."""
        ratios = []
        for precision, taught, step in self.left_out:
            direction = precision @ (learnt - taught)
            expected = max(float(direction @ (learnt - taught)), 1e-12)
            ratios.append(float(direction @ step) ** 2 / expected)
        count = len(self.model.means)
        return float(np.mean(ratios)) / (1 + 1 / (count - 1)) * (1 + 2 / len(ratios))


def _precision(model: _blocks.BlockModel, between: Doubles) -> Doubles:
    covariance = model.within / model.sizes.mean() + between
    covariance[np.diag_indices(len(covariance))] += 1e-9 + 1e-6 * np.trace(covariance) / len(covariance)
    return np.asarray(np.linalg.inv(covariance))


@dataclass(frozen=True)
class Part:
    """Rows of one day: the date (ISO), how many rows, and the sum of their coordinates (k,)."""

    date: str
    rows: int
    total: Doubles


@dataclass(frozen=True)
class Look:
    """What one look at the newest block says.

    Attributes:
        date, rows: of the block; its last day.
        p: window -> its p-value, of the windows that were due.
        evidence: the witness's, 1 is an alarm.
        alarm: what raised one now ("1", "3", "7", "28", "witness"), or "".
        since: date of the alarm that still holds, or "".
    """

    date: str
    rows: int
    p: Mapping[int, float]
    evidence: float
    alarm: str
    since: str

    def as_json(self) -> dict[str, JSON]:
        """For a signal's facts."""
        windows = {str(window): p for window, p in self.p.items()}
        return {
            "date": self.date, "rows": self.rows, "p": windows, "evidence": self.evidence,
            "alarm": self.alarm, "since": self.since,
        }  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """How blocks are made and how many false alarms are borne.

    Attributes:
        budget: false alarms in 365 blocks.
        block_rows, block_days: what a block has at least.
    """

    budget: float
    block_rows: int = _blocks.ROWS
    block_days: int = 1


@dataclass
class State:
    """What is carried from check to check; as JSON some 30 kB.

    Attributes:
        blocks: (mean, rows) of the last closed blocks.
        closed: how many blocks were closed since the beginning or the last release.
        wealth: (bets,) of the witness after the closed blocks.
        total, rows, days, date: the open block: sum of its coordinates, rows, different days, last day.
        looks: how often the open block was looked at.
        since: date of the alarm that still holds, or "".
        after: blocks closed since that alarm.
        alarms: how many were raised.
    """

    blocks: list[tuple[Doubles, int]] = field(default_factory=list)
    closed: int = 0
    wealth: Doubles = field(default_factory=lambda: np.zeros(len(BETS)))
    total: Doubles | None = None
    rows: int = 0
    days: int = 0
    date: str = ""
    looks: int = 0
    since: str = ""
    after: int = 0
    alarms: int = 0

    def as_json(self) -> dict[str, JSON]:
        """Plain values, rounded to what matters."""
        return {
            "blocks": [[_plain(mean), rows] for mean, rows in self.blocks],
            "wealth": _plain(self.wealth),
            "total": None if self.total is None else _plain(self.total),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> State:
        """From JSON; None: a new one."""
        if value is None:
            return cls()
        return cls(
            blocks=[(np.array(mean, np.float64), rows) for mean, rows in value["blocks"]],
            wealth=np.array(value["wealth"], np.float64),
            total=None if value["total"] is None else np.array(value["total"], np.float64),
            **{name: value[name] for name in _PLAIN},
        )


_PLAIN = ("closed", "rows", "days", "date", "looks", "since", "after", "alarms")


def _plain(values: Doubles) -> list[float]:
    return [float(f"{value:.7g}") for value in values]


class Sequence:
    """The monitor of one stream.

    Args:
        baseline: the reference's blocks.
        state: where the last check left off; it is changed.
    """

    def __init__(self, baseline: Baseline, state: State, rules: Rules) -> None:
        self.baseline, self.state, self.rules = baseline, state, rules

    def follow(self, parts: Iterable[Part]) -> Iterator[Look]:
        """Take the rows of days, in order of their dates, and look at the open block after each day on
        which it is large enough. A day before the last one that was taken counts as that one."""
        for date, group in groupby(sorted(parts, key=lambda part: part.date), lambda part: part.date):
            self._take(date, list(group))
            if self._complete():
                yield self._look()

    def _complete(self) -> bool:
        state, rules = self.state, self.rules
        return state.rows >= rules.block_rows and state.days >= rules.block_days

    def _take(self, date: str, parts: list[Part]) -> None:
        state = self.state
        if date > state.date:
            if self._complete():
                self._close()
            state.date, state.days = date, state.days + 1
        for part in parts:
            state.total = part.total if state.total is None else state.total + part.total
            state.rows += part.rows

    def _mean(self) -> Doubles:
        assert self.state.total is not None  # noqa: S101 - a complete block has rows
        return np.asarray(self.state.total / self.state.rows)

    def _close(self) -> None:
        state = self.state
        state.wealth = np.zeros(len(BETS)) if state.since else self._wealth()
        state.blocks = [*state.blocks, (self._mean(), state.rows)][-max(WINDOWS) :]
        state.closed, state.after = state.closed + 1, state.after + 1
        state.total, state.rows, state.days, state.looks = None, 0, 0, 0

    def _wealth(self) -> Doubles:
        """The witness's after the open block."""
        state = self.state
        if not state.blocks:
            return state.wealth
        learnt = np.mean([mean for mean, _ in state.blocks[-LEARN:]], axis=0)
        score, error = self.baseline.score(learnt, self._mean(), state.rows)
        return np.asarray(
            (state.wealth + 1) * np.exp(BETS * (score - CAUTION * error) - BETS**2 / 2 * VARIANCE)
        )

    def _p(self, window: int) -> float:
        """Of the last blocks, the open one among them; each block counts alike."""
        chosen = [*self.state.blocks, (self._mean(), self.state.rows)][-window:]
        mean = np.mean([one for one, _ in chosen], axis=0)
        return self.baseline.p(mean, sum(rows for _, rows in chosen), len(chosen))

    def _look(self) -> Look:
        """One look; a block that is looked at again has half of the budget of the time before."""
        state = self.state
        share = self.rules.budget / YEAR / 2 ** (1 + state.looks)
        state.looks += 1
        have = len(state.blocks) + 1
        p = {
            window: self._p(window)
            for window in WINDOWS
            if window <= have and state.closed % _step(window) == 0
        }
        if state.since:
            self._release()
            return Look(state.date, state.rows, p, 0.0, "", state.since)
        evidence = float(self._wealth().mean()) * share
        alarm = next((str(w) for w in p if p[w] <= share * _step(w) * WINDOWS[w]), "")
        alarm = alarm or ("witness" if evidence >= 1 else "")
        if alarm:
            state.since, state.after, state.alarms = state.date, 0, state.alarms + 1
        return Look(state.date, state.rows, p, evidence, alarm, state.since)

    def _release(self) -> None:
        """Let a latched alarm go when the text has been like the reference for a while. What came
        before is forgotten: it was drift and is over."""
        state = self.state
        if state.after < CALM_BLOCKS:
            return
        if min(self._p(CALM_BLOCKS), self._p(min(state.after + 1, max(WINDOWS)))) > CALM_P:
            state.since, state.after, state.closed = "", 0, 0
            state.blocks, state.wealth = [], np.zeros(len(BETS))


def _step(window: int) -> int:
    """A window is looked at every so many blocks: each time its quarter is new."""
    return max(1, window // 4)
