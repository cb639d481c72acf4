"""Job `assess`: has the window drifted from what the champion was accepted on, and does it hurt?

The champion answers with the very artefact that serves, and its reference was answered by it too.

inputs: {"champion": version, "batches": [sha, oldest first], "states": {detector: JSON}, "cycle": number}
out: report/: drift-words.png, drift-accuracy.png and, with drift, evidently.html
"""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from keeperd import rows
from keeperd.api import (
    JSON,
    BadInputError,
    Detector,
    KeeperdError,
    Prediction,
    Signal,
    Statistics,
    Task,
    Window,
)
from keeperd.drift import Harm, Report, Suspect, harm, reference, suspect
from keeperd.drift import figures as drift_figures
from keeperd.drift import window as drift_window
from keeperd.drift.window import Predictor
from keeperd.jobs import Job

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ["id", "text", "label", "time", "source", "split"]
MOST_ROWS = 2000
"""Newest rows that detectors look at."""
MOST_LABELLED = 5000
"""Newest labelled rows that accuracy is measured on."""


@dataclass(frozen=True)
class Champion:
    """The champion at work: its folder, its answers, and what it was accepted on."""

    folder: Path
    predictor: Predictor
    accuracy: float | None
    accuracy_rows: int

    @classmethod
    def of(cls, folder: Path, predictor: Predictor) -> Champion:
        """Read the version's profile."""
        try:
            profile = json.loads((folder / "profile.json").read_bytes())
        except (OSError, ValueError) as error:
            raise BadInputError(
                f"{folder}: profile.json is not readable ({error}); run keeperd verify"
            ) from error
        return cls(folder, predictor, profile.get("accuracy"), int(profile.get("rows") or 0))

    def reference(self) -> Window:
        """The reference window, answered."""
        table = rows.read([self.folder / "reference" / "rows.parquet"])
        return drift_window.answered(reference.window(table), self.predictor)


@dataclass(frozen=True)
class Tested:
    """Held-out rows: the champion's answers, whether each is right, and the labels."""

    answers: Prediction
    right: np.ndarray
    labels: tuple[str, ...]


def run(job: Job, predictor: Predictor | None = None) -> dict[str, JSON]:
    """Assess the window.

    Args:
        predictor: answers in place of the champion's artefact.

    Returns:
        a `drift.Report` as JSON.

    Raises:
        BadInputError: the window is empty, or a file of the version is missing or changed.
        PluginError: a detector cannot do its work.
    """
    started = time.monotonic()
    folder = job.paths.version(job.inputs["champion"])
    table = rows.read([job.paths.batch(sha) for sha in job.inputs["batches"]], COLUMNS)
    if not len(table):
        raise BadInputError("the window has no rows; nothing can be assessed")
    with _open(job, folder, predictor) as opened:
        report = _assess(job, Champion.of(folder, opened), table)
    return {**report.to_json(), "seconds": round(time.monotonic() - started, 1)}


def _open(job: Job, folder: Path, predictor: Predictor | None) -> AbstractContextManager[Predictor]:
    if predictor is not None:
        return nullcontext(predictor)
    from keeperd.inference import Predictor as Artefact

    return cast("AbstractContextManager[Predictor]", Artefact(folder, job.settings.export.providers))


def _assess(job: Job, champion: Champion, table: pa.Table) -> Report:
    context, decide = job.context, job.settings.decide
    window, labelled = _answer(job, champion, table)
    context.progress(0.5, "looking for drift")
    detectors = drift_window.deciding(decide.detectors, job.load, decide.alpha)
    statistics = {name: _statistics(job, champion, name, detector) for name, detector in detectors.items()}
    signals, states = drift_window.detect(
        detectors, statistics, window, job.inputs.get("states") or {}, context
    )
    context.progress(0.75, "looking for harm")
    classes = champion.predictor.classes
    labels = [str(label) for label in labelled.labels]
    new = Counter(label for label in labels if label not in set(classes))
    tested = _test(job, champion)
    harmful = _harm(job, champion, window, labelled, tested)
    suspects = _suspect(job, champion, labelled, tested)
    drifted = drift_window.drifted(signals)
    out = job.out / "report"
    out.mkdir(parents=True, exist_ok=True)
    if drifted:
        signals += _render(job, champion, window)
    _draw(out, signals, harmful)
    return Report(
        rows=len(table),
        labelled=len(table) - table.column("label").null_count,
        drifted=drifted,
        signals=tuple(drift_window.as_json(signal) for signal in signals),
        harm=harmful,
        suspect=suspects,
        new_labels=dict(sorted(new.items(), key=lambda pair: (-pair[1], pair[0]))),
        states=states,
        examples=tuple(drift_window.examples(signals, window)),
    )


