"""On a real GPU: it is really used, it answers as torch on the CPU does, and it is given back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from keeperd import config, rows, versions
from keeperd.api import JSON, BadInputError, Context
from keeperd.inference import Predictor, gpu, parity
from keeperd.jobs import verify
from keeperd.paths import StatePaths
from keeperd.runs import Runs
from keeperd.store import Store
from keeperd_plugins.text_classification import TextClassification
from tests import candidates
from tests.fakes import FakeClock
from tests.test_inference import in_a_process, seal
from tests.test_train_job import topics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpu.here(), reason="needs an NVIDIA GPU and its driver"),
]

SHAPES_ONLY = {
    "Cast",
    "Concat",
    "Expand",
    "Gather",
    "Range",
    "Reshape",
    "Shape",
    "Slice",
    "Squeeze",
    "Unsqueeze",
}
"""What ONNX Runtime leaves to the CPU on purpose: sums of dimensions, which it needs there."""

PATIENCE = 240.0


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return candidates.exported(tmp_path_factory.getbasetemp())


@pytest.fixture
def state(exported: Path, tmp_path: Path) -> Path:
    return candidates.copy(exported, tmp_path / "state")


def artefacts(state: Path) -> Path:
    return state / "runs" / "1" / "out" / "onnx"


def predictor(state: Path, name: str, *providers: str) -> Predictor:
    return Predictor.open(
        artefacts(state) / name,
        state / "candidate" / "model",
        classes=candidates.CLASSES,
        max_tokens=48,
        providers=providers,
    )


def by_precision(result: dict[str, JSON]) -> dict[str, Any]:
    return {one["precision"]: one for one in result["artefacts"]}


# --- inference --------------------------------------------------------------------------------------


def test_the_gpu_has_a_name_and_memory() -> None:
    used = gpu.used_mb()
    assert gpu.name()
    assert used is not None
    assert used > 0


@pytest.mark.parametrize("name", ["model.onnx", "model.fp16.onnx"])
def test_the_gpu_computes_and_the_cpu_only_sums_dimensions(exported: Path, name: str) -> None:
    with predictor(exported, name, "cuda", "cpu") as opened:
        assert opened.provider == "cuda"
        placed = opened.placement()
    assert set(placed) <= {"cuda", "cpu"}
    assert set(placed.get("cpu", ())) <= SHAPES_ONLY
    heavy = {"MatMul", "Attention"} if name == "model.fp16.onnx" else {"MatMul", "Softmax"}
    assert heavy <= set(placed["cuda"])


@pytest.mark.parametrize(("name", "most"), [("model.onnx", 1e-4), ("model.fp16.onnx", 5e-3)])
def test_the_answers_are_those_of_torch_on_the_cpu(
    exported: Path, tmp_path: Path, name: str, most: float
) -> None:
    """`most`: relative to the largest value, for half precision has eleven bits whatever the size."""
    texts = candidates.ODD + candidates.texts(200, seed=5)[0]
    expected = TextClassification().predict(exported / "candidate" / "model", texts, 48, Context(tmp_path))
    with predictor(exported, name, "cuda") as opened:
        found = opened.predict(texts)
        again = opened.predict(texts[::-1])
    for mine, theirs in ((found.logits, expected.logits), (found.embeddings, expected.embeddings)):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=most * np.abs(theirs).max())
    assert parity.same_labels(expected.logits, found.logits) > 0.98
    np.testing.assert_array_equal(again.logits[::-1], found.logits)


def test_torch_answers_the_same_on_the_gpu(exported: Path, tmp_path: Path) -> None:
    model = exported / "candidate" / "model"
    texts = candidates.texts(100, seed=6)[0]
    expected = TextClassification().predict(model, texts, 48, Context(tmp_path))
    found = TextClassification().predict(model, texts, 48, Context(tmp_path, device="cuda"))
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-3)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-3)


def test_a_closed_predictor_gives_its_memory_back(exported: Path) -> None:
    texts = candidates.texts(400, seed=7)[0]
    with predictor(exported, "model.onnx", "cuda") as opened:
        opened.predict(texts)  # what CUDA itself keeps is there from now on
    before = gpu.used_mb()
    with predictor(exported, "model.onnx", "cuda") as opened:
        opened.predict(texts)
    after = gpu.used_mb()
    assert before is not None
    assert after is not None
    assert after - before < 4


# --- a GPU that is hidden or does not work ----------------------------------------------------------

OPEN = (
    "import sys; from pathlib import Path; from keeperd.inference import Predictor\n"
    "p = Predictor.open(Path(sys.argv[1]), Path(sys.argv[2]), classes=('sport', 'weather'), max_tokens=48,\n"
    "    providers=sys.argv[3].split(','))\n"
    "p.predict(['rain']); print(p.provider)"
)


def test_opening_on_the_gpu_says_nothing(exported: Path) -> None:
    done = in_a_process(
        OPEN, artefacts(exported) / "model.onnx", exported / "candidate" / "model", "cuda,cpu"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("cuda\n", "", 0)


def test_a_hidden_gpu_is_passed_over_in_silence(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = in_a_process(
        OPEN, artefacts(exported) / "model.onnx", exported / "candidate" / "model", "cuda,cpu"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("cpu\n", "", 0)


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_AS, (8 * 10**9,) * 2)\n"


def test_a_driver_that_does_not_start_is_told(exported: Path) -> None:
    """CUDA reserves more address space than that."""
    files = (artefacts(exported) / "model.onnx", exported / "candidate" / "model")
    done = in_a_process(LIMITED + OPEN, *files, "cuda,cpu")
    assert (done.stdout, done.returncode) == ("cpu\n", 0)
    assert done.stderr.startswith("model.onnx: no GPU (the driver does not start: ")
    assert done.stderr.count("\n") == 1
    done = in_a_process(LIMITED + OPEN, *files, "cuda")
    assert "none of cuda is here" in done.stderr


FILL = (
    "import torch; full = []\n"
    "for size in (10**10, 10**9, 10**8, 10**7, 10**6):\n"
    "    while True:\n"
    "        try: full.append(torch.empty(size, dtype=torch.uint8, device='cuda'))\n"
    "        except torch.OutOfMemoryError: break\n"
)


def test_a_gpu_without_memory_is_told_and_the_graph_is_not_blamed(exported: Path) -> None:
    files = (artefacts(exported) / "model.onnx", exported / "candidate" / "model")
    done = in_a_process(FILL + OPEN, *files, "cuda,cpu")
    assert (done.stdout, done.returncode) == ("cpu\n", 0)
    assert "cuda does not work here (CU" in done.stderr
    done = in_a_process(FILL + OPEN, *files, "cuda")
    assert done.stderr.splitlines()[-1].startswith("keeperd.inference.runtime.NoProviderError: ")


def test_a_broken_graph_is_told_on_the_gpu_too(state: Path) -> None:
    path = artefacts(state) / "model.onnx"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BadInputError, match="export it again"):
        predictor(state, "model.onnx", "cuda", "cpu")


def test_what_was_accepted_on_the_processor_is_not_opened_on_the_gpu(exported: Path, tmp_path: Path) -> None:
    """ONNX Runtime would spread an int8 graph over both, and copy back and forth."""
    folder = candidates.copy(exported / "candidate", tmp_path / "version")
    candidates.copy(artefacts(exported), folder / "onnx")
    seal(folder, "model.int8.onnx")
    with Predictor(folder, ("cuda", "cpu")) as opened:
        assert (opened.provider, opened.placement()) == ("cpu", {})


# --- verification -----------------------------------------------------------------------------------


def test_the_fastest_that_answers_alike_is_chosen(state: Path) -> None:
    job = candidates.verify_job(state)
    result = verify.run(job)
    told = by_precision(result)
    assert [told[name]["provider"] for name in ("fp32", "int8", "fp16")] == ["cuda", "cpu", "cuda"]
    assert told["fp16"]["passed"]
    assert told["fp16"]["agreement"] > 0.975
    chosen = parity.choose(result["artefacts"])
    assert chosen is not None
    assert result["chosen"] == chosen["file"]
    assert told["fp16"]["gpu_mb"] > 0
    assert told["fp16"]["nodes"]["cuda"] > told["fp16"]["nodes"].get("cpu", 0)
    assert result["machine"]["gpu"] == gpu.name()
    versions.verify(job.out / "version", result["manifest"])


def test_fp16_serves_where_the_others_may_not(state: Path) -> None:
    """Without a rival it must be chosen, whatever this machine's speed."""
    for name in ("model.onnx", "model.int8.onnx"):
        (artefacts(state) / name).write_bytes(b"\x08\x0a broken")
    candidates.reseal(state)
    job = candidates.verify_job(state)
    result = verify.run(job)
    assert (result["chosen"], result["provider"]) == ("model.fp16.onnx", "cuda")
    with Predictor(job.out / "version", ("cuda", "cpu")) as opened:
        assert (opened.provider, opened.verified_on) == ("cuda", "cuda")
        texts = rows.window(rows.read([job.out / "version" / "holdout.parquet"])).texts
        right = opened.predict(texts).logits.argmax(1)
    torch_says = TextClassification().predict(state / "candidate" / "model", texts, 48, Context(job.folder))
    assert (right == torch_says.logits.argmax(1)).mean() > 0.975


