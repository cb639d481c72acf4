"""Two files compared, without a model and with one."""

from __future__ import annotations

import json
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
    assert told["calibrated_on"] == "rows" and told["alarm_budget"] is None and told["slices"] == []
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
    assert any(evil[:8] in one["text"] for one in told["examples"])
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;" in html and "{{ 7 * 7 }}" in html and ">49<" not in html
    assert "http://" not in html and "https://" not in html and "src=" not in html
    assert "default-src" in html


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
