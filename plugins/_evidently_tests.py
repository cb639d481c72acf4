"""keeperd's own tests, registered with Evidently, so that its page shows keeperd's judgement.

Evidently's registry takes a function of two columns that returns a score and whether it counts as
drift. A `Judge` offers one for each kind of column; its score is a p-value times the number of columns
tested (Bonferroni), so that all of them together raise a false alarm with probability alpha.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from keeperd_plugins import _blocks, _channels, _ngrams, _permutation, _shares, _terms, _tokens

if TYPE_CHECKING:
    from pandas import Series

TEXT, NUMBERS, RANKS, SHARES = "keeperd_text", "keeperd_numbers", "keeperd_ranks", "keeperd_shares"
"""Names in Evidently's registry."""
TITLES = {
    TEXT: "keeperd's classifier (p-value)",
    NUMBERS: "keeperd's K-S (p-value)",
    RANKS: "keeperd's rank sum (p-value)",
    SHARES: "keeperd's chi-square (p-value)",
}
SKETCH = 256
EXAMPLES, WORDS = 10, 25

Judgement = tuple[float, bool]
Telling = tuple[list[str], list[str], list[str], list[str]]


class Judge:
    """Tests the columns of one page. Evidently asks several times for each; the answer is kept."""

    def __init__(
        self,
        times: tuple[Sequence[datetime | None], Sequence[datetime | None]],
        columns: int,
        permutations: int,
        seed: int,
    ) -> None:
        """Of the page's rows, in their order.

        Args:
            times: of the rows of the reference and of the current window, None where unknown.
            columns: how many are tested.
            permutations: random splits that a p-value rests on.
        """
        self._split = _blocks.by_day(times[0])
        self._days = _blocks.days(times[1])
        self._columns, self._permutations, self._seed = columns, permutations, seed
        self._known: dict[str, float] = {}
        self._like_current: dict[str, np.ndarray] = {}

    def text(self, reference: Series, current: Series, _type: object, threshold: float) -> Judgement:
        """The classifier two-sample test of `_permutation`; where the reference has days, the window
        must besides lie further from it than they do from one another. Any script."""
        return self._once(reference, current, threshold, self._p_text)

    def numbers(self, reference: Series, current: Series, _type: object, threshold: float) -> Judgement:
        """Kolmogorov-Smirnov, with fewer effective rows where rows of one day are alike."""
        return self._once(reference, current, threshold, self._p_numbers)

    def ranks(self, reference: Series, current: Series, _type: object, threshold: float) -> Judgement:
        """Rank sum of the confidence, see `_shares.compare_confidence`."""
        return self._once(reference, current, threshold, self._p_ranks)

    def shares(self, reference: Series, current: Series, _type: object, threshold: float) -> Judgement:
        """Permutation chi-square of categories, see `_permutation.compare_shares`."""
        return self._once(reference, current, threshold, self._p_shares)

    def p_value(self, column: str) -> float:
        """What was found for a column that was tested, corrected for their number."""
        return self._known[column]

    def telling(self, reference: Series, current: Series) -> Telling:
        """Examples most like the current window and most like the reference, then words that became
        more frequent and less frequent: what Evidently shows beside a text that drifted."""
        before, now = list(reference), list(current)
        scores = self._like_current[str(reference.name)]
        here, there = scores[len(before) :], scores[: len(before)]
        known = _terms.known(_tokens.read(before))
        changed = _terms.changed(_tokens.read(now), known, most=2 * WORDS)
        return (
            _first_different([now[row] for row in np.argsort(-here, kind="stable")]),
            _first_different([before[row] for row in np.argsort(there, kind="stable")]),
            [term.term for term in changed if term.z > 0][:WORDS],
            [term.term for term in changed if term.z < 0][:WORDS],
        )

    def _once(
        self, reference: Series, current: Series, threshold: float, test: Callable[[Any, Any], float]
    ) -> Judgement:
        name = str(reference.name)
        if name not in self._known:
            self._known[name] = min(test(reference, current) * self._columns, 1.0)
        return self._known[name], self._known[name] <= threshold

    def _p_text(self, reference: Series, current: Series) -> float:
        counts = _ngrams.count([*reference, *current])
        m, n = len(reference), len(current)
        kernel = _ngrams.kernel(counts, None)
        if kernel is None:
            self._like_current[str(reference.name)] = np.zeros(m + n)
            return 1.0
        members = _permutation.splits(m, n, self._permutations, self._seed)
        scores = _permutation.smoother(kernel).left_out(members)
        self._like_current[str(reference.name)] = scores[0]
        by_rows = _permutation.p_value(_permutation.margins(scores, members))
        return by_rows if self._split is None else max(by_rows, self._by_days(counts, m, self._split))

    def _by_days(self, counts: Any, m: int, split: _blocks.Split) -> float:
        rows = _ngrams.sketch(_ngrams.features(counts), SKETCH, self._seed)
        channel = _channels.fit(rows[:m], split)
        return 0.0 if channel is None else channel.p(rows[m:], self._blocks())

    def _blocks(self) -> float:
        """Blocks of the reference's size that the current window spans."""
        return max(self._days / self._split.days_each, 1.0) if self._split is not None else 1.0

    def _level(self, values: np.ndarray, current: int) -> _shares.Level:
        """Design effect of a column of the reference, values (m, d); it has no level of its own."""
        if self._split is None:
            return _shares.Level(0.0, self._permutations, self._seed)
        alike = _blocks.intraclass(values, self._split)
        effect = _blocks.inflation(alike, current, self._blocks(), len(values), self._split.count)
        return _shares.Level(0.0, self._permutations, self._seed, effect, self._split.count - 1)

    def _p_numbers(self, reference: Series, current: Series) -> float:
        from scipy.stats import ks_2samp, kstwobign, rankdata

        before, now = reference.to_numpy(), current.to_numpy()
        inflation = self._level(rankdata(before)[:, None], len(now)).inflation
        distance = float(ks_2samp(before, now, method="asymp").statistic)
        rows = len(before) * len(now) / (len(before) + len(now)) / inflation
        return float(kstwobign.sf(distance * np.sqrt(rows)))

    def _p_ranks(self, reference: Series, current: Series) -> float:
        from scipy.stats import rankdata

        before, now = reference.to_numpy(), current.to_numpy()
        level = self._level(rankdata(before)[:, None], len(now))
        return _shares.compare_confidence(before, now, level).p_value or 0.0

    def _p_shares(self, reference: Series, current: Series) -> float:
        classes = sorted({*reference, *current})
        before, now = Counter(reference), Counter(current)
        old = np.array([before[one] for one in classes], np.int64)
        new = np.array([now[one] for one in classes], np.int64)
        columns = {one: number for number, one in enumerate(classes)}
        level = self._level(np.eye(len(classes))[[columns[one] for one in reference]], len(current))
        return _permutation.compare_shares(
            old, new, level.permutations, level.seed, level.inflation, level.freedom
        ).p


def register(judge: Judge, alpha: float) -> None:
    """Put the judge's tests into Evidently's registry under the names above, in place of an earlier
    judge's, and let Evidently take words and examples of text from it.

    Evidently's own words come from a vectoriser of English words, which fails on Chinese and on rows
    without words; it has no registry for that, so its function is replaced.
    """
    from evidently.legacy.calculations import data_drift
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    kinds = {
        TEXT: (ColumnType.Text, judge.text),
        NUMBERS: (ColumnType.Numerical, judge.numbers),
        RANKS: (ColumnType.Numerical, judge.ranks),
        SHARES: (ColumnType.Categorical, judge.shares),
    }
    for name, (kind, test) in kinds.items():
        register_stattest(StatTest(name, TITLES[name], [kind], alpha), test)
    data_drift.get_text_data_for_plots = judge.telling


def _first_different(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))[:EXAMPLES]
