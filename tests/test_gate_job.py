"""The jobs gate and probe, with real files and real small models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from keeperd import config, plugins, probation
from keeperd.api import BadInputError, Component, Context
from keeperd.gate import golden
from keeperd.gate.verdict import Verdict
from keeperd.jobs import Job, gate, probe
from keeperd.paths import StatePaths
from keeperd.versions import VersionError, seal, sha256_file
from tests.words import LABELS, WordTask, write_model, write_rows, write_version

KNOWN = {"hello": "ham", "prize": "spam", "vote": "news"}
NEW = {"lottery": "spam", "senate": "news"}
HOLDOUT = {f"{word} {i}": label for i in range(30) for word, label in KNOWN.items()}
BATCH = [(f"{word} {i}", label) for i in range(20) for word, label in (KNOWN | NEW).items()]


def load(kind: str, name: str) -> Component[Any]:
    return WordTask() if (kind, name) == ("task", "words") else plugins.load(kind, name)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A gate job: version 1 knows three words, the candidate five, the batch has rows with all."""
    state = StatePaths(tmp_path / "state")
    files = state.model("mail")
    write_version(files.version(1), 1, KNOWN, holdout=HOLDOUT)
    texts, labels = [text for text, _ in BATCH], [label for _, label in BATCH]
    splits = ["holdout"] * len(texts) + ["train", "holdout"]
    write_rows(files.batch("b1"), [*texts, "hello train", "hello unlabelled"], [*labels, "ham", None], splits)
    run = tmp_path / "run"
    (run / "out" / "work").mkdir(parents=True)
    candidate = write_version(tmp_path / "candidate", 2, KNOWN | NEW)
    return Job(
        kind="gate",
        model="mail",
        folder=run,
        state=state,
        settings=config.Model(base=tmp_path, watch=[tmp_path], task="words"),
        inputs={"champion": 1, "candidate": str(candidate), "batches": ["b1"], "golden_sha": None},
        context=Context(workdir=run / "out" / "work"),
        load=load,
    )


def with_golden(job: Job, rows: Sequence[Mapping[str, Any]], **inputs: Any) -> Job:
    path = job.folder / "golden.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = job.settings.model_copy(
        update={
            "gate": job.settings.gate.model_copy(update={"golden": path}),
            "intake": config.Intake(filters=[]),
        }
    )
    return replace(job, settings=settings, inputs={**job.inputs, **inputs})


def with_candidate(job: Job, words: Mapping[str, str], classes: Sequence[str] = LABELS) -> Job:
    folder = write_version(job.folder / "other", 2, words, classes)
    return replace(job, inputs={**job.inputs, "candidate": str(folder)})


GOLDEN = [{"text": f"{word} golden {i}", "label": label} for i in range(20) for word, label in KNOWN.items()]


def test_a_better_candidate_passes(job: Job) -> None:
    result = gate.run(job)
    json.dumps(result, allow_nan=False)
    assert result["passed"] and not result["harmful"]
    assert result["champion"]["sets"] == {
        "holdout": {"accuracy": 1.0, "rows": 90},
        "new": {"accuracy": 0.6, "rows": 100},
    }
    assert result["candidate"]["sets"]["new"]["accuracy"] == 1.0
    assert "Right on 100.0 % of 100 new rows, champion 60.0 % (+40.0 points" in result["summary"]
    assert Verdict.from_json(result).passed
    assert (result["golden_sha"], result["golden_rows"], result["golden_accesses"]) == (None, 0, 0)


def test_it_leaves_every_answer_behind(job: Job) -> None:
    gate.run(job)
    table = pq.read_table(job.out / "scores.parquet")
    assert table.column_names == [
        "id", "set", "label", "champion", "candidate", "champion_right", "candidate_right"
    ]  # fmt: skip
    assert table.num_rows == 190
    row = table.to_pylist()[90 + 3]
    assert row == {
        "id": "b1-3",
        "set": "new",
        "label": "spam",
        "champion": "ham",
        "candidate": "spam",
        "champion_right": False,
        "candidate_right": True,
    }


