"""Job `gate`: champion and candidate answer exactly the same rows; the gate judges their answers.

inputs: {"champion": version or None, "candidate": folder, "batches": [sha of the window],
"golden_sha": sha256 that the golden file was sealed with, or None before its first use,
"golden_accesses": how often it was used before (optional)}

out/scores.parquet: a row of each test row: id, set, label, what each model said, whether it is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from keeperd import gate, plugins, rows, versions
from keeperd.api import JSON, Prediction, Task, Window
from keeperd.gate import golden
from keeperd.gate.trials import Answers, Trial
from keeperd.jobs import Job, device

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES = 5
EXAMPLE_LENGTH = 200


@dataclass(frozen=True)
class Model:
    """One model's labels and what it says about all test rows: (n, classes) logits."""

    classes: tuple[str, ...]
    logits: np.ndarray


def run(job: Job) -> dict[str, JSON]:
    """Judge the candidate.

    Returns:
        the verdict as JSON, and "flipped": up to 5 examples each of rows "lost" and "won",
        "golden_rows", and "golden_accesses": how often the golden set has been used now.

    Raises:
        VersionError: champion or candidate is not what its manifest says.
        BadInputError: the golden file was changed or cannot be read.
    """
    champion, candidate = _folders(job)
    sealed = _golden(job)
    sets = _sets(job, champion, sealed)
    task = cast("Task[Any]", job.load("task", job.settings.task))
    texts = [text for window in sets.values() for text in window.texts]
    job.context.progress(0.1, f"{len(texts)} test rows")
    before = None if champion is None else _ask(job, task, champion, texts)
    job.context.progress(0.5, "the champion has answered")
    after = _ask(job, task, candidate, texts)
    job.context.progress(0.9, "the candidate has answered")
    verdict = gate.judge(
        _trials(task, sets, before, after),
        None if before is None else before.classes,
        after.classes,
        job.settings.gate,
        golden_sha=sealed.sha256 if sealed else None,
        seed=job.context.seed,
    )
    found = _scores(sets, before, after)
    rows.write(job.out / "scores.parquet", found)
    used = int(job.inputs.get("golden_accesses") or 0) + (sealed is not None)
    return {
        **verdict.to_json(),
        "flipped": _flipped(texts, found),
        "golden_rows": len(sealed.rows) if sealed else 0,
        "golden_accesses": used,
    }


def _folders(job: Job) -> tuple[Path | None, Path]:
    """Champion (None before version 1) and candidate, both checked against their manifests."""
    candidate, number = Path(job.inputs["candidate"]), job.inputs["champion"]
    champion = None if number is None else job.paths.version(number)
    for folder in (champion, candidate):
        if folder is not None:
            versions.verify(folder)
    return champion, candidate


def _golden(job: Job) -> golden.Golden | None:
    path = job.settings.gate.golden
    if path is None:
        return None
    readers = [info.name for info in plugins.installed(job.plugin_folder) if info.kind == "reader"]
    return golden.read(path, job.settings.intake, job.load, readers=readers, sealed=job.inputs["golden_sha"])


def _sets(job: Job, champion: Path | None, sealed: golden.Golden | None) -> dict[str, Window]:
    """The labelled rows of each test set, sets without any left out: golden, holdout, new."""
    sets = {"golden": sealed.rows} if sealed else {}
    if champion is not None:
        sets["holdout"] = rows.window(rows.labelled(rows.read([champion / "holdout.parquet"])))
    batches = rows.read([job.paths.batch(sha) for sha in job.inputs["batches"]])
    sets["new"] = rows.window(rows.labelled(rows.split(batches, "holdout")))
    return {name: window for name, window in sets.items() if len(window)}


def _ask(job: Job, task: Task[Any], folder: Path, texts: Sequence[str]) -> Model:
    model = folder / "model"
    cut, context = job.settings.training.max_tokens, device.usable(job)
    prediction: Prediction = task.predict(model, texts, cut, context)
    return Model(task.classes(model), np.asarray(prediction.logits))


def _trials(task: Task[Any], sets: Mapping[str, Window], before: Model | None, after: Model) -> list[Trial]:
    trials, start = [], 0
    for name, window in sets.items():
        part = slice(start, start + len(window))
        start += len(window)
        labels = [label for label in window.labels if label is not None]
        trials.append(
            Trial(
                name=name,
                labels=labels,
                sources=window.sources,
                candidate=_answers(task, after, labels, part),
                champion=None if before is None else _answers(task, before, labels, part),
            )
        )
    return trials


def _answers(task: Task[Any], model: Model, labels: Sequence[str], part: slice) -> Answers:
    """Scores and metrics only of logits that can be scored; the gate says what is wrong with others."""
    logits = model.logits[part]
    if logits.shape != (len(labels), len(model.classes)) or not np.isfinite(logits).all():
        return Answers(logits, np.empty(0), {})
    scores = np.asarray(task.scores(model.classes, labels, logits), dtype=np.float64)
    return Answers(logits, scores, task.metrics(model.classes, labels, logits))


def _said(model: Model | None, n: int) -> list[str | None]:
    """Each row's label according to the model; None where there is no sound answer."""
    if model is None or model.logits.shape != (n, len(model.classes)) or not model.classes:
        return [None] * n
    sound = np.isfinite(model.logits).all(axis=1)
    best: NDArray[np.int64] = np.where(np.isnan(model.logits), -np.inf, model.logits).argmax(axis=1)
    return [model.classes[i] if ok else None for i, ok in zip(best.tolist(), sound.tolist(), strict=True)]


def _scores(sets: Mapping[str, Window], before: Model | None, after: Model) -> pa.Table:
    """What each model said of each row, for whoever wants to understand the verdict later."""
    labels = [label for window in sets.values() for label in window.labels]
    champion, candidate = _said(before, len(labels)), _said(after, len(labels))
    return pa.table(
        {
            "id": pa.array([one for window in sets.values() for one in window.ids], pa.string()),
            "set": pa.array([name for name, window in sets.items() for _ in window.ids], pa.string()),
            "label": pa.array(labels, pa.string()),
            "champion": pa.array(champion, pa.string()),
            "candidate": pa.array(candidate, pa.string()),
            "champion_right": pa.array([a == b for a, b in zip(champion, labels, strict=True)], pa.bool_()),
            "candidate_right": pa.array([a == b for a, b in zip(candidate, labels, strict=True)], pa.bool_()),
        }
    )


def _flipped(texts: Sequence[str], found: pa.Table) -> dict[str, list[dict[str, JSON]]]:
    """The first rows that only the champion ("lost") and only the candidate ("won") has right."""
    examples: dict[str, list[dict[str, JSON]]] = {"lost": [], "won": []}
    for text, row in zip(texts, found.to_pylist(), strict=True):
        right = row.pop("champion_right"), row.pop("candidate_right")
        kind = {(True, False): "lost", (False, True): "won"}.get(right)
        if kind and row["champion"] is not None and len(examples[kind]) < EXAMPLES:
            examples[kind].append({**row, "text": text[:EXAMPLE_LENGTH]})
    return examples
