"""Job `verify`: every artefact on the runtime that will serve it, against the model that was trained,
on real rows; then the finished version.

Artefacts run first and torch afterwards, so that torch's memory and threads are in no figure. The
reference window is predicted by the chosen artefact, because windows will be: two runtimes differ a
little, and that must not look like drift.

inputs: {"version": number, "candidate": folder, "manifest": sha256 of the candidate's, or absent,
    "export": out folder of the export run, "verdict": the gate's, "batches": [sha, oldest first]}
out: version/, sealed, when an artefact passed
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np

from keeperd import rows, versions
from keeperd.api import JSON, BadInputError, Prediction, Stopped, Task
from keeperd.drift import reference
from keeperd.inference import Predictor, assembly, gpu, measure, parity, runtime
from keeperd.inference import subject as subjects
from keeperd.inference.measure import Measured
from keeperd.inference.subject import Subject
from keeperd.jobs import Job, device
from keeperd.paths import write_durably

NOT_HERE = "not verified: the device that it is meant for is not here"
"""How the reason begins; more follows where there is a GPU that does not work."""
LIBRARIES = ("keeperd", "torch", "transformers", "tokenizers", "onnx", "onnxscript", "numpy")


def run(job: Job) -> dict[str, JSON]:
    """Measure, judge, choose, assemble.

    Returns:
        the certificate that `parity.json` holds (see `_certificate`), and "manifest", the sha256 of the
        sealed version's manifest (None when no artefact passed), and "seconds".

    Raises:
        VersionError: the candidate is not what its manifest says.
        BadInputError: there is no row to verify on.
        PluginError: a detector cannot be fitted to the reference window.
        Stopped: `context.should_stop()` said so.
    """
    started = time.monotonic()
    candidate = Path(job.inputs["candidate"])
    versions.verify(candidate, job.inputs.get("manifest"))
    batches = [job.paths.batch(sha) for sha in job.inputs["batches"]]
    cut = job.settings.training.max_tokens
    subject = subjects.load(candidate, Path(job.inputs["export"]), batches, job.settings.export, cut)
    shapes = measure.shapes_of(subject.encoder, subject.window.texts)
    measured = [_measure(job, subject, one, shapes) for one in subject.artefacts]
    _pause(job, 0.6, "asking the trained model")
    answers, at_shapes = _ask_torch(job, subject, shapes)
    task = _task(job)
    artefacts = [
        _judge(task, subject, listed, found, answers, at_shapes)
        for listed, found in zip(subject.artefacts, measured, strict=True)
    ]
    chosen = parity.choose(artefacts)
    certificate = _certificate(job, subject, artefacts, chosen)
    manifest = None
    if chosen is not None:
        _pause(job, 0.8, "assembling the version")
        manifest = _assemble(job, task, subject, certificate, chosen)
    return {**certificate, "manifest": manifest, "seconds": round(time.monotonic() - started, 1)}


def _pause(job: Job, fraction: float, text: str) -> None:
    job.context.progress(fraction, text)
    if job.context.should_stop():
        raise Stopped("verify: stopped when asked to; nothing was kept")


def _task(job: Job) -> Task[Any]:
    return cast("Task[Any]", job.load("task", job.settings.task))


# --- artefacts ------------------------------------------------------------------------------------


def _measure(
    job: Job, subject: Subject, artefact: Mapping[str, JSON], shapes: Sequence[measure.Feeds]
) -> Measured | str:
    """Run one artefact; or why it cannot run here."""
    _pause(job, 0.1, f"measuring {artefact['precision']}")
    if not subject.providers(artefact):
        fault = gpu.fault()
        return f"{NOT_HERE} ({fault})" if fault else NOT_HERE
    measure.reset_peak()
    before = None if subject.providers(artefact) == ["cpu"] else gpu.used_mb()
    started = time.perf_counter()
    try:
        with subject.open(artefact) as predictor:
            load_s = time.perf_counter() - started
            return measure.measure(predictor, subject.window.texts, load_s, shapes, before)
    except runtime.NoProviderError as error:
        job.context.log.warning("%s cannot be run: %s", artefact["file"], error)
        return f"{NOT_HERE} ({str(error).splitlines()[0][:300]})"
    except (BadInputError, *runtime.ERRORS) as error:
        job.context.log.warning("%s cannot be run: %s", artefact["file"], error)
        return str(error).strip().splitlines()[0][:300]


def _ask_torch(
    job: Job, subject: Subject, shapes: Sequence[measure.Feeds]
) -> tuple[Prediction, parity.Answers]:
    """What the trained model answers, on the rows and at each shape."""
    import torch

    task, model, cut = _task(job), subject.candidate / "model", job.settings.training.max_tokens
    answers: Prediction = task.predict(model, subject.window.texts, cut, device.usable(job))
    spec = task.onnx(model, cut)
    place = [spec.output_names.index(name) for name in ("logits", "embedding")]
    at_shapes = []
    with torch.no_grad():
        for feeds in shapes:
            outputs = spec.module(*(torch.from_numpy(feeds[name]) for name in spec.input_names))
            at_shapes.append((outputs[place[0]].numpy(), outputs[place[1]].numpy()))
    return answers, at_shapes


def _judge(
    task: Task[Any],
    subject: Subject,
    listed: Mapping[str, JSON],
    found: Measured | str,
    answers: Prediction,
    at_shapes: parity.Answers,
) -> dict[str, JSON]:
    """All figures of one artefact, whether it passed, and why not."""
    if isinstance(found, str):
        tried = not found.startswith(NOT_HERE)
        return {**listed, **dict.fromkeys(parity.FIGURES), "tried": tried, "passed": False, "why": found}
    figures = {
        **listed,
        "provider": found.provider,
        **parity.compare(answers, found),
        **parity.loss(task, subject.classes, subject.window, answers.logits, found.batched.logits),
        **found.figures,
    }
    fault = parity.shape_fault(at_shapes, found, listed["precision"])
    why = parity.judge(figures, fault, subject.settings)
    return {**figures, "tried": True, "passed": not why, "why": why}


def _certificate(
    job: Job,
    subject: Subject,
    artefacts: Sequence[Mapping[str, JSON]],
    chosen: Mapping[str, JSON] | None,
) -> dict[str, JSON]:
    """What was measured, of what, on what. `inference.Predictor` reads "chosen", "provider", "classes",
    "max_tokens" and "batch"; the rest is for people."""
    n = len(subject.window)
    return {
        "model": job.model,
        "version": job.inputs["version"],
        "passed": chosen is not None,
        "summary": parity.summary(chosen, artefacts, n),
        "chosen": chosen["file"] if chosen else None,
        "provider": chosen["provider"] if chosen else None,
        "classes": list(subject.classes),
        "max_tokens": subject.encoder.max_tokens,
        "batch": subject.settings.batch,
        "rows": n,
        "labelled": sum(label is not None for label in subject.window.labels),
        "artefacts": [_clean(one) for one in artefacts],
        "machine": measure.machine(runtime.default_threads()),
        "libraries": {**{name: metadata.version(name) for name in LIBRARIES}, "onnxruntime": runtime.VERSION},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _clean(figures: Mapping[str, JSON]) -> dict[str, JSON]:
    """Figures as JSON takes them: six digits, None for what is not finite."""
    return {
        name: (round(value, 6) if math.isfinite(value) else None) if isinstance(value, float) else value
        for name, value in figures.items()
    }


# --- the version ----------------------------------------------------------------------------------


def _assemble(
    job: Job,
    task: Task[Any],
    subject: Subject,
    certificate: Mapping[str, JSON],
    chosen: Mapping[str, JSON],
) -> str:
    """Write and seal out/version; returns the sha256 of its manifest."""
    kept = {
        name: str(sha)
        for one in certificate["artefacts"]
        if one["passed"] or not one["tried"]
        for name, sha in one["files"].items()
    }
    version = job.out / "version"
    assembly.begin(subject.candidate, subject.export, kept, version)
    with subject.open(chosen) as predictor:
        profile = _profile(job, task, predictor, version)
    for name, content in (
        ("profile.json", profile),
        ("verdict.json", job.inputs["verdict"]),
        ("parity.json", certificate),
    ):
        write_durably(version / name, json.dumps(content, allow_nan=False, indent=1).encode())
    return assembly.finish(subject.candidate, kept, version, job.model, job.inputs["version"])


def _profile(job: Job, task: Task[Any], predictor: Predictor, version: Path) -> dict[str, JSON]:
    """Fit the detectors to the reference window, and say what the version was accepted on: its figure
    on the holdout, mean largest probability and shares of the answered labels on the reference."""
    window = reference.window(rows.read([version / "reference" / "rows.parquet"]))
    holdout = rows.window(rows.labelled(rows.read([version / "holdout.parquet"])))
    texts = {text: number for number, text in enumerate(dict.fromkeys([*window.texts, *holdout.texts]))}
    answers = predictor.predict(list(texts))  # the two overlap
    at = [texts[text] for text in window.texts]
    logits = answers.logits[at]
    window = replace(window, logits=logits, embeddings=answers.embeddings[at], classes=predictor.classes)
    reference.fit_reference(job.settings.decide, job.load, window, version / "reference", job.context)
    labels = [label for label in holdout.labels if label is not None]
    held = [texts[text] for text in holdout.texts]
    reference.save_holdout(version / "reference", Prediction(answers.logits[held], answers.embeddings[held]))
    scores = task.scores(predictor.classes, labels, answers.logits[held])
    return {
        "accuracy": float(np.mean(scores)) if labels else None,
        "rows": len(labels),
        **parity.habits(logits, predictor.classes),
    }
