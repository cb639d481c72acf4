"""The job assess, with real files, a real ONNX artefact and real detectors."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keeperd import config, drift, plugins, rows, versions
from keeperd.api import BadInputError, Component, Context, Prediction
from keeperd.drift import reference
from keeperd.drift.window import answered
from keeperd.inference import Predictor
from keeperd.jobs import Job, assess
from keeperd.paths import StatePaths
from tests.words import LABELS, WordTask, write_model, write_onnx, write_rows

KNOWN = {"hello": "ham", "prize": "spam", "vote": "news", "dinner": "ham", "winner": "spam", "party": "news"}
FILLER = ("we", "the", "and", "now", "again", "maybe", "please", "today", "about", "with", "very", "soon")
PNG = b"\x89PNG"


DECIDE = config.Decide(detectors=["two-sample"], report=None)


def said(
    count: int, words: Sequence[str], seed: int, noise: float = 0.2
) -> tuple[list[str], list[str | None]]:
    """Texts with one of these words each, and their labels, some of them wrong."""
    rng = random.Random(seed)
    texts: list[str] = []
    labels: list[str | None] = []
    for _ in range(count):
        word = rng.choice(list(words))
        texts.append(" ".join([*rng.choices(FILLER, k=4), word, *rng.choices(FILLER, k=4)]))
        labels.append(rng.choice(LABELS) if rng.random() < 0.2 else KNOWN.get(word, "ham"))
    return texts, labels


def load(kind: str, name: str) -> Component[Any]:
    if (kind, name) == ("task", "words"):
        return WordTask()
    options = {"permutations": 499} if name == "two-sample" else {}
    return plugins.load(kind, name, options)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Version 1 knows six words; batch b1 is like its reference, unlabelled."""
    state = StatePaths(tmp_path / "state")
    files = state.model("mail")
    folder = files.version(1)
    write_model(folder / "model", KNOWN)
    write_rows(folder / "holdout.parquet", *said(400, list(KNOWN), 1))
    write_rows(folder / "reference" / "rows.parquet", *said(300, list(KNOWN), 2))
    (folder / "profile.json").write_text(json.dumps({"accuracy": 0.87, "rows": 400}))
    write_onnx(folder, KNOWN, LABELS)
    run = tmp_path / "run"
    (run / "out" / "work").mkdir(parents=True)
    context = Context(workdir=run / "out" / "work", seed=3)
    versions.seal(folder, "mail", 1)
    with Predictor(folder) as predictor:
        window = reference.window(rows.read([folder / "reference" / "rows.parquet"]))
        seen = answered(window, predictor)
        reference.fit_reference(DECIDE, load, seen, folder / "reference", context)
    made = Job(
        kind="assess",
        model="mail",
        folder=run,
        state=state,
        settings=config.Model(base=tmp_path, watch=[tmp_path], task="words", decide=DECIDE),
        inputs={"champion": 1, "batches": ["b1"], "states": {}, "cycle": 7, "now": "2026-11-26"},
        context=context,
        load=load,
    )
    add(made, "b1", *said(150, list(KNOWN), 3), labelled=False)
    return made


def add(job: Job, name: str, texts: list[str], labels: list[str | None], *, labelled: bool = True) -> None:
    write_rows(job.paths.batch(name), texts, labels if labelled else [None] * len(texts))


def of(job: Job, *batches: str) -> Job:
    return replace(job, inputs={**job.inputs, "batches": list(batches)})


def run(job: Job) -> drift.Report:
    result = assess.run(job)
    json.dumps(result, allow_nan=False)
    return drift.Report.from_json(result)


def test_a_window_like_the_reference_has_not_drifted(job: Job) -> None:
    report = run(job)
    assert (report.rows, report.labelled, report.drifted) == (150, 0, False)
    assert {signal["name"] for signal in report.signals} >= {"text", "predicted labels", "confidence"}
    assert report.harm.how == "estimate" and not report.harm.abstained
    assert report.harm.accuracy == pytest.approx(0.87, abs=0.15)
    assert report.suspect == drift.Suspect()
    assert report.states["detectors"] == {"two-sample": {"": None}}
    assert report.states["counted"] == ["b1"] and report.states["labels"]["rows"] == 0
    assert report.examples == () and not report.news
    assert (job.out / "report" / "drift-accuracy.png").read_bytes().startswith(PNG)
    assert not (job.out / "report" / "drift-words.png").exists()


