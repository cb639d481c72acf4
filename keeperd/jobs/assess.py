"""Job `assess`: has the window drifted from what the champion was accepted on, and does it hurt?

The champion answers with the very artefact that serves, and its reference was answered by it too.

inputs: {"champion": version, "batches": [sha, oldest first], "states": what the last assessment for this
    champion returned, or {}, "cycle": number, "now": ISO date}
out: report/: drift-words.png, drift-accuracy.png and, with drift, evidently.html

States are {"detectors": {detector: {source: JSON}}, "labels": of the bets, "counted": [sha]}: a window that
waits is looked at again when it has grown, and what was counted is not counted again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

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
from keeperd.drift import Harm, Report, Suspect, harm, reference, sources, suspect
from keeperd.drift import figures as drift_figures
from keeperd.drift import window as drift_window
from keeperd.drift.bets import LabelWatch
from keeperd.drift.window import Predictor
from keeperd.jobs import Job
from keeperd.jobs.champion import Champion, Tested

COLUMNS = ["id", "text", "label", "time", "source", "split"]
MOST_ROWS = 2000
"""Rows that detectors look at, spread evenly over the window."""
MOST_LABELLED = 5000
"""Newest labelled rows that accuracy is measured on."""


@dataclass(frozen=True)
class Asked:
    """The rows of the window that were asked, answered.

    Attributes:
        window: those spread over it, and all labelled ones.
        sampled: (n,) bool, False for rows that are here only for their label.
        batch: (n,) number of the batch that each came in, rising with time.
    """

    window: Window
    sampled: np.ndarray
    batch: np.ndarray

    @property
    def spread(self) -> Window:
        """What the detectors look at."""
        return self.window.take(np.flatnonzero(self.sampled).tolist())

    @property
    def labelled(self) -> np.ndarray:
        """(n,) bool."""
        return np.array([label is not None for label in self.window.labels], bool)


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
    tables = [rows.read([job.paths.batch(sha)], COLUMNS) for sha in job.inputs["batches"]]
    if not any(map(len, tables)):
        raise BadInputError("the window has no rows; nothing can be assessed")
    with _open(job, folder, predictor) as opened:
        task = cast("Task[Any]", job.load("task", job.settings.task))
        report = _assess(job, Champion.of(folder, opened, task), tables)
    return {**report.to_json(), "seconds": round(time.monotonic() - started, 1)}


def _open(job: Job, folder: Path, predictor: Predictor | None) -> AbstractContextManager[Predictor]:
    if predictor is not None:
        return nullcontext(predictor)
    from keeperd.inference import Predictor as Artefact

    return cast("AbstractContextManager[Predictor]", Artefact(folder, job.settings.export.providers))


def _assess(job: Job, champion: Champion, tables: Sequence[pa.Table]) -> Report:
    context = job.context
    asked = _ask(job, champion, tables)
    window = asked.spread
    context.progress(0.5, "looking for drift")
    signals, states = _detect(job, champion, window)
    context.progress(0.75, "looking for harm")
    tested = champion.tested()
    labelled = asked.window.take(np.flatnonzero(asked.labelled).tolist())
    suspects = _suspect(job, champion, labelled, tested)
    harmful, bets, watch = _harm(job, champion, asked, tested, suspect=suspects.suspect)
    classes = set(champion.predictor.classes)
    new = Counter(str(label) for label in labelled.labels if label not in classes)
    drifted, news = drift_window.drifted(signals), drift_window.news(signals)
    out = job.out / "report"
    out.mkdir(parents=True, exist_ok=True)
    if drifted and news:
        signals += _render(job, champion, window)
    _draw(out, signals, harmful)
    gone = set(drift_window.named(signals, "examples_before"))
    before = champion.rows() if gone else None
    return Report(
        rows=sum(len(table) for table in tables),
        labelled=sum(len(table) - table.column("label").null_count for table in tables),
        drifted=drifted,
        news=news,
        watch=watch,
        signals=tuple(drift_window.as_json(signal) for signal in signals),
        harm=harmful,
        suspect=suspects,
        new_labels=dict(sorted(new.items(), key=lambda pair: (-pair[1], pair[0]))),
        states={"detectors": states, "labels": bets, "counted": list(job.inputs["batches"])},
        examples=tuple(drift_window.examples(signals, window, before)),
    )


def _ask(job: Job, champion: Champion, tables: Sequence[pa.Table]) -> Asked:
    """Rows spread over the window, and the newest labelled rows; each row is asked once."""
    table = pa.concat_tables(tables)
    counted = set(_states(job).get("counted", ()))
    old = [sha in counted for sha in job.inputs["batches"]]
    sizes = [len(one) for one in tables]
    known = np.flatnonzero(np.asarray(table.column("label").is_valid()))[-MOST_LABELLED:]
    spread = np.unique(np.linspace(0, len(table) - 1, min(len(table), MOST_ROWS)).round().astype(np.int64))
    chosen = np.union1d(known, spread)
    job.context.progress(0.05, f"the champion answers {len(chosen)} rows")
    window = drift_window.answered(rows.window(table.take(chosen)), champion.predictor)
    return Asked(
        replace(window, fresh=(~np.repeat(old, sizes)[chosen]).tolist()),
        np.isin(chosen, spread),
        np.repeat(np.arange(len(tables)), sizes)[chosen],
    )


def _states(job: Job) -> Mapping[str, Any]:
    return job.inputs.get("states") or {}


def _detect(job: Job, champion: Champion, window: Window) -> tuple[list[Signal], dict[str, dict[str, JSON]]]:
    """Signals of all detectors about each source, and their new states. A source of which no row came
    keeps its states."""
    decide, folder = job.settings.decide, champion.folder / "reference"
    parts = sources.parts(window, reference.known_sources(folder))
    detectors = drift_window.deciding(decide.detectors, job.load, decide.alpha / len(parts))
    before = _states(job).get("detectors", {})
    after: dict[str, dict[str, JSON]] = {name: dict(before.get(name, {})) for name in detectors}
    signals: list[Signal] = []
    for source, part in parts.items():
        statistics = {
            name: _statistics(job, champion, name, detector, source) for name, detector in detectors.items()
        }
        states = {name: after[name].get(source) for name in detectors}
        found, changed = drift_window.detect(detectors, statistics, part, states, job.context)
        signals += [sources.named(signal, source) for signal in found]
        for name, state in changed.items():
            after[name][source] = state
    return signals, after


def _statistics(
    job: Job, champion: Champion, name: str, detector: Detector[Any], source: str = sources.POOLED
) -> Statistics:
    """What was saved with the version; fitted now where the detector was configured later."""
    folder = reference.folder_of(champion.folder / "reference", name, source)
    if folder.is_dir():
        return reference.load_statistics(folder)
    job.context.log.info(
        "detector %s has no statistics in %s yet: fitting it now", name, champion.folder.name
    )
    window = champion.reference()
    return detector.fit(sources.parts(window, [source])[source], job.context)


def _harm(
    job: Job, champion: Champion, asked: Asked, tested: Tested, *, suspect: bool
) -> tuple[Harm, JSON, LabelWatch]:
    """Harm in this window, and what all labels since the promotion say; labels that look wrong are not
    counted there."""
    window, labelled = asked.window, asked.labelled
    assert window.logits is not None and window.embeddings is not None  # noqa: S101 - _ask sets them
    right = np.zeros(len(window), bool)
    labels = [str(window.labels[row]) for row in np.flatnonzero(labelled).tolist()]
    right[labelled] = champion.right(labels, window.logits[labelled])
    return harm.judge(
        harm.Asked(
            Prediction(window.logits, window.embeddings),
            labelled,
            right,
            sampled=asked.sampled,
            fresh=np.zeros(len(window), bool) if suspect else np.array(window.fresh, bool),
            batch=asked.batch,
        ),
        harm.Accepted(tested.answers, tested.right, champion.accuracy, champion.accuracy_rows),
        _states(job).get("labels"),
        at=job.inputs["now"],
    )


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
