"""The gate: paired answers of champion and candidate in, a verdict out.

Pure: no files, no clock, no models. Its rules:

- *old rows* (golden set and holdout, each on its own): the observed loss of accuracy is at most
  `margin`, and a one-sided exact McNemar test does not find the candidate worse at `alpha`;
- *new rows*: the candidate is better, and the same test says so at `alpha`;
- macro-F1 on old rows falls by at most twice `margin`, and at most `flips` of them turn wrong;
- no label that the champion knows, and no source, of at least `min_slice` rows loses more than
  `slice_margin`, proven by that test under Holm's correction;
- answers that are incomplete, not finite or in other labels than the champion's reject at once.

Version 1 has nothing to be compared with: it must beat the most frequent label by `floor`.
numpy and scipy are imported only by what judges, so that importing this module is light.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keeperd import config
from keeperd.gate import paired
from keeperd.gate.paired import Counts
from keeperd.gate.trials import Pool, Trial, figures, pool, unsound
from keeperd.gate.verdict import Check, Verdict, percent, points, short

NOTABLE = 0.05
"""The change of accuracy that texts name a number of rows for, where none was measured."""
TYPICAL = 0.12
"""The share of rows on which champion and candidate are taken to differ, where too few were seen."""
MOST_SHOWN = 50
"""Slices too small to be judged are shown up to this many, the largest first."""
EPSILON = 1e-9
"""Absorbs the rounding of a limit; differences are ratios of whole numbers."""
HARM = ("golden", "holdout", "macro-F1", "flips", "label: ", "source: ")
"""How names of checks begin that measure harm to what the champion knows."""


def judge(
    trials: Sequence[Trial],
    champion: tuple[str, ...] | None,
    candidate: tuple[str, ...],
    policy: config.Gate,
    *,
    golden_sha: str | None = None,
    seed: int = 0,
    draws: int = 500,
) -> Verdict:
    """Judge a candidate.

    Args:
        trials: test sets with unlike names; a set without rows is as good as none.
        champion: the champion's labels in the order of its logits, or None for version 1.
        candidate: the candidate's.
        golden_sha: noted in the verdict.
        seed: of the bootstrap behind the interval of macro-F1.
        draws: of that bootstrap; 0: no interval.
    """
    if reason := unsound(trials, champion, candidate):
        checks = [Check("answers", False, f"{reason[0].upper()}{reason[1:]}.")]
        return Verdict(False, False, f"Rejected: {reason}.", tuple(checks), golden_sha=golden_sha)
    trials = [trial for trial in trials if trial.labels]
    rows = pool(trials, champion, candidate)
    n = len(rows.truth)
    checks = [Check("answers", True, f"Every one of {n} rows has a sound answer.", rows=n)]
    if champion is None:
        checks += _first(trials, rows, policy)
    else:
        checks += _compare(trials, rows, policy)
        checks += [*_macro_f1(rows, policy, seed, draws), *_flips(rows, policy)]
        checks += [*_slices(rows, champion, policy), *_shown(rows)]
    return Verdict(
        passed=all(check.passed for check in checks),
        harmful=any(_harm(check, policy) for check in checks),
        summary=_summary(checks),
        checks=tuple(checks),
        champion=figures(trials, rows, "champion"),
        candidate=figures(trials, rows, "candidate"),
        golden_sha=golden_sha,
    )


def _harm(check: Check, policy: config.Gate) -> bool:
    """Whether a failed check shows harm, for which the batch behind it is not used again. Too few
    rows (no figure) and a loss that may be chance reject the candidate but accuse nobody."""
    if check.passed or check.figure is None or not check.name.startswith(HARM):
        return False
    return check.p_value is None or check.p_value <= policy.alpha


def _summary(checks: Sequence[Check]) -> str:
    """The failed checks' first sentence, or what was proven."""
    failed = [check for check in checks if not check.passed]
    if failed:
        more = f" {len(failed) - 1} more of the checks failed." if failed[1:] else ""
        return f"Rejected: {failed[0].text}{more}"
    return "Passed: " + " ".join(check.text for check in checks if check.name in ("new", "floor"))


# --- old and new rows -------------------------------------------------------------------------------


def _compare(trials: Sequence[Trial], rows: Pool, policy: config.Gate) -> list[Check]:
    """Accuracy on each old set and on new rows."""
    counts = {trial.name: rows.counts(rows.sets == trial.name) for trial in trials}
    new = counts.pop("new", Counts(0, 0, 0, 0, 0))
    if not counts:
        counts["holdout"] = Counts(0, 0, 0, 0, 0)
    golden = counts.get("golden")
    # A golden set that is too small rejects; a holdout may be small where golden rows decide.
    spare = golden is not None and golden.rows >= policy.min_old
    old = [_old(name, found, policy, spare=spare) for name, found in counts.items()]
    return [*old, _new(new, policy)]


