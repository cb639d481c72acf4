"""Exporting: graphs that answer as the model does, at any shape, and nothing said that need not be."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from keeperd.api import Context, OnnxSpec, PluginError, Stopped
from keeperd.inference import Predictor, gpu, runtime
from keeperd.jobs import export
from keeperd.versions import VersionError, sha256_file
from keeperd_plugins import onnx_exporter
from keeperd_plugins.onnx_exporter import OnnxExporter
from keeperd_plugins.text_classification import TextClassification
from tests import candidates
from tests.conftest import labelled_texts, save_tiny

no_gpu = pytest.mark.skipif(gpu.here(), reason="for machines without a GPU")


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return candidates.exported(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def out(state: Path) -> Path:
    return state / "runs" / "1" / "out"


class Bag(nn.Module):
    """The smallest module with the right inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, 32)
        self.head = nn.Linear(32, 3)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mask = attention_mask.unsqueeze(-1).to(torch.float32)
        mean = (self.words(input_ids) * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        return self.head(mean), mean


class Broken(Bag):
    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("no such thing\nin detail")


class Eager(Bag):
    """Can be exported only after its attention was made eager, as some decoders."""

    eager = False

    def set_attn_implementation(self, kind: str) -> None:
        self.eager = kind == "eager"

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.eager and torch.compiler.is_exporting():
            raise RuntimeError("sdpa does not export")
        return super().forward(input_ids, attention_mask)


class Traced(Bag):
    """Can be traced, but not exported."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.compiler.is_exporting():
            raise RuntimeError("data-dependent control flow")
        return super().forward(input_ids, attention_mask)


def spec(module: nn.Module) -> OnnxSpec:
    ids = torch.arange(10).reshape(2, 5)
    axes = {0: "batch", 1: "sequence"}
    return OnnxSpec(
        module=module,
        inputs=(ids, torch.ones_like(ids)),
        input_names=("input_ids", "attention_mask"),
        output_names=("logits", "embedding"),
        dynamic_axes={"input_ids": axes, "attention_mask": axes},
    )


def exporter(**options: Any) -> OnnxExporter:
    return OnnxExporter(OnnxExporter.Options.model_validate(options))


def folders(tmp_path: Path) -> tuple[Path, Context]:
    (tmp_path / "out").mkdir()
    (tmp_path / "work").mkdir()
    return tmp_path / "out", Context(tmp_path / "work")


def test_the_job_lists_what_it_made(out: Path) -> None:
    artefacts = json.loads((out / "artefacts.json").read_bytes())
    found = [(one["file"], one["precision"], one["runs_on"]) for one in artefacts]
    assert found == [
        ("model.onnx", "fp32", "any"),
        ("model.int8.onnx", "int8", "cpu"),
        ("model.fp16.onnx", "fp16", "cuda"),
    ]
    for one in artefacts:
        assert one["files"] == {one["file"]: sha256_file(out / "onnx" / one["file"])}
    assert sorted(path.name for path in (out / "onnx").iterdir()) == sorted(one["file"] for one in artefacts)


def test_axes_are_named_and_outputs_too(out: Path) -> None:
    session = onnxruntime.InferenceSession(out / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(one.name, one.shape) for one in session.get_inputs()] == [
        ("input_ids", ["batch", "sequence"]),
        ("attention_mask", ["batch", "sequence"]),
    ]
    assert [(one.name, one.shape) for one in session.get_outputs()] == [
        ("logits", ["batch", 2]),
        ("embedding", ["batch", 32]),
    ]


def test_graphs_are_quantised_and_fused(out: Path) -> None:
    def operators(name: str) -> set[str]:
        return {node.op_type for node in onnx.load(out / "onnx" / name).graph.node}

    assert "MatMulInteger" in operators("model.int8.onnx")
    assert {"Attention", "SkipLayerNormalization", "BiasGelu"} <= operators("model.fp16.onnx")
    halves = [one.data_type for one in onnx.load(out / "onnx" / "model.fp16.onnx").graph.initializer]
    assert halves.count(onnx.TensorProto.FLOAT16) > len(halves) / 2


def test_graphs_tell_nothing_of_the_machine(out: Path) -> None:
    for path in (out / "onnx").iterdir():
        content = path.read_bytes()
        assert str(Path.cwd()).encode() not in content
        assert b"site-packages" not in content


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx", "model.fp16.onnx"])
def test_every_precision_runs_on_the_cpu_and_is_near(state: Path, out: Path, name: str) -> None:
    texts = candidates.texts(60, seed=8)[0]

    def answers(artefact: str) -> np.ndarray:
        with Predictor.open(
            out / "onnx" / artefact,
            state / "candidate" / "model",
            classes=candidates.CLASSES,
            max_tokens=48,
        ) as predictor:
            return predictor.predict(texts).logits

    plain, found = answers("model.onnx"), answers(name)
    assert (plain.argmax(1) == found.argmax(1)).mean() > 0.9


def test_nothing_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Warnings are errors in these tests already."""
    made, context = folders(tmp_path)
    with caplog.at_level(logging.INFO):
        exporter(cuda="always").export(spec(Bag()), made, context)
    assert [record.getMessage() for record in caplog.records] == ["exported by dynamo"]
    assert capfd.readouterr() == ("", "")


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    hashes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made, context = folders(tmp_path / name)
        exporter().export(spec(Bag()), made, context)
        hashes.append({path.name: sha256_file(path) for path in made.iterdir()})
    assert hashes[0] == hashes[1]


def test_large_weights_get_a_file_of_their_own(tmp_path: Path) -> None:
    made, context = folders(tmp_path)
    artefacts = exporter(single_file=0, cuda="always").export(spec(Bag()), made, context)
    small, small_context = folders(tmp_path / "work")
    exporter(cuda="always").export(spec(Bag()), small, small_context)
    feeds = {"input_ids": np.array([[7, 8, 9]]), "attention_mask": np.array([[1, 1, 0]])}
    for artefact in artefacts:
        path = made / artefact.file
        assert runtime.external_files(path) == [path.with_name(f"{path.name}.data")]
        assert runtime.external_files(small / artefact.file) == []
        found = runtime.open_session(path).run(None, feeds)
        expected = runtime.open_session(small / artefact.file).run(None, feeds)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_only_what_is_wanted_is_made(tmp_path: Path) -> None:
    made, context = folders(tmp_path)
    artefacts = exporter(precisions=("int8",)).export(spec(Bag()), made, context)
    assert [one.precision for one in artefacts] == ["int8"]
    assert [path.name for path in made.iterdir()] == ["model.int8.onnx"]


@no_gpu
def test_fp16_is_for_a_gpu(tmp_path: Path) -> None:
    made, context = folders(tmp_path)
    assert [one.precision for one in exporter().export(spec(Bag()), made, context)] == ["fp32", "int8"]
    with pytest.raises(PluginError, match='set cuda = "always"'):
        exporter(precisions=("fp16",)).export(spec(Bag()), made, context)


def test_attention_is_made_eager_where_that_helps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made, context = folders(tmp_path)
    with caplog.at_level(logging.INFO):
        exporter(precisions=("fp32",)).export(spec(Eager()), made, context)
    assert caplog.records[-1].getMessage() == "exported by dynamo with eager attention"


def test_the_last_resort_is_tracing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made, context = folders(tmp_path)
    found = exporter(cuda="always").export(spec(Traced()), made, context)
    assert [one.precision for one in found] == ["fp32", "int8", "fp16"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "gpt2"])
