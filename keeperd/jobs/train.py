"""Job `train`: champion + new labelled rows -> a sealed candidate folder.

inputs: {"version": number of the candidate, "champion": version or None, "batches": [sha, oldest
first], "strategy": name, "cycle": id}

out/candidate/: model/, reference/rows.parquet, holdout.parquet, memory.parquet, lineage.json and the
manifest.
"""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from keeperd import intake, memory, plugins, rows, versions
from keeperd.api import JSON, Context, PluginError, Strategy, Task, TrainJob
from keeperd.intake.decide import LEAK_SIMILARITY
from keeperd.intake.similar import Texts
from keeperd.jobs import Job, device
from keeperd.paths import write_durably

VALIDATION = 0.1
"""Share of the training rows that only choose and stop a training; fixed by the text's hash, so that a
row of the memory that validated once is never trained on later."""
LEAST_VALIDATION = 50
"""Old rows that validate, where there are that many and fewer new ones; else as many as new ones."""
LIBRARIES = ("keeperd", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "peft")


@dataclass(frozen=True)
class Material:
    """Tables of `rows.SCHEMA`.

    Attributes:
        new: labelled training rows of the batches.
        old: the champion's memory, without texts that are new again.
        holdout: the champion's holdout.
        reference: the champion's reference window.
        batches: all rows of the batches.
        sealed: how many rows were left out because they are or are like rows that test.
    """

    new: pa.Table
    old: pa.Table
    holdout: pa.Table
    reference: pa.Table
    batches: pa.Table
    sealed: int