def test_drift_that_hurts_is_found_measured_and_drawn(job: Job) -> None:
    old, labels = said(60, list(KNOWN), 4)
    new, _ = said(60, ["passkey", "avocado"], 5)
    add(job, "b2", old + new, labels + ["spam"] * 60)
    report = run(of(job, "b2"))
    assert report.drifted and report.labelled == 120
    text = next(signal for signal in report.signals if signal["name"] == "text")
    assert {"passkey", "avocado"} <= {word["term"] for word in text["words"]}
    assert report.harm.how == "labels" and report.harm.rows == 120 and report.harm.accepted == 0.87
    assert report.harm.accuracy is not None and report.harm.accuracy < 0.6
    assert report.harm.low is not None and report.harm.low > 0.2
    assert any("passkey" in one["text"] or "avocado" in one["text"] for one in report.examples)
    for name in ("drift-words.png", "drift-accuracy.png"):
        assert (job.out / "report" / name).read_bytes().startswith(PNG)
    decision = drift.decide(
        report,
        job.settings.decide,
        "drift",
        drift.History(datetime(2026, 1, 1, tzinfo=UTC), None, 0, "files"),
    )
    assert decision.action == "update" and "hurts" in decision.why


def test_batches_form_one_window(job: Job) -> None:
    add(job, "b2", *said(30, list(KNOWN), 6))
    report = run(of(job, "b1", "b2"))
    assert (report.rows, report.labelled, report.harm.how) == (180, 30, "labels")


def test_labels_that_were_flipped_are_suspect(job: Job) -> None:
    texts, labels = said(200, list(KNOWN), 7)
    turned = {"ham": "spam", "spam": "news", "news": "ham"}
    flipped = [turned[str(label)] if i % 2 else label for i, label in enumerate(labels)]
    add(job, "b2", texts, flipped)
    report = run(of(job, "b2"))
    assert report.suspect.suspect and report.suspect.disagreement is not None
    assert report.suspect.expected is not None
    assert report.suspect.disagreement > report.suspect.expected + 0.2
    add(job, "b3", texts, labels)
    assert not run(of(job, "b3")).suspect.suspect


def test_new_labels_are_counted_and_no_poison(job: Job) -> None:
    texts, labels = said(100, list(KNOWN), 8)
    add(job, "b2", texts, [*["sport"] * 30, *["art"] * 3, *labels[33:]])
    report = run(of(job, "b2"))
    assert list(report.new_labels.items()) == [("sport", 30), ("art", 3)]
    assert not report.suspect.suspect


def test_rows_are_spread_over_a_large_window(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assess, "MOST_ROWS", 100)
    monkeypatch.setattr(assess, "MOST_LABELLED", 25)
    old, labels = said(200, list(KNOWN), 9)
    add(job, "b2", [f"{text} obsolete" for text in old], labels)
    report = run(of(job, "b2", "b1"))
    # the 25 newest labelled rows, and those among the rows that are spread over the window
    assert (report.rows, report.labelled, report.harm.rows) == (350, 200, 75)
    text = report.signals[0]
    obsolete = next(word for word in text["words"] if "obsolete" in word["term"])
    assert text["facts"]["rows"] == 100 and obsolete["current"] == pytest.approx(200 / 350, abs=0.02)


def test_labels_count_once_in_the_bets_and_never_where_they_look_wrong(job: Job) -> None:
    add(job, "b2", *said(60, list(KNOWN), 9))
    once = run(of(job, "b2"))
    again = run(replace(of(job, "b2"), inputs={**of(job, "b2").inputs, "states": once.states}))
    assert once.watch.rows == again.watch.rows == 60 and once.watch.since == "2026-11-26"
    assert again.states["labels"] == once.states["labels"]
    add(job, "b3", *said(60, list(KNOWN), 10))
    more = of(job, "b2", "b3")
    grown = run(replace(more, inputs={**more.inputs, "states": once.states}))
    assert grown.watch.rows == 120 and grown.states["counted"] == ["b2", "b3"]
    texts, labels = said(100, list(KNOWN), 11)
    add(job, "b4", texts, ["ham" if label == "spam" else "spam" for label in labels])
    wrong = run(replace(of(job, "b4"), inputs={**of(job, "b4").inputs, "states": once.states}))
    assert wrong.suspect.suspect and wrong.watch.rows == 60


def test_the_holdout_is_not_asked_again(job: Job) -> None:
    folder = job.paths.version(1)
    texts = rows.read([folder / "holdout.parquet"]).column("text").to_pylist()
    add(job, "b2", *said(60, list(KNOWN), 9))
    with Predictor(folder) as predictor:
        asked: list[str] = []

        class Listening:
            classes = predictor.classes

            def predict(self, given: Sequence[str]) -> Prediction:
                asked.extend(given)
                return predictor.predict(given)

        before = assess.run(of(job, "b2"), predictor=Listening())
        assert len(asked) == 60 + len(texts)
        reference.save_holdout(folder / "reference", predictor.predict(texts))
        asked.clear()
        after = assess.run(of(job, "b2"), predictor=Listening())
    assert len(asked) == 60 and after["harm"] == before["harm"]
    (folder / "reference" / "holdout.safetensors").write_bytes(b"damaged")
    with pytest.raises(BadInputError, match="not readable"):
        run(of(job, "b2"))


