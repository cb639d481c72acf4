"""Verification: artefacts against torch on real rows, one chosen, a version sealed, or a plain refusal."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from keeperd import config, rows, versions
from keeperd.api import JSON, BadInputError, Context, Prediction, Stopped, Window
from keeperd.drift import reference
from keeperd.inference import Predictor, gpu, measure, parity, subject
from keeperd.jobs import Job, verify
from keeperd.versions import VersionError
from keeperd_plugins.text_classification import TextClassification
from tests import candidates

no_gpu = pytest.mark.skipif(gpu.here(), reason="for machines without a GPU")

ON_CPU: dict[str, JSON] = {"providers": ["cpu"]}
"""Where a test is about the two artefacts that run everywhere."""


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return candidates.exported(tmp_path_factory.getbasetemp())


@pytest.fixture
def state(exported: Path, tmp_path: Path) -> Path:
    return candidates.copy(exported, tmp_path / "state")


@pytest.fixture(scope="module")
def verified(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, dict[str, JSON]]:
    """A job that went well, to be looked at."""
    job = candidates.verify_job(candidates.copy(exported, tmp_path_factory.mktemp("verified") / "state"))
    return job, verify.run(job)


def artefacts(state: Path) -> Path:
    return state / "runs" / "1" / "out" / "onnx"


def by_precision(result: dict[str, JSON]) -> dict[str, Any]:
    return {one["precision"]: one for one in result["artefacts"]}


def test_a_version_that_can_serve(verified: tuple[Job, dict[str, JSON]]) -> None:
    job, result = verified
    version = job.out / "version"
    assert result["passed"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    versions.verify(version, result["manifest"])

    parity_json = json.loads((version / "parity.json").read_bytes())
    assert parity_json.items() <= result.items()
    assert parity_json["rows"] == parity_json["labelled"] == 120
    assert parity_json["max_tokens"] == 48
    fp32 = by_precision(parity_json)["fp32"]
    assert fp32["agreement"] == 1.0
    assert fp32["max_logit_diff"] < 1e-3
    assert fp32["metric"] == fp32["metric_torch"]
    assert fp32["loss"] == 0
    assert 0 < fp32["p50_ms"] <= fp32["p95_ms"] <= fp32["p99_ms"]
    assert fp32["rows_per_s"] > 0
    assert json.loads((version / "verdict.json").read_bytes()) == {"passed": True, "summary": "better"}


def test_what_the_version_was_accepted_on_is_what_it_answers(
    verified: tuple[Job, dict[str, JSON]], tmp_path: Path
) -> None:
    job, _ = verified
    version = job.out / "version"
    window = reference.window(rows.read([version / "reference" / "rows.parquet"]))
    holdout = rows.window(rows.read([version / "holdout.parquet"]))
    texts = list(dict.fromkeys([*window.texts, *holdout.texts]))  # asked together: batches matter to a GPU
    with Predictor(version, job.settings.export.providers) as predictor:
        everything = predictor.predict(texts)
    at = [texts.index(text) for text in window.texts]
    answers = Prediction(everything.logits[at], everything.embeddings[at])
    right = everything.logits[[texts.index(text) for text in holdout.texts]].argmax(1)
    profile = json.loads((version / "profile.json").read_bytes())
    expected = np.mean(
        [candidates.CLASSES[i] == label for i, label in zip(right, holdout.labels, strict=True)]
    )
    assert profile["accuracy"] == pytest.approx(expected)
    assert profile["rows"] == 120
    assert profile == {
        "accuracy": profile["accuracy"],
        "rows": 120,
        **parity.habits(answers.logits, predictor.classes),
    }
    held = reference.load_holdout(version / "reference")
    assert held is not None and held.logits.argmax(1).tolist() == right.tolist()
    # The very window that it was fitted to does not drift.
    statistics = reference.load_statistics(version / "reference" / "monitor")
    window = replace(window, logits=answers.logits, embeddings=answers.embeddings, classes=predictor.classes)
    detector: Any = job.load("detector", "monitor")
    signals, _ = detector.detect(statistics, window, None, Context(tmp_path))
    assert not any(signal.drifted for signal in signals)


def test_a_version_shares_no_file_with_the_runs(verified: tuple[Job, dict[str, JSON]]) -> None:
    job, _ = verified
    files = [path for path in (job.out / "version").rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in files} == {1}
    original = Path(job.inputs["candidate"]) / "model" / "model.safetensors"
    assert not original.samefile(job.out / "version" / "model" / "model.safetensors")


def test_int8_that_answers_otherwise_is_refused_and_fp32_serves(state: Path) -> None:
    path = artefacts(state) / "model.int8.onnx"
    graph = onnx.load(path)
    (head,) = [one for one in graph.graph.initializer if list(one.dims) == [2, 32]]
    head.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(head), head.name))
    onnx.save(graph, path)
    candidates.reseal(state)
    job = candidates.verify_job(state, limits=ON_CPU)
    result = verify.run(job)
    int8 = by_precision(result)["int8"]
    assert (result["chosen"], result["passed"]) == ("model.onnx", True)
    assert not int8["passed"]
    assert "of rows, 97.5% needed; loses " in int8["why"]
    assert int8["loss"] == pytest.approx(int8["metric_torch"] - int8["metric"])
    assert int8["loss_low"] < int8["loss"] < int8["loss_high"]
    kept = sorted(one.name for one in (job.out / "version" / "onnx").iterdir())
    assert "model.onnx" in kept
    assert "model.int8.onnx" not in kept


def test_a_damaged_artefact_is_refused_and_another_serves(state: Path) -> None:
    (artefacts(state) / "model.onnx").write_bytes(b"\x08\x0a broken")
    candidates.reseal(state)
    result = verify.run(candidates.verify_job(state, limits={"agreement": 0.9, "max_loss": 0.1, **ON_CPU}))
    assert "export it again" in by_precision(result)["fp32"]["why"]
    assert result["chosen"] == "model.int8.onnx"


def test_an_artefact_changed_after_its_export_is_refused(state: Path) -> None:
    with (artefacts(state) / "model.int8.onnx").open("ab") as file:
        file.write(b"\0")
    result = verify.run(candidates.verify_job(state, limits=ON_CPU))
    assert "changed after it was accepted" in by_precision(result)["int8"]["why"]
    assert result["chosen"] == "model.onnx"


def test_an_artefact_of_another_model_is_refused(state: Path, tmp_path: Path) -> None:
    """The graph is sound and fast, only not of this candidate."""
    other = candidates.candidate(tmp_path / "other", margin=-8.0)
    state.joinpath("candidate").rename(tmp_path / "gone")
    other.rename(state / "candidate")
    result = verify.run(candidates.verify_job(state))
    assert not result["passed"]
    assert result["manifest"] is None
    fp32 = by_precision(result)["fp32"]
    assert fp32["agreement"] < 0.1
    assert "off by" in fp32["why"]
    assert "99.9% needed" in fp32["why"]


def test_nothing_passes_and_nothing_is_left(state: Path) -> None:
    for path in artefacts(state).iterdir():
        path.unlink()
    job = candidates.verify_job(state)
    result = verify.run(job)
    assert (result["passed"], result["chosen"], result["manifest"]) == (False, None, None)
    assert result["summary"].startswith("no artefact may serve: fp32: ")
    assert not (job.out / "version").exists()


def test_a_hard_linked_artefact_is_refused(state: Path, tmp_path: Path) -> None:
    os.link(artefacts(state) / "model.onnx", tmp_path / "other")
    assert "hard link" in by_precision(verify.run(candidates.verify_job(state)))["fp32"]["why"]


@no_gpu
def test_what_needs_a_gpu_is_kept_but_never_chosen(verified: tuple[Job, dict[str, JSON]]) -> None:
    job, result = verified
    fp16 = by_precision(result)["fp16"]
    assert (fp16["passed"], fp16["tried"], fp16["provider"]) == (False, False, None)
    assert fp16["why"] == verify.NOT_HERE
    assert result["chosen"] != "model.fp16.onnx"
    assert (job.out / "version" / "onnx" / "model.fp16.onnx").is_file()


def test_a_candidate_that_changed_is_refused(state: Path) -> None:
    (state / "candidate" / "lineage.json").write_text("{}")
    with pytest.raises(VersionError, match="changed after it was sealed"):
        verify.run(candidates.verify_job(state))


def test_stop_is_obeyed(state: Path) -> None:
    with pytest.raises(Stopped, match="nothing was kept"):
        verify.run(candidates.verify_job(state, stop=lambda: True))


# --- which rows -------------------------------------------------------------------------------------


def test_rows_are_half_old_half_new_and_never_trained_on(tmp_path: Path) -> None:
    rows.write(tmp_path / "holdout", candidates.table(100, seed=1))
    rows.write(tmp_path / "held", candidates.table(100, seed=2))
    rows.write(tmp_path / "trained", candidates.table(100, seed=3, split="train"))
    rows.write(tmp_path / "unlabelled", candidates.table(100, seed=4, split="train", labelled=False))
    rows.write(tmp_path / "again", candidates.table(100, seed=1))
    batches = [tmp_path / name for name in ("held", "trained", "unlabelled", "again")]
    window = subject.untrained(tmp_path / "holdout", batches, 60)
    old, new = (
        set(candidates.texts(100, 1)[0]),
        set(candidates.texts(100, 2)[0] + candidates.texts(100, 4)[0]),
    )
    assert len(window) == 60
    assert sum(text in old for text in window.texts) == 30
    assert set(window.texts) <= old | new
    assert None in window.labels


def test_few_old_rows_leave_room_for_new_ones(tmp_path: Path) -> None:
    rows.write(tmp_path / "holdout", candidates.table(5, seed=1))
    rows.write(tmp_path / "new", candidates.table(100, seed=2))
    assert len(subject.untrained(tmp_path / "holdout", [tmp_path / "new"], 50)) == 50


def test_no_row_is_told(tmp_path: Path) -> None:
    rows.write(tmp_path / "holdout", candidates.table(0, seed=1))
    with pytest.raises(BadInputError, match="no held-out row"):
        subject.untrained(tmp_path / "holdout", [], 50)


# --- judging ----------------------------------------------------------------------------------------

LIMITS = config.Export()


def measured(logits: np.ndarray, single: np.ndarray | None = None) -> measure.Measured:
    embeddings = np.ones((len(logits), 3), np.float32)
    alone = logits if single is None else single
    return measure.Measured("cpu", Prediction(logits, embeddings), alone, [(logits, embeddings)], {})


def figures(**changes: object) -> dict[str, Any]:
    return {"precision": "int8", "agreement": 0.99, "loss": 0.0, **changes}


def test_rows_agree_by_label_and_only_when_finite() -> None:
    right = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    found = np.array([[9.0, 8.0], [0.0, 1.0], [0.0, 1.0], [np.nan, 0.0]])
    assert parity.same_labels(right, found) == 0.5


def test_agreement_is_the_lesser_of_alone_and_in_batches() -> None:
    right = Prediction(np.array([[1.0, 0.0], [0.0, 1.0]]), np.ones((2, 3)))
    alone = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # asked twice over
    compared = parity.compare(right, measured(np.array([[2.0, 0.0], [0.0, 1.0]]), alone))
    assert compared == {"agreement": 0.75, "max_logit_diff": 1.0, "mean_logit_diff": 0.25}


def test_the_loss_is_paired() -> None:
    window = Window(texts=["t"] * 5, labels=["a", "a", "b", None, "b"])
    right = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    found = np.array([[1, 0], [0, 1], [0, 1], [0, 1], [0, 1]], np.float32)
    lost = parity.loss(TextClassification(), ("a", "b"), window, right, found)
    assert (lost["metric_torch"], lost["metric"], lost["loss"]) == (0.75, 0.75, 0.0)
    assert lost["loss_high"] == pytest.approx(1.96 * np.std([0, 1, 0, -1], ddof=1) / 2)
    unlabelled = parity.loss(TextClassification(), ("a", "b"), Window(texts=["t"]), right[:1], found[:1])
    assert set(unlabelled.values()) == {None}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"agreement": 0.97}, "same label as torch on 97.0% of rows, 97.5% needed"),
        ({"loss": 0.006}, "loses 0.6% against torch, 0.5% allowed"),
        ({"loss": 0.005}, ""),
        ({"loss": None}, ""),
        ({"precision": "fp32"}, "same label as torch on 99.0% of rows, 99.9% needed"),
        ({"precision": "fp32", "agreement": 1.0}, ""),
    ],
)
def test_limits(changes: dict[str, Any], why: str) -> None:
    assert parity.judge(figures(**changes), None, LIMITS) == why


def test_a_fault_at_a_shape_refuses() -> None:
    assert parity.judge(figures(), "off by 2 for a batch of 3", LIMITS) == "off by 2 for a batch of 3"


@pytest.mark.parametrize(
    ("answer", "precision", "fault"),
    [
        (np.ones((2, 2)), "fp32", None),
        (np.full((2, 2), 1.01), "fp32", "off by 0.01 for a batch of 2"),
        (np.full((2, 2), 1.01), "int8", None),
        (np.full((2, 2), np.inf), "int8", "answers that are not finite"),
        (np.ones((2, 1)), "int8", r"answers of shape (2, 1) where (2, 2) is expected"),
    ],
)
def test_answers_at_odd_shapes(answer: np.ndarray, precision: str, fault: str | None) -> None:
    right = [(np.ones((2, 2)), np.ones((2, 3)))]
    assert parity.shape_fault(right, measured(answer), precision) == fault


def test_the_fastest_that_passed_is_chosen_and_of_equals_the_first() -> None:
    def one(name: str, rate: float, passed: bool = True) -> dict[str, JSON]:
        return {"file": name, "rows_per_s": rate, "passed": passed}

    def chosen(*all_of_them: dict[str, JSON]) -> JSON:
        found = parity.choose(all_of_them)
        return found and found["file"]

    assert chosen(one("fp32", 100), one("int8", 200)) == "int8"
    assert chosen(one("fp32", 97), one("int8", 100)) == "fp32"
    assert chosen(one("fp32", 100), one("int8", 900, passed=False)) == "fp32"
    assert chosen(one("fp32", 100, passed=False)) is None
    assert chosen() is None


def test_habits() -> None:
    logits = np.log(np.array([[0.9, 0.1, 1e-9], [0.3, 0.7, 1e-9]], np.float32))
    told = parity.habits(logits, ("a", "b", "c"))
    assert told["confidence"] == pytest.approx(0.8)
    assert told["labels"] == {"a": 0.5, "b": 0.5}


def test_the_machine_is_named() -> None:
    told = measure.machine(3)
    assert told["threads"] == 3
    assert told["cpu"]
    assert isinstance(told["cores"], int)