def _told(name: str, found: Counts) -> str:
    """Both accuracies and their difference, as the beginning of a sentence."""
    before, after = percent(found.before / found.rows), percent(found.after / found.rows)
    low, high = found.interval
    return (
        f"Right on {after} of {found.rows} {name} rows, champion {before} "
        f"({points(found.difference)}, 90 % interval {100 * low:+.1f} to {100 * high:+.1f})"
    )


def _too_few(name: str, found: Counts, least: int, policy: config.Gate, change: str) -> str:
    needed = max(paired.rows_needed(NOTABLE, TYPICAL, policy.alpha), least)
    seen = paired.detectable(found.rows, TYPICAL, policy.alpha)
    return (
        f"Only {found.rows} labelled {name} rows, and {least} are the least: a {change} of less than about "
        f"{100 * seen:.0f} points would not show; about {needed} rows show one of {100 * NOTABLE:.0f} points."
    )


def _old(name: str, found: Counts, policy: config.Gate, *, spare: bool) -> Check:
    """No measurable loss on one old set. Beside a sufficient golden set (`spare`) the holdout rejects
    only a loss that is both too large and no chance: two sets that each reject on either rule would
    refuse every fourth good update (bench/gate.py)."""
    if found.rows < policy.min_old:
        text = _too_few(name, found, policy.min_old, policy, "loss")
        return Check(name, spare, text, rows=found.rows, judged=not spare)
    p_value = found.p_worse
    too_much = found.difference < -policy.margin - EPSILON
    proven = p_value <= policy.alpha
    # Either rule may be the one that catches a loss first; with power 1/2 as level the first is left.
    seen = min(
        paired.detectable(found.rows, found.disagreement, policy.alpha),
        policy.margin + paired.detectable(found.rows, found.disagreement, 0.5),
    )
    why = f"; a loss of about {100 * seen:.1f} points would show."
    if too_much and spare and not proven:
        why = "; more than may be lost, but it may be chance, and golden rows decide."
    elif too_much:
        why = f": more than the {100 * policy.margin:.1f} points that may be lost."
    elif proven:
        why = f": worse, and not by chance (p = {p_value:.2g})."
    low, high = found.interval
    return Check(
        name,
        not ((too_much and proven) if spare else (too_much or proven)),
        _told(name, found) + why,
        *(found.difference, low, high, -policy.margin, found.rows, p_value),
    )


def _new(found: Counts, policy: config.Gate) -> Check:
    """A proven gain on new rows."""
    if found.rows < policy.min_new:
        return Check("new", False, _too_few("new", found, policy.min_new, policy, "gain"), rows=found.rows)
    p_value, gain = found.p_better, found.difference
    passed = gain > 0 and p_value < policy.alpha
    if passed:
        why = f": better (p = {p_value:.2g})."
    elif gain > 0:
        needed = max(paired.rows_needed(gain, found.disagreement, policy.alpha), found.rows + 1)
        why = f": not proven better (p = {p_value:.2g}); about {needed} labelled new rows would decide it."
    else:
        seen = paired.detectable(found.rows, found.disagreement, policy.alpha)
        why = f": not better; a gain of about {100 * seen:.1f} points would show."
    low, high = found.interval
    return Check("new", passed, _told("new", found) + why, gain, low, high, 0.0, found.rows, p_value)


def _first(trials: Sequence[Trial], rows: Pool, policy: config.Gate) -> list[Check]:
    """Version 1: better than always answering the most frequent label, on the batch's holdout and,
    where there is one, the golden set."""
    import numpy as np

    checks = []
    for name in ("new", *(trial.name for trial in trials if trial.name == "golden")):
        mine = rows.sets == name
        n = int(mine.sum())
        if n < policy.min_new:
            text = f"Only {n} labelled {name} rows; version 1 needs at least {policy.min_new}."
            checks.append(Check("floor", False, text, rows=n))
            continue
        right = float(rows.candidate.right[mine].mean())
        share = float(np.bincount(rows.truth[mine]).max() / n)
        passed = right - share >= policy.floor - EPSILON
        text = (
            f"Right on {percent(right)} of {n} {name} rows; always saying the most frequent label is right "
            f"on {percent(share)}, and at least {100 * policy.floor:.1f} points more are asked for."
        )
        checks.append(Check("floor", passed, text, right - share, None, None, policy.floor, n))
    return checks


# --- what else may be lost ----------------------------------------------------------------------------