def _answer(job: Job, champion: Champion, table: pa.Table) -> tuple[Window, Window]:
    """The newest rows, and the newest labelled rows, both answered; each row is asked once."""
    known = np.flatnonzero(np.asarray(table.column("label").is_valid()))[-MOST_LABELLED:]
    first = max(len(table) - MOST_ROWS, 0)
    chosen = np.union1d(known, np.arange(first, len(table)))
    job.context.progress(0.05, f"the champion answers {len(chosen)} rows")
    window = drift_window.answered(rows.window(table.take(chosen)), champion.predictor)
    newest = np.flatnonzero(chosen >= first).tolist()
    labelled = np.flatnonzero(np.isin(chosen, known)).tolist()
    return window.take(newest), window.take(labelled)


def _statistics(job: Job, champion: Champion, name: str, detector: Detector[Any]) -> Statistics:
    """What was saved with the version; fitted now where the detector was configured later."""
    folder = champion.folder / "reference" / name
    if folder.is_dir():
        return reference.load_statistics(folder)
    job.context.log.info(
        "detector %s has no statistics in %s yet: fitting it now", name, champion.folder.name
    )
    return detector.fit(champion.reference(), job.context)


def _right(job: Job, champion: Champion, labels: list[str], logits: np.ndarray) -> np.ndarray:
    """bool (n,): which rows the champion has right; an answer that is not a number is wrong."""
    if not labels:
        return np.zeros(0, bool)
    sound = np.isfinite(logits).all(axis=1)
    task = cast("Task[Any]", job.load("task", job.settings.task))
    scores = task.scores(champion.predictor.classes, labels, np.where(sound[:, None], logits, 0.0))
    return np.asarray(sound & (np.asarray(scores) >= 0.5))


def _test(job: Job, champion: Champion) -> Tested:
    """The champion on its holdout, by this artefact."""
    holdout = rows.window(rows.labelled(rows.read([champion.folder / "holdout.parquet"])))
    labels = [str(label) for label in holdout.labels]
    answers = champion.predictor.predict(holdout.texts)
    return Tested(answers, _right(job, champion, labels, answers.logits), tuple(labels))


def _harm(job: Job, champion: Champion, window: Window, labelled: Window, tested: Tested) -> Harm:
    accepted, accepted_rows = champion.accuracy, champion.accuracy_rows
    if accepted is None and len(tested.right):
        accepted, accepted_rows = float(np.mean(tested.right)), len(tested.right)
    if accepted is None:
        return harm.unknown("what accuracy the champion was accepted with is not known")
    if len(labelled) >= harm.LEAST_LABELLED and labelled.logits is not None:
        right = _right(job, champion, [str(label) for label in labelled.labels], labelled.logits)
        return harm.measured(int(right.sum()), len(right), accepted, accepted_rows)
    assert window.logits is not None and window.embeddings is not None  # noqa: S101 - _answer sets them
    answers = Prediction(window.logits, window.embeddings)
    return harm.estimated(answers, tested.answers, tested.right, accepted)


def _suspect(job: Job, champion: Champion, labelled: Window, tested: Tested) -> Suspect:
    if not len(labelled) or labelled.logits is None:
        return Suspect()
    classes = champion.predictor.classes
    columns = {label: column for column, label in enumerate(classes)}
    calibration = suspect.calibrate(tested.answers.logits, [columns.get(label) for label in tested.labels])
    assert labelled.embeddings is not None  # noqa: S101 - _answer sets both
    familiar = harm.familiar(labelled.embeddings, tested.answers.embeddings)
    known = labelled.take(np.flatnonzero(familiar).tolist())
    assert known.logits is not None  # noqa: S101
    labels = [str(label) for label in known.labels]
    threshold = job.settings.decide.suspect
    return suspect.judge(labels, known.logits, classes, calibration, threshold, labelled.texts)


def _render(job: Job, champion: Champion, window: Window) -> list[Signal]:
    """Have the configured detector render its page; without the page the report is still whole."""
    name = job.settings.decide.report
    if name is None or name in job.settings.decide.detectors:
        return []
    job.context.progress(0.85, f"rendering the {name} report")
    try:
        detector = cast("Detector[Any]", job.load("detector", name))
        statistics = _statistics(job, champion, name, detector)
        signals, _ = detector.detect(statistics, window, None, job.context)
    except KeeperdError as error:
        job.context.log.warning("no %s report: %s", name, error)
        return []
    for signal in signals:
        page = signal.facts.get("html")
        if isinstance(page, str) and (job.context.workdir / page).is_file():
            (job.context.workdir / page).rename(job.out / "report" / Path(page).name)
    return signals


def _draw(out: Path, signals: list[Signal], harmful: Harm) -> None:
    """Write the pictures."""
    text: list[dict[str, JSON]] = next(
        (drift_window.as_json(signal)["words"] for signal in signals if signal.words), []
    )
    if text:
        (out / "drift-words.png").write_bytes(drift_figures.words(text))
    if picture := drift_figures.accuracy(harmful):
        (out / "drift-accuracy.png").write_bytes(picture)