def test_flipped_rows_are_shown_few_and_short(job: Job) -> None:
    long = "x" * 5000
    write_rows(job.paths.batch("b2"), [f"lottery {long} {i}" for i in range(50)], ["spam"] * 50)
    result = gate.run(replace(job, inputs={**job.inputs, "batches": ["b2"]}))
    assert result["flipped"]["lost"] == []
    assert len(result["flipped"]["won"]) == 5
    first = result["flipped"]["won"][0]
    assert first == {
        "id": "b2-0",
        "set": "new",
        "label": "spam",
        "champion": "ham",
        "candidate": "spam",
        "text": f"lottery {long}"[:200],
    }


def test_a_candidate_that_forgets_is_harmful(job: Job) -> None:
    result = gate.run(with_candidate(job, {"hello": "ham", "prize": "spam"} | NEW))
    assert not result["passed"] and result["harmful"]
    assert {"holdout", "flips", "label: news"} <= {c["name"] for c in result["checks"] if not c["passed"]}
    assert [row["label"] for row in result["flipped"]["lost"]] == ["news"] * 5


def test_the_golden_set_is_judged_and_sealed(job: Job) -> None:
    first = gate.run(with_golden(job, GOLDEN))
    assert first["passed"] and first["champion"]["sets"]["golden"]["rows"] == 60
    assert first["golden_sha"] == sha256_file(job.folder / "golden.jsonl")
    assert (first["golden_rows"], first["golden_accesses"]) == (60, 1)
    again = gate.run(with_golden(job, GOLDEN, golden_sha=first["golden_sha"], golden_accesses=7))
    assert again["golden_accesses"] == 8
    with pytest.raises(
        BadInputError, match="not the golden file that earlier verdicts were given on"
    ) as error:
        gate.run(with_golden(job, GOLDEN[1:], golden_sha=first["golden_sha"]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([*GOLDEN, {"text": "no label"}], "row 61: no label"),
        ([{"label": "ham"}, *GOLDEN], "row 1: "),
        ([*GOLDEN, {"text": "hello golden 0", "label": "spam"}], "row 61: label 'spam', but 'ham'"),
        ([], "no rows"),
    ],
)
def test_a_golden_file_with_one_unusable_row_is_refused(
    job: Job, rows: list[dict[str, str]], reason: str
) -> None:
    with pytest.raises(BadInputError, match=reason):
        gate.run(with_golden(job, rows))


def test_a_missing_golden_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="No such file or directory; give the path"):
        golden.read(tmp_path / "none.jsonl", config.Intake(), load)


def test_nan_weights_are_rejected(job: Job) -> None:
    folder = Path(job.inputs["candidate"])
    weights = load_file(folder / "model" / "model.safetensors")["weights"]
    weights[0, 0] = np.nan
    save_file({"weights": weights}, folder / "model" / "model.safetensors")
    seal(folder, "mail", 2)
    result = gate.run(job)
    assert not result["passed"]
    assert "have a logit that is NaN or infinite" in result["summary"]
    found = pq.read_table(job.out / "scores.parquet").column("candidate").to_pylist()
    assert set(found) == {None}  # NaN times no occurrence is still NaN


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (("spam", "ham", "news"), "has the champion's labels in another order"),
        (("ham", "spam", "world"), "does not know the champion's label 'news'"),
    ],
)
def test_other_labels_are_rejected(job: Job, classes: tuple[str, ...], reason: str) -> None:
    words = {word: label if label in classes else "world" for word, label in KNOWN.items()}
    assert reason in gate.run(with_candidate(job, words, classes))["summary"]


def test_a_new_label_is_welcome(job: Job) -> None:
    write_rows(job.paths.batch("b2"), [f"goal {i}" for i in range(40)], ["sport"] * 40)
    job = with_candidate(job, KNOWN | NEW | {"goal": "sport"}, (*LABELS, "sport"))
    result = gate.run(replace(job, inputs={**job.inputs, "batches": ["b1", "b2"]}))
    assert result["passed"] and result["candidate"]["sets"]["new"]["rows"] == 140