def _macro_f1(rows: Pool, policy: config.Gate, seed: int, draws: int) -> Iterator[Check]:
    n = int(rows.old.sum())
    if rows.champion is None or n < policy.min_old:
        return
    truth, before, after = (
        codes[rows.old] for codes in (rows.truth, rows.champion.predicted, rows.candidate.predicted)
    )
    was, now, low, high = paired.f1_difference(truth, before, after, draws=draws, seed=seed)
    limit = -2 * policy.margin
    passed = now - was >= limit - EPSILON
    text = f"Macro-F1 on {n} old rows: {percent(now)}, champion {percent(was)} ({points(now - was)})"
    why = "." if passed else f": more than the {-100 * limit:.1f} points that may be lost."
    yield Check("macro-F1", passed, text + why, now - was, low, high, limit, n)


def _flips(rows: Pool, policy: config.Gate) -> Iterator[Check]:
    """Old rows that turn from right to wrong, and (shown only) from wrong to right."""
    found = rows.counts(rows.old)
    if not found.rows:
        return
    lost, won = found.lost / found.rows, found.won / found.rows
    if found.rows >= policy.min_old:
        passed = lost <= policy.flips + EPSILON
        why = "." if passed else f": more than the {percent(policy.flips)} allowed."
        text = f"{percent(lost)} of {found.rows} old rows turn from right to wrong{why}"
        yield Check("flips", passed, text, lost, limit=policy.flips, rows=found.rows)
    text = f"{percent(won)} of {found.rows} old rows turn from wrong to right."
    yield Check("gains", True, text, won, rows=found.rows, judged=False)


def _slices(rows: Pool, champion: tuple[str, ...], policy: config.Gate) -> Iterator[Check]:
    """Every label that the champion knows, and every source where there are several."""
    import numpy as np

    known = np.isin(rows.truth, [rows.names.index(label) for label in champion])
    sources = np.array([source or "" for source in rows.sources], dtype=object)
    masks = {f"label: {name}": known & (rows.truth == code) for code, name in enumerate(rows.names)}
    several = sorted(set(sources[known]) - {""})
    if len(several) > 1:
        masks |= {f"source: {name}": known & (sources == name) for name in several}
    found = {name: rows.counts(mask) for name, mask in masks.items() if mask.any()}
    judged = {name: counts for name, counts in found.items() if counts.rows >= policy.min_slice}
    lost, won = (np.array([getattr(c, side) for c in judged.values()], dtype=int) for side in ("lost", "won"))
    p_values = paired.holm(paired.mcnemar(lost, won))
    for (name, counts), p_value in zip(judged.items(), p_values.tolist(), strict=True):
        failed = counts.difference < -policy.slice_margin - EPSILON and p_value <= policy.alpha
        yield _slice(name, counts, policy, p_value, failed=failed)
    small = sorted(found.keys() - judged.keys(), key=lambda name: (-found[name].rows, name))
    for name in small[:MOST_SHOWN]:
        yield _slice(name, found[name], policy, None, failed=False)


def _slice(name: str, found: Counts, policy: config.Gate, p_value: float | None, *, failed: bool) -> Check:
    low, high = found.interval
    text = (
        f"{short(name)}: right on {found.after} of {found.rows} rows, champion {found.before} "
        f"({points(found.difference)})"
    )
    if p_value is None:
        why = ", too few rows to be judged."
    elif failed:
        why = f": more than the {100 * policy.slice_margin:.1f} points that may be lost (p = {p_value:.2g})."
    else:
        why = "."
    figures = (found.difference, low, high, None if p_value is None else -policy.slice_margin)
    return Check(
        short(name), not failed, text + why, *figures, found.rows, p_value, judged=p_value is not None
    )


def _shown(rows: Pool) -> Iterator[Check]:
    """Forgetting on old rows and calibration on all: told, not judged."""
    import numpy as np

    assert rows.champion is not None  # noqa: S101 - a caller's mistake, not an input's
    truth = rows.truth[rows.old]
    if len(truth):
        support = np.bincount(truth)
        flips = rows.champion.right[rows.old].astype(float) - rows.candidate.right[rows.old]
        drops = np.bincount(truth, weights=flips)[support > 0] / support[support > 0]
        worst = rows.names[int(np.flatnonzero(support > 0)[drops.argmax()])]
        text = (
            f"Accuracy lost per label of old rows, on average: {100 * drops.mean():.1f} points; "
            f"most on {short(worst)!r} ({100 * drops.max():.1f} points)."
        )
        yield Check("forgetting", True, text, float(drops.mean()), rows=len(truth), judged=False)
    if n := len(rows.truth):
        was, now = (
            paired.calibration_error(side.confidence, side.right) for side in (rows.champion, rows.candidate)
        )
        text = f"Calibration error on all {n} rows: {percent(now)}, champion {percent(was)}."
        yield Check("calibration", True, text, now - was, rows=n, judged=False)