def test_fp16_that_answers_otherwise_is_refused(state: Path) -> None:
    path = artefacts(state) / "model.fp16.onnx"
    graph = onnx.load(path)
    (last,) = [node for node in graph.graph.node if "logits" in node.output or node.op_type == "Gemm"][:1]
    (head,) = [one for one in graph.graph.initializer if one.name == last.input[1]]
    head.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(head), head.name))
    onnx.save(graph, path)
    candidates.reseal(state)
    result = verify.run(candidates.verify_job(state))
    assert "of rows, 97.5% needed" in by_precision(result)["fp16"]["why"]
    assert result["chosen"] != "model.fp16.onnx"


# --- a whole chain of workers -----------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path, tiny_base: Path) -> Iterator[Runs]:
    """Workers that must use the GPU; one batch is there."""
    options = {"full": {"epochs": 20, "batch_size": 16}}
    settings = config.Settings.model_validate(
        {
            "state": str(tmp_path / "state"),
            "model": {
                "mail": {
                    "base": str(tiny_base),
                    "watch": ["/w"],
                    "device": "cuda",
                    "options": options,
                    "decide": {"report": None},
                }
            },
        }
    )
    paths = StatePaths(settings.state)
    paths.model("mail").batches.mkdir(parents=True)
    rows.write(paths.model("mail").batch("b1"), topics(900, "food", "sport", "travel"))
    store = Store(paths.database)
    made = Runs(store, paths, settings, FakeClock())
    yield made
    made.stop_all()
    store.close()


