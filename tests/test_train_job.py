"""The job train, with real batches, a real version folder and a tiny real model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from keeperd import config, memory, plugins, rows, versions
from keeperd.api import BadInputError, Component, Context, PluginError, Stopped
from keeperd.intake import fingerprint
from keeperd.jobs import Job, train
from keeperd.paths import StatePaths
from keeperd.versions import VersionError
from tests.conftest import labelled_texts

OPTIONS = {"full": {"epochs": 1, "batch_size": 16, "bf16": "off"}}


def batch(texts: list[str], labels: list[str | None], source: str = "here") -> pa.Table:
    """Rows as intake freezes them."""
    folded = [fingerprint.fold(text) for text in texts]
    hashes = [fingerprint.digest(text)[1] for text in folded]
    held = fingerprint.in_holdout(pa.array(hashes, pa.uint64()).to_numpy(), 0.2)
    return pa.table(
        {
            "id": [str(value) for value in hashes],
            "text": texts,
            "label": labels,
            "time": [None] * len(texts),
            "source": [source] * len(texts),
            "split": ["holdout" if side else "train" for side in held],
            "hash": hashes,
            "bands": fingerprint.sketch(folded).tolist(),
        },
        schema=rows.SCHEMA,
    )


def topics(count: int, *names: str, seed: int = 0) -> pa.Table:
    """Different texts about these topics, every tenth without a label."""
    texts, labels = labelled_texts(count, names, seed)
    texts = [f"{text} {seed} {number}" for number, text in enumerate(texts)]
    return batch(texts, [None if number % 10 == 9 else label for number, label in enumerate(labels)])


@pytest.fixture
def job(tmp_path: Path, tiny_base: Path) -> Job:
    """A first training on one batch with three labels."""
    settings = config.Model(base=tiny_base, watch=[tmp_path], options=OPTIONS, seed=7)
    state = StatePaths(tmp_path / "state")
    state.model("mail").batches.mkdir(parents=True)
    rows.write(state.model("mail").batch("b1"), topics(200, "food", "sport", "travel"))
    rows.write(state.model("mail").batch("b2"), topics(100, "food", "music", seed=1))

    def load(kind: str, name: str) -> Component[Any]:
        return plugins.load(kind, name, OPTIONS.get(name))

    inputs = {"version": 1, "champion": None, "batches": ["b1"], "strategy": "full", "cycle": 3}
    made = Job("train", "mail", tmp_path / "run1", state, settings, inputs, Context(tmp_path), load)
    return at(made, "run1")


def at(job: Job, name: str, stop: Callable[[], bool] = lambda: False, **inputs: Any) -> Job:
    """The job in another run folder, with other inputs."""
    folder = job.folder.parent / name
    (folder / "out" / "work").mkdir(parents=True)
    context = Context(workdir=folder / "out" / "work", seed=7, resume=folder / "resume", stop_asked=stop)
    return replace(job, folder=folder, context=context, inputs={**job.inputs, **inputs})


def promoted(job: Job) -> Job:
    """The second training, after the first has become version 1."""
    train.run(job)
    versions.publish(job.out / "candidate", job.paths.version(1))
    return at(job, "run2", version=2, champion=1, batches=["b2"])


def read(candidate: Path, name: str) -> pa.Table:
    return rows.read([candidate / name])


def test_a_first_version_is_a_complete_sealed_candidate(job: Job) -> None:
    result = train.run(job)
    json.dumps(result, allow_nan=False)
    candidate = job.out / "candidate"
    versions.verify(candidate, result["manifest"])
    assert result["classes"] == ["food", "sport", "travel"]
    assert (result["version"], result["strategy"], result["batches"]) == (1, "full", ["b1"])
    assert result["peak_mb"] > 0
    batch = rows.read([job.paths.batch("b1")])
    labelled = rows.labelled(batch)
    assert len(read(candidate, "reference/rows.parquet")) == len(batch)
    assert len(read(candidate, "holdout.parquet")) == len(rows.split(labelled, "holdout"))
    kept = read(candidate, "memory.parquet")
    assert len(kept) == -(-len(rows.split(labelled, "train")) // 5)
    assert set(kept.column("split").to_pylist()) == {"train"}


def test_the_lineage_tells_where_it_comes_from(job: Job) -> None:
    train.run(job)
    lineage = json.loads((job.out / "candidate" / "lineage.json").read_text())
    assert (lineage["model"], lineage["version"], lineage["parent"], lineage["cycle"]) == ("mail", 1, None, 3)
    assert (lineage["seed"], lineage["device"]) == (7, "cpu")
    assert lineage["options"]["epochs"] == 1
    assert lineage["threads"] >= 1
    assert {"torch", "transformers", "tokenizers"} <= lineage["libraries"].keys()


def test_the_next_version_knows_the_champions_labels_first(job: Job) -> None:
    second = promoted(job)
    before = versions.read_manifest(job.paths.version(1))
    result = train.run(second)
    versions.verify(job.paths.version(1))
    assert versions.read_manifest(job.paths.version(1)) == before
    assert result["classes"] == ["food", "sport", "travel", "music"]
    kept = read(second.out / "candidate", "memory.parquet")
    assert set(kept.column("label").to_pylist()) == {"food", "sport", "travel", "music"}
    assert result["figures"]["memory_rows"] > 0
    held = read(second.out / "candidate", "holdout.parquet")
    assert len(held) > len(read(job.paths.version(1), "holdout.parquet"))


def test_figures_tell_old_rows_from_new_ones(job: Job) -> None:
    training = job.settings.training.model_copy(update={"memory_share": 1.0})
    job = replace(job, settings=job.settings.model_copy(update={"training": training}))
    first = train.run(job)["figures"]
    assert "old_accuracy" not in first
    versions.publish(job.out / "candidate", job.paths.version(1))
    second = train.run(at(job, "run2", version=2, champion=1, batches=["b2"]))["figures"]
    memory, batch = read(job.paths.version(1), "memory.parquet"), rows.read([job.paths.batch("b2")])
    new = rows.labelled(rows.split(batch, "train"))
    assert second["new_rows_validated"] == len(new) - second["new_rows"] > 0
    assert second["old_rows_validated"] == len(memory) - second["memory_rows"] > 0


def test_the_same_inputs_give_the_same_candidate(job: Job) -> None:
    files = []
    for name in ("a", "b"):
        again = at(job, name)
        train.run(again)
        listed = versions.read_manifest(again.out / "candidate")["files"]
        files.append({path: entry for path, entry in listed.items() if path != "lineage.json"})
    assert files[0] == files[1]


def test_testing_rows_are_never_trained_on(job: Job) -> None:
    second = promoted(job)
    held = read(job.paths.version(1), "holdout.parquet").column("text").to_pylist()
    leaks = batch([*held[:5], held[5].upper() + "!"], ["music"] * 6)
    leaks = leaks.set_column(5, "split", pa.array(["train"] * 6))
    rows.write(job.paths.batch("b3"), pa.concat_tables([topics(60, "food", "music", seed=2), leaks]))
    result = train.run(at(second, "run3", batches=["b3"]))
    assert result["figures"]["sealed_rows"] == 6


def test_golden_rows_are_never_trained_on(job: Job) -> None:
    batch = rows.split(rows.labelled(rows.read([job.paths.batch("b1")])), "train")
    golden = job.folder / "golden.jsonl"
    chosen = batch.slice(0, 12).to_pylist()
    golden.write_text(
        "".join(json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in chosen)
    )
    gate = config.Gate(golden=golden)
    guarded = replace(at(job, "guarded"), settings=job.settings.model_copy(update={"gate": gate}))
    assert train.run(guarded)["figures"]["sealed_rows"] == 12
    golden.unlink()
    with pytest.raises(BadInputError):
        train.run(replace(guarded, folder=at(job, "unguarded").folder))


def test_validation_rows_are_cut_by_their_text_and_never_train() -> None:
    new = rows.split(rows.labelled(topics(2000, "food", "sport")), "train")
    old = rows.split(rows.labelled(topics(3000, "food", "sport", seed=1)), "train")
    trained, replayed, validation = train._cut(new, old)
    assert len(trained) + len(replayed) + len(validation) <= len(new) + len(old)
    hashes = set(validation.column("hash").to_pylist())
    assert not hashes & set(trained.column("hash").to_pylist())
    assert not hashes & set(replayed.column("hash").to_pylist())
    assert memory.in_validation(validation.column("hash").to_numpy(), train.VALIDATION).all()
    fresh = len(hashes & set(new.column("hash").to_pylist()))
    assert len(hashes) - fresh == max(fresh, train.LEAST_VALIDATION)


def test_a_label_with_one_row_is_trained_on() -> None:
    many = rows.split(topics(400, "food"), "train")
    alone = next(
        one
        for row in range(len(many))
        if memory.in_validation((one := many.slice(row, 1)).column("hash").to_numpy(), train.VALIDATION)[0]
    )
    rare = alone.set_column(2, "label", pa.array(["rare"]))
    trained, _, _ = train._cut(rare, rows.SCHEMA.empty_table())
    assert trained.column("label").to_pylist() == ["rare"]


def test_only_the_newest_rows_of_a_long_window_are_trained_on(job: Job) -> None:
    training = config.Training(window_rows=50)
    short = replace(at(job, "short"), settings=job.settings.model_copy(update={"training": training}))
    assert train.run(short)["figures"]["new_rows"] <= 50


def test_a_changed_champion_is_refused(job: Job) -> None:
    second = promoted(job)
    with (job.paths.version(1) / "model" / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(VersionError, match=r"config\.json"):
        train.run(second)


def test_a_window_without_labels_is_refused(job: Job) -> None:
    rows.write(job.paths.batch("b4"), batch(["bread and butter", "a long race"], [None, None]))
    with pytest.raises(PluginError, match="no labelled row"):
        train.run(at(job, "none", batches=["b4"]))


def test_a_stop_is_obeyed_and_the_training_goes_on(job: Job) -> None:
    asked = itertools.count()
    train.run(at(job, "whole", stop=lambda: next(asked) < 0))
    last = next(asked) - 3
    calls = itertools.count()
    stopped = at(job, "stopped", stop=lambda: next(calls) > last)
    with pytest.raises(Stopped):
        train.run(stopped)
    assert list((stopped.folder / "resume").iterdir())
    again = at(job, "again")
    again = replace(again, context=replace(again.context, resume=stopped.context.resume))
    train.run(again)
    name = "candidate/model/model.safetensors"
    assert versions.sha256_file(again.out / name) == versions.sha256_file(
        job.folder.parent / "whole" / "out" / name
    )
