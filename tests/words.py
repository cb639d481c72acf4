"""A real model that is small enough to write down: words that speak for labels.

`WordTask` keeps it as safetensors and answers with numpy; `write_onnx` writes the same model as a
version's ONNX artefact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from keeperd import rows, versions
from keeperd.api import Context, OnnxSpec, Options, Prediction, Task

LABELS = ("ham", "spam", "news")


class WordTask(Task[Options]):
    """The label of the known words of a text; the first label where no word is known."""

    name = "words"

    def classes(self, model: Path) -> tuple[str, ...]:
        return tuple(json.loads((model / "config.json").read_bytes())["classes"])

    def predict(self, model: Path, texts: Sequence[str], max_tokens: int, context: Context) -> Prediction:
        weights = load_file(model / "model.safetensors")["weights"]
        known = {word: i for i, word in enumerate(json.loads((model / "words.json").read_bytes()))}
        bag = np.zeros((len(texts), len(known)), np.float32)
        for row, text in enumerate(texts):
            for word in text.split()[:max_tokens]:
                if word in known:
                    bag[row, known[word]] += 1
        return Prediction(np.asarray(bag @ weights, np.float32), bag)

    def metrics(self, classes: Sequence[str], labels: Sequence[str], logits: np.ndarray) -> dict[str, float]:
        return {"accuracy": float(self.scores(classes, labels, logits).mean())}

    def scores(self, classes: Sequence[str], labels: Sequence[str], logits: np.ndarray) -> np.ndarray:
        said = [classes[i] for i in logits.argmax(axis=1)]
        return np.array([float(a == b) for a, b in zip(said, labels, strict=True)])

    def onnx(self, model: Path, max_tokens: int) -> OnnxSpec:
        raise NotImplementedError("tests write the ONNX file by hand")


def write_model(folder: Path, words: Mapping[str, str], classes: Sequence[str] = LABELS) -> None:
    """The model folder of a model that knows these words (word -> label)."""
    folder.mkdir(parents=True)
    weights = np.zeros((len(words), len(classes)), np.float32)
    for row, label in enumerate(words.values()):
        weights[row, list(classes).index(label)] = 2.0
    save_file({"weights": weights}, folder / "model.safetensors")
    (folder / "words.json").write_text(json.dumps(list(words)))
    (folder / "config.json").write_text(json.dumps({"classes": list(classes)}))


def write_rows(
    path: Path,
    texts: Sequence[str],
    labels: Sequence[str | None],
    split: str | Sequence[str] = "holdout",
    *,
    times: Sequence[datetime | None] = (),
    sources: Sequence[str | None] = (),
) -> None:
    """A file of rows as intake freezes them, without fingerprints."""
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    n = len(texts)
    columns = {
        "id": [f"{path.stem}-{i}" for i in range(n)],
        "text": list(texts),
        "label": list(labels),
        "time": list(times) or [None] * n,
        "source": list(sources) or ["feed"] * n,
        "split": [split] * n if isinstance(split, str) else list(split),
        "hash": list(range(n)),
        "bands": [[i] for i in range(n)],
    }
    rows.write(path, pa.table(columns, schema=rows.SCHEMA))


def write_version(
    folder: Path,
    version: int,
    words: Mapping[str, str],
    classes: Sequence[str] = LABELS,
    holdout: Mapping[str, str] | None = None,
) -> Path:
    """A sealed version with the model, its ONNX artefact and a holdout (text -> label)."""
    write_model(folder / "model", words, classes)
    write_onnx(folder, words, classes)
    held = holdout or {}
    write_rows(folder / "holdout.parquet", list(held), list(held.values()))
    versions.seal(folder, "mail", version)
    return folder


def write_onnx(folder: Path, words: Mapping[str, str], classes: Sequence[str]) -> None:
    """onnx/model.onnx, its tokenizer and parity.json: the sum of the words' rows are the logits."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, pre_tokenizers

    weights = load_file(folder / "model" / "model.safetensors")["weights"]
    table = np.concatenate([np.zeros((1, len(classes)), np.float32), weights])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["logits"], keepdims=0),
        helper.make_node("Identity", ["logits"], ["embedding"]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", len(classes)])
        for name in ("logits", "embedding")
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        outputs,
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "onnx").mkdir()
    onnx.save(model, folder / "onnx" / "model.onnx")
    tokenizer = Tokenizer(
        models.WordLevel({"[UNK]": 0} | {word: i for i, word in enumerate(words, 1)}, "[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    config = {"classes": list(classes), "pad_token_id": 0}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    parity = {
        "chosen": "model.onnx",
        "classes": list(classes),
        "max_tokens": 16,
        "batch": 8,
        "provider": "cpu",
    }
    (folder / "parity.json").write_text(json.dumps(parity))
