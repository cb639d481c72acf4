"""Two files compared, without a model and with one."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from keeperd.api import BadInputError, Columns, PluginError
from keeperd.drift.compare import compare
from tests.conftest import labelled_texts
from tests.words import write_version

KEYS = {
    "drifted", "p_value", "effect", "calibrated_on", "alarm_budget", "signals", "words", "slices", "examples",
    "sentinels", "harm", "rows", "seconds",
}  # fmt: skip


def write(path: Path, texts: list[str], labels: list[str] | None = None, **keys: str) -> Path:
    rows: list[dict[str, Any]] = [{keys.get("text", "text"): text} for text in texts]
    for row, label in zip(rows, labels or [], strict=False):
        row["label"] = label
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return write(tmp_path / "before.jsonl", *labelled_texts(300))


def test_files_that_are_alike(before: Path, tmp_path: Path) -> None:
    told = compare(before, write(tmp_path / "now.jsonl", *labelled_texts(150, seed=1)))
    assert told.keys() == KEYS
    assert not told["drifted"] and told["p_value"] > 0.01
    assert told["calibrated_on"] == "rows" and told["alarm_budget"] == 0.01 and told["slices"] == []
    assert told["rows"] == {"reference": 300, "current": 150, "bad": 0}
    assert told["harm"]["abstained"] and "without a model" in told["harm"]["why"]
    assert told["sentinels"]["duplicates"]["current"] < 0.2
    json.dumps(told, allow_nan=False)


def test_drift_is_told_with_words_examples_and_a_page(before: Path, tmp_path: Path) -> None:
    evil = "<script>alert('violin')</script> {{ 7 * 7 }}"
    texts = labelled_texts(100, seed=1)[0] + [
        f"{evil} {text}" for text in labelled_texts(60, ("music",), 2)[0]
    ]
    page = tmp_path / "drift.html"
    told = compare(before, write(tmp_path / "now.jsonl", texts), html=page)
    assert told["drifted"] and told["effect"]["auc"] > told["effect"]["reference_auc"]
    assert any("violin" in word["term"] or word["term"] == "script" for word in told["words"])
    sides = {
        side: [one for one in told["examples"] if one["side"] == side] for side in ("current", "reference")
    }
    assert any(evil[:8] in one["text"] for one in sides["current"]) and len(sides["reference"]) == 5
    known = labelled_texts(300)[0]
    assert all(one["text"] in known for one in sides["reference"])
    assert told["slices"] and told["slices"][0].keys() == {
        "name",
        "kind",
        "z",
        "current",
        "reference",
        "examples",
    }
    assert max(one["z"] for one in told["slices"]) >= 3 and math.isfinite(told["effect"]["reference_auc"])
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;" in html and "{{ 7 * 7 }}" in html and ">49<" not in html
    assert "http://" not in html and "https://" not in html and "src=" not in html
    assert "default-src" in html and "Parts that grew or shrank" in html
    assert "Rows of the reference that are least like them" in html and "independent of one another" in html


def test_a_version_gives_answers_and_harm(tmp_path: Path) -> None:
    words = {"bread": "ham", "goal": "spam", "map": "news"}
    version = write_version(tmp_path / "version", 1, words)

    def rows(pairs: list[tuple[str, str]], times: int) -> tuple[list[str], list[str]]:
        texts, labels = labelled_texts(times)[0], [label for _, label in pairs]
        keys = [word for word, _ in pairs]
        return [f"{keys[i % len(keys)]} {text}" for i, text in enumerate(texts)], [
            labels[i % len(labels)] for i in range(times)
        ]

    before = write(tmp_path / "before.jsonl", *rows(list(words.items()), 120))
    now = write(tmp_path / "now.jsonl", *rows([("bread", "news"), ("goal", "spam")], 80))

    told = compare(before, now, encoder=version)
    harm = told["harm"]
    assert harm["how"] == "labels" and harm["accepted"] > harm["accuracy"]
    assert {signal["name"] for signal in told["signals"]} >= {"predicted labels", "confidence", "labels"}
    json.dumps(told, allow_nan=False)


def test_a_bare_encoder_joins_the_n_grams(before: Path, tmp_path: Path, tiny_base: Path) -> None:
    told = compare(before, write(tmp_path / "now.jsonl", *labelled_texts(80, seed=1)), encoder=tiny_base)
    assert told["harm"]["abstained"] and not told["drifted"]
    assert {signal["name"] for signal in told["signals"]} <= {"text", "labels"}


def test_columns_may_have_other_names(before: Path, tmp_path: Path) -> None:
    texts = labelled_texts(60)[0]
    one = write(tmp_path / "one.jsonl", texts, text="body")
    assert compare(one, one, columns=Columns(text="body"))["rows"]["reference"] == 60
    with pytest.raises(BadInputError):
        compare(before, one)


def test_what_cannot_be_compared_is_told(before: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(BadInputError, match="empty"):
        compare(before, empty)
    with pytest.raises(BadInputError, match="nowhere"):
        compare(tmp_path / "nowhere.jsonl", before)
    with pytest.raises(PluginError, match="3 rows"):
        compare(write(tmp_path / "few.jsonl", labelled_texts(3)[0]), before)


def test_many_rows_are_thinned_evenly(tmp_path: Path) -> None:
    many = write(tmp_path / "many.jsonl", labelled_texts(2500)[0])
    told = compare(many, many, seed=4)
    assert told["rows"]["current"] == 2500 and not told["drifted"]
    assert compare(many, many, seed=4)["p_value"] == told["p_value"]


# --- times ----------------------------------------------------------------------------------------


def dated(path: Path, days: range, column: str = "time", every: int = 1) -> Path:
    """Twenty rows a day; every so many rows have a time."""
    lines = []
    for number in days:
        for row, text in enumerate(labelled_texts(20, seed=number)[0]):
            when = f"2026-{1 + number // 28:02}-{1 + number % 28:02}"
            lines.append({"text": text} | ({column: when} if row % every == 0 else {}))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_fourteen_days_calibrate_on_days(tmp_path: Path) -> None:
    now = dated(tmp_path / "now.jsonl", range(30, 36), "when")
    columns = Columns(time="when")
    for days, calibrated in ((14, "days"), (13, "rows")):
        before = dated(tmp_path / "before.jsonl", range(days), "when")
        told = compare(before, now, columns=columns, timed=True)
        assert (told["calibrated_on"], told["drifted"]) == (calibrated, False)


def test_times_that_are_missing_or_no_times(tmp_path: Path) -> None:
    before = dated(tmp_path / "before.jsonl", range(20))
    half = dated(tmp_path / "half.jsonl", range(20), every=2)
    assert compare(half, before)["calibrated_on"] == "rows"
    none = write(tmp_path / "none.jsonl", labelled_texts(60)[0])
    for pair in ((before, none), (none, before)):
        assert not compare(*pair)["drifted"]
        with pytest.raises(BadInputError, match=r"none.jsonl: no row has a time in 'time'"):
            compare(*pair, timed=True)
    with before.open("a") as file:
        file.write('{"text": "a", "time": NaN}\n{"text": "b", "time": "soon"}\n')
    told = compare(before, before)
    assert told["rows"]["bad"] == 4 and told["calibrated_on"] == "days"


# --- odd input ------------------------------------------------------------------------------------

MIXED = [
    "今天的天气很好",
    "Сегодня хорошая погода",
    "الطقس جميل اليوم",
    "the weather is fine",
    "今日はいい天気です",
]


@pytest.mark.parametrize(
    ("before", "now", "drifted"),
    [
        (["same"] * 60, ["same"] * 40, False),
        (["same"] * 60, ["other"] * 40, True),
        (labelled_texts(90)[0], ["same"] * 40, True),
        (labelled_texts(30)[0] * 4, labelled_texts(30)[0] * 2, False),
        (MIXED * 20, MIXED * 10, False),
        (MIXED * 20, MIXED[1:2] * 30, True),
        (["a " * 49_000, "b " * 49_000] * 12, ["b " * 49_000, "a " * 49_000] * 5, False),
    ],
    ids=["one text", "another text", "now one text", "duplicates", "scripts", "one script", "huge rows"],
)
def test_odd_files(before: list[str], now: list[str], drifted: bool, tmp_path: Path) -> None:
    told = compare(write(tmp_path / "before.jsonl", before), write(tmp_path / "now.jsonl", now))
    assert told["drifted"] is drifted and told.keys() == KEYS
    assert 0.0 < told["p_value"] <= 1.0 and 0.5 <= told["effect"]["auc"] <= 1.0
    assert 0.0 <= told["effect"]["reference_auc"] <= 1.0
    assert all(len(one["text"]) <= 300 for one in told["examples"])
    json.dumps(told, allow_nan=False)


def test_rows_of_a_megabyte_are_refused_as_intake_does(before: Path, tmp_path: Path) -> None:
    now = write(tmp_path / "now.jsonl", [*labelled_texts(60)[0], "x" * 2**20, "x" * 2**21])
    assert compare(before, now)["rows"] == {"reference": 300, "current": 60, "bad": 2}
    with pytest.raises(BadInputError, match="no usable row; row 1: a text of 1048576 characters"):
        compare(before, write(tmp_path / "huge.jsonl", ["x" * 2**20] * 3))


def test_one_row_is_too_few(before: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", labelled_texts(1)[0])
    with pytest.raises(BadInputError, match=r"one.jsonl: one row says nothing"):
        compare(before, one)
    few = write(tmp_path / "few.jsonl", labelled_texts(2)[0])
    assert not compare(before, few)["drifted"]


def test_other_formats_and_packed_files(before: Path, tmp_path: Path) -> None:
    texts = labelled_texts(80, seed=1)[0]
    table, lines, packed = tmp_path / "now.csv", tmp_path / "now.txt", tmp_path / "now.jsonl.gz"
    table.write_text("text\n" + "".join(f"{text}\n" for text in texts))
    lines.write_text("".join(f"{text}\n" for text in texts))
    packed.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))
    p_values = {compare(before, path)["p_value"] for path in (table, lines, packed)}
    assert len(p_values) == 1