def test_version_1_is_judged_alone(job: Job) -> None:
    result = gate.run(replace(job, inputs={**job.inputs, "champion": None}))
    assert result["passed"] and result["champion"] == {}
    assert result["flipped"] == {"lost": [], "won": []}
    poor = replace(with_candidate(job, {"hello": "ham"}), inputs={**job.inputs, "champion": None})
    result = gate.run(replace(poor, inputs={**poor.inputs, "candidate": str(job.folder / "other")}))
    assert not result["passed"] and not result["harmful"]


@pytest.mark.parametrize("who", ["champion", "candidate"])
def test_a_changed_version_is_not_judged(job: Job, who: str) -> None:
    folder = job.paths.version(1) if who == "champion" else Path(job.inputs["candidate"])
    with (folder / "model" / "words.json").open("a") as file:
        file.write(" ")
    with pytest.raises(VersionError, match="changed after it was sealed"):
        gate.run(job)


def test_no_labelled_rows_are_rejected_with_advice(job: Job) -> None:
    write_rows(job.paths.batch("b2"), ["hello"] * 5, [None] * 5)
    result = gate.run(replace(job, inputs={**job.inputs, "batches": ["b2"]}))
    assert not result["passed"] and "Only 0 labelled new rows" in result["summary"]


def test_the_champion_stays_untouched(job: Job) -> None:
    before = {path: sha256_file(path) for path in job.paths.version(1).rglob("*") if path.is_file()}
    gate.run(job)
    assert before == {path: sha256_file(path) for path in job.paths.version(1).rglob("*") if path.is_file()}


# --- probe ------------------------------------------------------------------------------------------


def probed(job: Job, batches: list[str]) -> dict[str, Any]:
    write_version(job.paths.version(2), 2, {"hello": "ham", "lottery": "spam"})
    return probe.run(replace(job, kind="probe", inputs={"champion": 2, "predecessor": 1, "batches": batches}))


def test_probe_pairs_every_labelled_row_in_order(job: Job) -> None:
    texts = ["hello", "lottery", "prize", "senate", "vote", "not labelled", "hello"]
    write_rows(job.paths.batch("p1"), texts[:4], ["ham", "spam", "spam", "news"], ["train", "holdout"] * 2)
    write_rows(job.paths.batch("p2"), texts[4:], ["news", None, "ham"])
    result = probed(job, ["p1", "p2"])
    json.dumps(result, allow_nan=False)
    assert result["pairs"] == "bcpnpb"
    assert result["rows"] == 6
    assert result["champion"]["accuracy"] == pytest.approx(3 / 6)
    assert result["predecessor"]["accuracy"] == pytest.approx(4 / 6)
    assert result["latency_ms"] > 0
    state = probation.watch(probation.start(), result["pairs"], config.Probation())
    assert (state["both"], state["champion"], state["predecessor"], state["neither"]) == (2, 1, 2, 1)


def test_probe_without_labels_proves_nothing(job: Job) -> None:
    write_rows(job.paths.batch("p1"), ["hello"], [None])
    nothing = {"pairs": "", "champion": {}, "predecessor": {}, "rows": 0, "latency_ms": None}
    assert probed(job, ["p1"]) == nothing


def test_probe_refuses_a_changed_artefact(job: Job) -> None:
    write_rows(job.paths.batch("p1"), ["hello"], ["ham"])
    with (job.paths.version(1) / "onnx" / "model.onnx").open("ab") as file:
        file.write(b" ")
    with pytest.raises(BadInputError):
        probed(job, ["p1"])


def test_answers_that_are_not_finite_count_as_wrong(job: Job) -> None:
    folder = job.paths.version(3)
    write_model(folder / "model", {"hello": "ham"})
    weights = np.full((1, 3), np.inf, np.float32)
    save_file({"weights": weights}, folder / "model" / "model.safetensors")
    from tests.words import write_onnx

    write_onnx(folder, {"hello": "ham"}, LABELS)
    write_rows(folder / "holdout.parquet", [], [])
    seal(folder, "mail", 3)
    write_rows(job.paths.batch("p1"), ["hello", "other"], ["ham", "ham"])
    inputs = {"champion": 3, "predecessor": 1, "batches": ["p1"]}
    result = probe.run(replace(job, kind="probe", inputs=inputs))
    assert result["pairs"] == "pb" and result["champion"] == {"accuracy": 0.5}