def test_architectures(tmp_path: Path, kind: str) -> None:
    model = save_tiny(tmp_path / "model", kind, labels=("a", "b", "c"))
    made, context = folders(tmp_path)
    task = TextClassification()
    exporter(cuda="always").export(task.onnx(model, 60), made, context)
    texts = labelled_texts(40)[0]
    expected = task.predict(model, texts, 60, context)
    for name, atol in (("model.onnx", 1e-4), ("model.fp16.onnx", 1e-2), ("model.int8.onnx", 0.5)):
        with Predictor.open(made / name, model, classes=("a", "b", "c"), max_tokens=60) as predictor:
            found = predictor.predict(texts)
        np.testing.assert_allclose(found.logits, expected.logits, atol=atol)
        np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=atol)


def test_a_module_that_cannot_be_exported(tmp_path: Path) -> None:
    made, context = folders(tmp_path)
    with pytest.raises(PluginError, match="cannot be exported to ONNX") as raised:
        exporter().export(spec(Broken()), made, context)
    assert "\n" not in str(raised.value)
    assert str(raised.value).count("attention:") == 2


def test_a_graph_that_answers_otherwise_is_noticed(tmp_path: Path) -> None:
    made, context = folders(tmp_path)
    exporter(precisions=("fp32",)).export(spec(Bag()), made, context)
    other = Bag()
    with torch.no_grad():
        other.head.bias.add_(0.5)
        assert onnx_exporter._wrong_answer(spec(Bag()), made / "model.onnx") is None
        wrong = onnx_exporter._wrong_answer(spec(other), made / "model.onnx")
    assert wrong is not None
    assert wrong.startswith("output logits is off by 0.5")


def test_stop_is_obeyed(tmp_path: Path) -> None:
    made, _ = folders(tmp_path)
    with pytest.raises(Stopped):
        exporter().export(spec(Bag()), made, Context(tmp_path / "work", stop_asked=lambda: True))


def test_a_changed_candidate_is_not_exported(state: Path, tmp_path: Path) -> None:
    spoilt = candidates.copy(state / "candidate", tmp_path / "candidate")
    (spoilt / "model" / "config.json").write_text("{}")
    with pytest.raises(VersionError, match="changed after it was sealed"):
        export.run(candidates.job("export", tmp_path, 1, {"candidate": str(spoilt)}))


def test_another_candidate_than_the_judged_one_is_not_exported(state: Path, tmp_path: Path) -> None:
    inputs = {"candidate": str(state / "candidate"), "manifest": "0" * 64}
    with pytest.raises(VersionError, match="not the one that was accepted"):
        export.run(candidates.job("export", tmp_path, 1, inputs))


def test_listing_the_exporter_loads_nothing_heavy() -> None:
    code = (
        "import sys, keeperd_plugins.onnx_exporter as m; list(m.keeperd_components())\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'onnxscript'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