def finish(runs: Runs, kind: str, inputs: dict[str, JSON]) -> tuple[Path, dict[str, JSON]]:
    """Run one job in a worker; its folder and what it returned."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        if (done := runs.ensure(0, "mail", kind, inputs)) is not None:
            return runs.paths.run(done[0]), done[1]
        time.sleep(0.05)
    raise AssertionError(f"{kind} never ended")


def test_from_training_to_answers_and_the_gpu_is_free_again(runs: Runs) -> None:
    before = gpu.used_mb()
    train = {"version": 1, "champion": None, "batches": ["b1"], "strategy": "full", "cycle": 0}
    trained, lineage = finish(runs, "train", train)
    candidate = trained / "out" / "candidate"
    assert json.loads((candidate / "lineage.json").read_bytes())["device"] == "cuda"
    judged: dict[str, JSON] = {"candidate": str(candidate), "manifest": lineage["manifest"]}
    _, verdict = finish(
        runs, "gate", {"champion": None, "candidate": str(candidate), "batches": ["b1"], "golden_sha": None}
    )
    assert verdict["passed"], verdict
    exported, made = finish(runs, "export", judged)
    assert [one["precision"] for one in made["artefacts"]] == ["fp32", "int8", "fp16"]
    inputs = {**judged, "version": 1, "export": str(exported / "out"), "verdict": verdict, "batches": ["b1"]}
    verified, result = finish(runs, "verify", inputs)
    told = by_precision(result)
    assert (told["fp32"]["provider"], told["fp16"]["provider"]) == ("cuda", "cuda")
    assert told["fp16"]["passed"], told["fp16"]["why"]
    after = gpu.used_mb()
    assert before is not None
    assert after is not None
    assert after - before < 64
    with Predictor(verified / "out" / "version", ("cuda", "cpu")) as opened:
        answers = opened.predict(["we saw the goal in the stadium", "bread and soup for dinner"])
        named = [opened.classes[column] for column in answers.logits.argmax(1)]
    assert named == ["sport", "food"]
