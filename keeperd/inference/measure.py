"""What an artefact does on this machine: its answers to real texts, alone and in batches, its answers
at odd shapes, how long it takes and how much memory.

The answers are compared afterwards (`keeperd.inference.parity`), so that neither
torch's memory nor its threads are in the figures.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keeperd.api import JSON, Prediction
from keeperd.inference import Predictor, TextEncoder, gpu

Feeds = Mapping[str, np.ndarray]
"""One batch: int64 (b, t) for each input's name."""

WARM_UP = 5
MIN_SINGLE, MAX_SINGLE = 50, 300
SINGLE_SECONDS = 2.0
"""Requests of one text: at least the first number, then until the second or the time is reached."""

ROUNDS = 3
ROUND_SECONDS = 1.5
"""Passes over all rows in batches: the best one counts, and no further one starts after this time."""


@dataclass(frozen=True)
class Measured:
    """One artefact, run.

    Attributes:
        provider: where it ran.
        batched: answers to all rows, in batches.
        single: logits float32 (m, classes) of row i modulo n asked alone; m is 50 to 300.
        shapes: logits and embeddings at each shape of `shapes_of`.
        figures: p50_ms, p95_ms, p99_ms (a text alone, tokenising included), rows_per_s (in batches),
            load_s, peak_mb (of the whole process, None where the kernel does not say); on a GPU also
            gpu_mb (what it took there, beyond CUDA's own) and nodes (provider -> how many of the
            graph's nodes it runs), None elsewhere.
    """

    provider: str
    batched: Prediction
    single: np.ndarray
    shapes: list[tuple[np.ndarray, np.ndarray]]
    figures: dict[str, JSON]


def measure(
    predictor: Predictor,
    texts: Sequence[str],
    load_s: float,
    shapes: Sequence[Feeds],
    gpu_before: float | None = None,
) -> Measured:
    """Run an open artefact on at least one text. `gpu_before`: `gpu.used_mb` before it was opened."""
    on_gpu = predictor.provider != "cpu"
    _warm_up(predictor, texts, on_gpu)
    batched, rows_per_s = _in_batches(predictor, texts)
    single, seconds = _one_by_one(predictor, texts)
    answers = [predictor.run(feeds) for feeds in shapes]
    after = gpu.used_mb() if on_gpu else None
    nodes = {where: len(operators) for where, operators in predictor.placement().items()}
    p50, p95, p99 = (round(1000 * float(np.percentile(seconds, share)), 3) for share in (50, 95, 99))
    figures = {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "rows_per_s": round(rows_per_s, 1),
        "load_s": round(load_s, 3),
        "peak_mb": peak_mb(),
        "gpu_mb": None if after is None or gpu_before is None else round(after - gpu_before, 1),
        "nodes": nodes or None,
    }
    return Measured(predictor.provider, batched, single, answers, figures)


def _warm_up(predictor: Predictor, texts: Sequence[str], on_gpu: bool) -> None:
    """Leave what happens once out of the figures. A GPU loads its kernels when a shape first needs them,
    tens of milliseconds a time, so there every shape that will be timed is asked for."""
    for row in range(MAX_SINGLE if on_gpu else WARM_UP):
        predictor.predict([texts[row % len(texts)]])
    if on_gpu:
        predictor.predict(texts)


def _in_batches(predictor: Predictor, texts: Sequence[str]) -> tuple[Prediction, float]:
    best, spent = math.inf, 0.0
    for _ in range(ROUNDS):
        started = time.perf_counter()
        prediction = predictor.predict(texts)
        took = time.perf_counter() - started
        best, spent = min(best, took), spent + took
        if spent > ROUND_SECONDS:
            break
    return prediction, len(texts) / best


def _one_by_one(predictor: Predictor, texts: Sequence[str]) -> tuple[np.ndarray, list[float]]:
    logits: list[np.ndarray] = []
    seconds: list[float] = []
    while len(seconds) < MIN_SINGLE or (len(seconds) < MAX_SINGLE and sum(seconds) < SINGLE_SECONDS):
        started = time.perf_counter()
        logits.append(predictor.predict([texts[len(seconds) % len(texts)]]).logits)
        seconds.append(time.perf_counter() - started)
    return np.concatenate(logits), seconds


def shapes_of(encoder: TextEncoder, texts: Sequence[str]) -> list[Feeds]:
    """Batches of real tokens in shapes that real texts seldom have, from one token alone to full
    length, ragged on the right."""
    full = encoder.max_tokens
    encodings = encoder.encode(list(texts[:64]))
    tokens = np.concatenate([np.asarray(one.ids or [encoder.pad], np.int64) for one in encodings])
    shapes: list[Feeds] = []
    for rows, wanted in ((1, 1), (1, 16), (2, 16), (3, 7), (2, full), (8, full // 2)):
        length = max(1, min(wanted, full))
        ends = np.array([max(1, length - row * (length // (2 * rows))) for row in range(rows)])
        mask = np.arange(length) < ends[:, None]
        ids = np.where(mask, np.resize(tokens, (rows, length)), encoder.pad)
        shapes.append(
            {
                "input_ids": ids.astype(np.int64),
                "attention_mask": mask.astype(np.int64),
                "token_type_ids": np.zeros((rows, length), np.int64),
            }
        )
    return shapes


def reset_peak() -> None:
    """Start counting peak memory anew, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # then `peak_mb` is that of the whole run so far: too much, never too little


def peak_mb() -> float | None:
    """Largest resident memory of this process since `reset_peak`, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1000, 1)
    return None


def machine(threads: int) -> dict[str, JSON]:
    """What the figures were measured on."""
    return {
        "cpu": _first_value(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "gpu": gpu.name(),
    }


def _first_value(path: Path, key: str) -> str | None:
    """The value of the first "key : value" line of a file below /proc."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name.strip() == key:
            return value.strip()
    return None