def run(job: Job) -> dict[str, JSON]:
    """Train the candidate.

    Returns:
        "version", "strategy", "batches", "examples", "classes", "figures", "seconds", "peak_mb" and
        "manifest", the sha256 of the candidate's manifest.

    Raises:
        VersionError: the champion is not what its manifest says.
        BadInputError: the golden file, a batch or a model folder cannot be used.
        PluginError: the rows cannot be learnt from.
        Stopped: asked to stop; a checkpoint may lie in the resume folder.
    """
    started = time.monotonic()
    champion = _champion(job)
    task = cast("Task[Any]", job.load("task", job.settings.task))
    strategy = cast("Strategy[Any]", job.load("strategy", job.inputs["strategy"]))
    if task.name not in strategy.tasks:
        raise PluginError(f"strategy {strategy.name!r} does not train {task.name!r}; choose another")
    context = device.usable(job)
    material = _material(job, champion)
    work = _train_job(job, task, champion, material)
    candidate = job.out / "candidate"
    model = candidate / "model"
    model.mkdir(parents=True)
    figures = dict(strategy.train(work, model, context))
    figures["sealed_rows"] = material.sealed
    if (known := task.classes(model)) != work.classes:
        raise PluginError(
            f"strategy {strategy.name!r} made a model of {len(known)} labels for {len(work.classes)}"
        )
    _keep(job, material, candidate)
    seconds = round(time.monotonic() - started, 1)
    result: dict[str, JSON] = {
        "version": job.inputs["version"],
        "strategy": strategy.name,
        "batches": list(job.inputs["batches"]),
        "classes": list(work.classes),
        "figures": figures,
        "seconds": seconds,
    }
    lineage = result | _origin(job, strategy, context)
    write_durably(candidate / "lineage.json", json.dumps(lineage, indent=1, allow_nan=False).encode())
    manifest = versions.seal(candidate, job.model, job.inputs["version"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    examples = figures.get("examples", len(work.new))
    return result | {"examples": examples, "peak_mb": round(peak), "manifest": manifest}


def _champion(job: Job) -> Path | None:
    """The champion's folder, checked against its manifest; None before version 1."""
    if job.inputs["champion"] is None:
        return None
    folder = job.paths.version(job.inputs["champion"])
    versions.verify(folder)
    return folder


def _material(job: Job, champion: Path | None) -> Material:
    empty = rows.SCHEMA.empty_table()
    batches = rows.read(job.paths.batch(sha) for sha in job.inputs["batches"])
    kept = {
        name: empty if champion is None else rows.read([champion / name])
        for name in ("memory.parquet", "holdout.parquet", "reference/rows.parquet")
    }
    holdout = kept["holdout.parquet"]
    fresh = rows.labelled(rows.split(batches, "train"))
    fresh = fresh.slice(max(0, len(fresh) - job.settings.training.window_rows))
    testing = pa.concat_tables([holdout, rows.split(batches, "holdout")])
    protected = _protected(job, testing)
    clean = _without(fresh, protected, job)
    old = _without(kept["memory.parquet"], protected, job)
    sealed = len(fresh) - len(clean) + len(kept["memory.parquet"]) - len(old)
    if sealed:
        job.context.log.warning("%d rows are left out: they are or are like rows that test", sealed)
    new = memory.latest(clean)
    again = np.isin(old.column("hash").to_numpy(), new.column("hash").to_numpy())
    return Material(
        new=new,
        old=old.filter(pa.array(~again)),
        holdout=holdout,
        reference=kept["reference/rows.parquet"],
        batches=batches,
        sealed=sealed,
    )


def _protected(job: Job, testing: pa.Table) -> intake.Protected:
    """Texts that must never be trained on: golden set, holdouts, and what the caller adds."""
    texts = testing.column("text").to_pylist()
    if golden := job.settings.gate.golden:
        readers = [info.name for info in plugins.installed(job.plugin_folder) if info.kind == "reader"]
        table, _ = intake.read_file(golden, job.settings.intake, job.load, readers)
        texts += table.column("text").to_pylist()
    return intake.Protected(texts)


def _without(table: pa.Table, protected: intake.Protected, job: Job) -> pa.Table:
    """The rows that neither are nor are like protected ones. Intake has looked already; this is the
    second lock on the same door, for rows frozen before the golden file was last replaced."""
    if not len(table):
        return table
    similarity = min(job.settings.intake.near_duplicates, LEAK_SIMILARITY)
    texts = Texts.of(table.column("text").to_pylist())
    leaks = protected.match(table.column("hash").to_numpy(), texts, similarity)
    return table.filter(pa.array(~leaks))


def _train_job(job: Job, task: Task[Any], champion: Path | None, material: Material) -> TrainJob:
    """Cut the validation rows and put everything in the strategy's words."""
    base = job.settings.base
    model = base if champion is None else champion / "model"
    known = () if champion is None else task.classes(model)
    labels = set(material.new.column("label").to_pylist())
    new, old, validation = _cut(material.new, material.old)
    is_new = np.isin(validation.column("hash").to_numpy(), material.new.column("hash").to_numpy())
    return TrainJob(
        task=task.name,
        champion=model,
        base=base,
        first=champion is None,
        classes=(*known, *sorted(labels - set(known))),
        new=rows.window(new),
        memory=rows.window(old),
        validation=replace(rows.window(validation), fresh=is_new.tolist()),
        max_tokens=job.settings.training.max_tokens,
    )


def _cut(new: pa.Table, old: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table]:
    """New rows, old rows, and the validation rows of both. A label all of whose rows would validate is
    trained on instead."""
    both = pa.concat_tables([new, old])
    hashes = both.column("hash").to_numpy()
    labels = np.asarray(both.column("label").to_pylist(), dtype=object).astype(str)
    validates = memory.in_validation(hashes, VALIDATION)
    validates &= np.isin(labels, labels[~validates])
    is_new = np.arange(len(both)) < len(new)
    aged = np.flatnonzero(validates & ~is_new)
    aged = aged[np.argsort(memory.keys(hashes[aged], memory.VALIDATION), kind="stable")]
    chosen = [
        *np.flatnonzero(validates & is_new),
        *aged[: max(LEAST_VALIDATION, int((validates & is_new).sum()))],
    ]
    validation = both.take(pa.array(chosen, pa.int64()))
    return both.filter(pa.array(~validates & is_new)), both.filter(pa.array(~validates & ~is_new)), validation


def _keep(job: Job, material: Material, candidate: Path) -> None:
    """Write what the next version will need of this one's rows."""
    training = job.settings.training
    (candidate / "reference").mkdir()
    kept: Mapping[str, pa.Table] = {
        "memory.parquet": memory.next_memory(
            material.old, material.new, training.memory_rows, training.memory_share
        ),
        "holdout.parquet": memory.next_holdout(material.holdout, material.batches, training.holdout_rows),
        "reference/rows.parquet": memory.next_reference(
            material.reference, material.batches, training.reference_rows
        ),
    }
    for name, table in kept.items():
        rows.write(candidate / name, table)


def _origin(job: Job, strategy: Strategy[Any], context: Context) -> dict[str, JSON]:
    """Where the candidate comes from; with the same of everything here, training gives the same bits."""
    import torch

    return {
        "model": job.model,
        "parent": job.inputs["champion"],
        "cycle": job.inputs["cycle"],
        "options": strategy.options.model_dump(mode="json"),
        "max_tokens": job.settings.training.max_tokens,
        "seed": context.seed,
        "threads": torch.get_num_threads(),
        "device": context.device,
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version_of(name))},
    }


def _version_of(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
