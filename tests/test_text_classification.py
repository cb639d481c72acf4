"""The task "text-classification": which folders it takes, what it answers, how it is exported."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keeperd.api import BadInputError, Context, PluginError, Stopped
from keeperd_plugins import _classifier, _text
from keeperd_plugins.onnx_exporter import OnnxExporter
from keeperd_plugins.text_classification import TextClassification
from tests.conftest import labelled_texts, save_tiny

LABELS = ("food", "sport", "travel")
TEXTS = [*labelled_texts(21)[0], "unknownword", "", "bread " * 200]


@pytest.fixture
def task() -> TextClassification:
    return TextClassification()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(workdir=tmp_path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in ("bert", "distilbert", "roberta", "gpt2"):
        save_tiny(folder / kind, kind, LABELS)
    wrapped = _classifier.load(save_tiny(folder / "encoder", "bert"), 48)
    _classifier.grow(wrapped, LABELS)
    (folder / "mean pool").mkdir()
    wrapped.save(folder / "mean pool")
    return folder


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content))


BAD: dict[str, Callable[[Path], object]] = {
    "remote code": lambda f: edit(f, "config.json", lambda c: c.update(auto_map={"AutoModel": "x.Y"})),
    "nested remote code": lambda f: edit(f, "config.json", lambda c: c.update(encoder={"auto_map": {}})),
    "remote code of the tokenizer": lambda f: edit(
        f, "tokenizer_config.json", lambda c: c.update(auto_map={"AutoTokenizer": ["x.Y", None]})
    ),
    "attention kernel": lambda f: edit(
        f, "config.json", lambda c: c.update(_attn_implementation_internal="someone/kernel")
    ),
    "pickled weights": lambda f: (f / "pytorch_model.bin").write_bytes(b"x"),
    "pickled state": lambda f: (f / "rng_state.pth").write_bytes(b"x"),
    "pickle in a folder": lambda f: shutil.copytree(f, f / "deep").joinpath("a.PKL").write_bytes(b"x"),
    "checkpoint": lambda f: (f / "last.ckpt").write_bytes(b"x"),
    "code": lambda f: (f / "modeling.py").write_text("print()"),
    "adapter": lambda f: (f / "adapter_config.json").write_text("{}"),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "no tokenizer": lambda f: (f / "tokenizer.json").unlink(),
    "no config": lambda f: (f / "config.json").unlink(),
    "broken config": lambda f: (f / "config.json").write_text("{"),
    "config of another shape": lambda f: (f / "config.json").write_text("[]"),
    "deep config": lambda f: (f / "config.json").write_text("[" * 100_000),
    "huge header": lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}"),
    "header over our limit": lambda f: (f / "model.safetensors").write_bytes(
        struct.pack("<Q", 9 * 2**20) + b" " * 9 * 2**20
    ),
    "empty weights": lambda f: (f / "model.safetensors").write_bytes(b""),
    "header is no JSON": lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"abcd"),
    "shard elsewhere": lambda f: (
        (f / "model.safetensors").rename(f / "a.safetensors"),
        (f / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../a.safetensors"}}'),
    ),
    "labels twice": lambda f: edit(f, "config.json", lambda c: c.update(id2label={"0": "a", "1": "a"})),
    "label numbers": lambda f: edit(f, "config.json", lambda c: c.update(id2label={"1": "a", "2": "b"})),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_folder_that_is_unsafe_or_incomplete_is_refused(
    task: TextClassification, models: Path, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models / "bert", folder)
    BAD[fault](folder)
    with pytest.raises(BadInputError) as caught:
        task.classes(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value), "says what to do about it"


UNLOADABLE: dict[str, Callable[[Path], object]] = {
    "unknown architecture": lambda f: edit(f, "config.json", lambda c: c.update(model_type="nobody-knows")),
    "weights of another shape": lambda f: edit(f, "config.json", lambda c: c.update(hidden_size=64)),
    "odd value": lambda f: edit(f, "config.json", lambda c: c.update(num_attention_heads="two")),
    "cut weights": lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:-64]
    ),
    "no padding token": lambda f: edit(f, "config.json", lambda c: c.update(pad_token_id=None)),
    "broken tokenizer": lambda f: (f / "tokenizer.json").write_text("{}"),
}


@pytest.mark.parametrize("fault", UNLOADABLE)
def test_a_folder_that_cannot_be_loaded_gives_one_line(
    task: TextClassification, models: Path, tmp_path: Path, context: Context, fault: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models / "bert", folder)
    UNLOADABLE[fault](folder)
    with pytest.raises(BadInputError) as caught:
        task.predict(folder, ["bread"], 16, context)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_are_those_of_the_config(task: TextClassification, models: Path, tiny_base: Path) -> None:
    assert task.classes(models / "bert") == LABELS
    assert task.classes(tiny_base) == ()


def test_a_classifier_without_names_has_the_default_ones(
    task: TextClassification, models: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(models / "bert", tmp_path / "model")
    edit(folder, "config.json", lambda c: c.pop("id2label"))
    assert task.classes(folder) == ("LABEL_0", "LABEL_1")


def test_an_encoder_with_a_decoder_is_refused(
    task: TextClassification, models: Path, tmp_path: Path, context: Context
) -> None:
    import transformers

    folder = shutil.copytree(models / "encoder", tmp_path / "model")
    sizes: dict[str, Any] = {
        "d_model": 32,
        "d_ff": 64,
        "num_layers": 1,
        "num_heads": 2,
        "d_kv": 16,
        "vocab_size": 80,
    }
    transformers.T5Model(transformers.T5Config(**sizes)).save_pretrained(folder)
    with pytest.raises(BadInputError, match="decoder"):
        task.onnx(folder, 16)


def test_a_base_without_labels_does_not_predict(
    task: TextClassification, tiny_base: Path, context: Context
) -> None:
    with pytest.raises(BadInputError, match="names no labels"):
        task.predict(tiny_base, ["bread"], 16, context)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "gpt2"])
def test_predictions_are_those_of_transformers(
    task: TextClassification, models: Path, context: Context, kind: str
) -> None:
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification

    found = task.predict(models / kind, TEXTS, 48, context)
    assert found.logits.shape == (len(TEXTS), 3)
    assert found.embeddings.shape == (len(TEXTS), 32)
    assert found.logits.dtype == found.embeddings.dtype == np.float32
    model = AutoModelForSequenceClassification.from_pretrained(models / kind, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(models / kind / "tokenizer.json"))
    tokenizer.enable_truncation(48)
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        assert np.allclose(found.logits[row], output.logits[0].numpy(), atol=1e-5)
        assert np.allclose(found.embeddings[row], output.hidden_states[-1][0].mean(0).numpy(), atol=1e-5)


def test_no_text_gives_no_row(task: TextClassification, models: Path, context: Context) -> None:
    found = task.predict(models / "bert", [], 16, context)
    assert found.logits.shape == (0, 3)
    assert found.embeddings.shape == (0, 32)


def test_more_tokens_than_the_model_can_place_are_cut(
    task: TextClassification, models: Path, context: Context
) -> None:
    for kind in ("bert", "roberta", "gpt2"):
        logits = task.predict(models / kind, ["bread " * 500, "bread " * 600], 5000, context).logits
        assert np.allclose(logits[0], logits[1])


def test_text_that_is_no_unicode_is_refused(task: TextClassification, models: Path, context: Context) -> None:
    with pytest.raises(BadInputError, match="Unicode"):
        task.predict(models / "bert", ["bread \ud800"], 16, context)


def test_predict_stops_when_asked(task: TextClassification, models: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        task.predict(models / "bert", TEXTS, 16, Context(workdir=tmp_path, stop_asked=lambda: True))


LOGITS = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 4.0]], np.float32)


def test_metrics_of_known_rows(task: TextClassification) -> None:
    figures = task.metrics(LABELS, ["food", "sport", "travel", "travel"], LOGITS)
    assert next(iter(figures)) == "accuracy"
    assert figures["accuracy"] == 0.75
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert figures["recall:food"] == 1.0
    assert figures["recall:travel"] == 0.5
    sure = math.exp(4) / (math.exp(4) + 2)
    unsure = 1 / (math.exp(4) + 2)
    assert figures["log_loss"] == pytest.approx(-(3 * math.log(sure) + math.log(unsure)) / 4)
    assert figures["ece"] == pytest.approx(sure - 0.75)


def test_a_label_that_the_model_does_not_know_is_an_error(task: TextClassification) -> None:
    labels = ["food", "sport", "opera", "travel"]
    figures = task.metrics(LABELS, labels, LOGITS)
    assert task.scores(LABELS, labels, LOGITS).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert figures["accuracy"] == 0.75
    assert figures["recall:opera"] == 0.0
    assert all(math.isfinite(value) for value in figures.values())


def test_answers_that_are_not_finite_are_wrong_and_show(task: TextClassification) -> None:
    logits = LOGITS.copy()
    logits[0, 0] = np.nan
    figures = task.metrics(LABELS, ["food", "sport", "travel", "travel"], logits)
    assert figures["accuracy"] == 0.5
    assert math.isnan(figures["log_loss"])
    assert math.isnan(figures["ece"])


def test_no_row_is_nothing_to_measure_on(task: TextClassification) -> None:
    with pytest.raises(PluginError, match="no labelled row"):
        task.metrics(LABELS, [], np.zeros((0, 3), np.float32))
    assert task.scores(LABELS, [], np.zeros((0, 3), np.float32)).shape == (0,)


# PyTorch's exporter calls its own deprecated names, and says that a name for an axis is used once only;
# there is nothing that we could call otherwise.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:# The axis name:UserWarning")
@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "mean pool"])
def test_what_is_exported_gives_the_same_answers(
    task: TextClassification, models: Path, tmp_path: Path, context: Context, kind: str
) -> None:
    import onnxruntime as ort

    spec = task.onnx(models / kind, 48)
    assert spec.input_names == ("input_ids", "attention_mask")
    assert spec.output_names == ("logits", "embedding")
    (tmp_path / "onnx").mkdir()
    exporter = OnnxExporter(OnnxExporter.Options(precisions=("fp32",)))
    (artefact,) = exporter.export(spec, tmp_path / "onnx", context)
    session = ort.InferenceSession(tmp_path / "onnx" / artefact.file, providers=["CPUExecutionProvider"])
    expected = task.predict(models / kind, TEXTS, 48, context)
    classifier = _classifier.load(models / kind, 48)
    ids = classifier.encode(TEXTS)
    for rows in ([0], [20], [0, 1, 2], list(range(len(TEXTS)))):
        tokens, mask = _text.pad([ids[row] for row in rows], classifier.encode.pad, "cpu")
        logits, embedding = session.run(None, {"input_ids": tokens.numpy(), "attention_mask": mask.numpy()})
        assert np.allclose(logits, expected.logits[rows], atol=1e-5)
        assert np.allclose(embedding, expected.embeddings[rows], atol=1e-5)