def test_a_detector_is_told_which_rows_it_was_shown_before(job: Job) -> None:
    folder = job.paths.version(1) / "reference"
    days = [datetime(2026, 10, 1, tzinfo=UTC) + timedelta(days=row // 15) for row in range(300)]
    write_rows(folder / "rows.parquet", *said(300, list(KNOWN), 2), times=days)
    monitored = replace(job, settings=job.settings.model_copy(update={"decide": config.Decide(report=None)}))
    first = run(of(monitored, "b1"))
    seen = replace(of(monitored, "b1"), inputs={**of(monitored, "b1").inputs, "states": first.states})
    channel = first.states["detectors"]["monitor"][""]["channels"]["text"]
    assert channel["rows"] == 150
    assert run(seen).states["detectors"]["monitor"][""]["channels"]["text"]["rows"] == 150


def test_each_source_is_compared_with_its_own_past(job: Job) -> None:
    folder = job.paths.version(1) / "reference"
    words = list(KNOWN)
    mail, web = said(250, words[:3], 2), said(250, words[3:], 3)
    places = ["mail"] * 250 + ["web"] * 250
    write_rows(folder / "rows.parquet", mail[0] + web[0], mail[1] + web[1], sources=places)
    with Predictor(job.paths.version(1)) as predictor:
        seen = answered(reference.window(rows.read([folder / "rows.parquet"])), predictor)
        shutil.rmtree(folder / "two-sample")
        reference.fit_reference(DECIDE, load, seen, folder, job.context)
    assert reference.known_sources(folder) == ["mail", "web"]

    def signals(texts: list[str], places: list[str]) -> dict[str, bool]:
        write_rows(job.paths.batch("b2"), texts, [None] * len(texts), sources=places)
        report = run(of(job, "b2"))
        assert set(report.states["detectors"]["two-sample"]) == {
            one if one != "fax" else "" for one in places
        }
        return {one["name"]: one["drifted"] for one in report.signals if one["name"].startswith("text")}

    usual, swapped = said(120, words[:3], 5)[0], said(120, words[3:], 6)[0]
    assert signals(usual, ["mail"] * 120) == {"text (mail)": False}
    assert signals(swapped, ["mail"] * 120) == {"text (mail)": True}
    assert signals(swapped + usual, ["web"] * 120 + ["mail"] * 120) == {
        "text (mail)": False, "text (web)": False,
    }  # fmt: skip
    assert signals(said(120, words, 7)[0], ["fax"] * 120) == {"text": False}


class Broken:
    """A champion that has gone mad."""

    classes = LABELS

    def predict(self, texts: Sequence[str]) -> Prediction:
        n = len(texts)
        return Prediction(np.full((n, 3), np.nan, np.float32), np.full((n, 3), np.nan, np.float32))


def test_answers_that_are_no_numbers_count_as_wrong(job: Job) -> None:
    add(job, "b2", *said(60, list(KNOWN), 10))
    result = assess.run(of(job, "b2"), predictor=Broken())
    json.dumps(result, allow_nan=False)
    assert result["harm"]["accuracy"] == 0.0
    assert result["drifted"]


def test_a_detector_configured_later_is_fitted_then(job: Job) -> None:
    folder = job.paths.version(1) / "reference" / "two-sample"
    saved = run(job)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    again = run(job)
    assert again.signals == saved.signals


def test_without_a_profile_the_holdout_tells_what_was_accepted(job: Job) -> None:
    profile = job.paths.version(1) / "profile.json"
    profile.write_text(json.dumps({"accuracy": None, "rows": 0}))
    add(job, "b2", *said(60, list(KNOWN), 11))
    report = run(of(job, "b2"))
    assert report.harm.accepted == pytest.approx(0.87, abs=0.06)
    profile.unlink()
    with pytest.raises(BadInputError, match=r"profile\.json"):
        run(of(job, "b2"))


def test_an_empty_window_and_a_missing_batch_are_refused(job: Job) -> None:
    with pytest.raises(BadInputError, match="no rows"):
        run(of(job))
    add(job, "b2", [], [])
    with pytest.raises(BadInputError, match="no rows"):
        run(of(job, "b2"))


def test_a_report_that_cannot_be_rendered_is_no_reason_to_fail(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    settings = job.settings.model_copy(update={"decide": config.Decide(report="not-installed")})
    add(job, "b2", *said(80, ["passkey"], 12))
    report = run(replace(of(job, "b2"), settings=settings))
    assert report.drifted
    assert "no not-installed report" in caplog.text


def test_alpha_of_the_decision_reaches_the_detector(job: Job) -> None:
    add(job, "b2", *said(80, ["passkey"], 12))
    strict = job.settings.model_copy(update={"decide": config.Decide(alpha=1e-6, report=None)})
    [text, *_] = run(replace(of(job, "b2"), settings=strict)).signals
    assert text["name"] == "text" and not text["drifted"] and text["p_value"] <= 1e-4
