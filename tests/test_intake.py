"""Intake as a whole: what a batch holds, and what is said about it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keeperd import rows
from keeperd.api import Component, Stopped
from keeperd.intake import batch as intake_batch
from keeperd.intake.take import presentable
from keeperd.versions import sha256_file
from tests.intake_kit import SCRIPTS, Box, load


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


# --- the batch ------------------------------------------------------------------------------------


def test_a_batch_holds_the_rows_as_they_came(box: Box) -> None:
    lines = [{"text": text, "label": name, "id": name} for name, text in SCRIPTS.items()]
    box.put_rows(
        "a.jsonl", *lines, {"text": " spaces kept ", "time": "2024-05-01T10:00+02:00", "source": "web"}
    )
    result = box.run()
    assert box.table.schema.equals(rows.SCHEMA)
    assert box.texts() == [*SCRIPTS.values(), " spaces kept "]
    assert box.table.column("id").to_pylist()[:-1] == list(SCRIPTS)
    assert box.labels() == {**{text: name for name, text in SCRIPTS.items()}, " spaces kept ": None}
    last = box.table.to_pylist()[-1]
    assert (last["time"].isoformat(), last["source"]) == ("2024-05-01T08:00:00+00:00", "web")
    assert result["labels"] == dict.fromkeys(SCRIPTS, 1)
    assert (result["rows"], result["labelled"]) == (len(SCRIPTS) + 1, len(SCRIPTS))
    assert result["batch"] == sha256_file(box.batches[0])


def test_the_same_drop_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = {f"{n % 7}/{n}.txt": f"text number {n}\nand {n * n} more" for n in range(40)}
    shas = []
    for folder, names in (("one", sorted(contents)), ("two", sorted(contents, reverse=True))):
        (tmp_path / folder).mkdir()
        box = Box(tmp_path / folder)
        for name in names:
            box.put(name, contents[name])
        shas.append(box.run()["batch"])
    assert shas[0] == shas[1]


def test_a_text_is_always_on_the_same_side(box: Box) -> None:
    box.put_rows("a.jsonl", *({"text": f"text number {n}"} for n in range(400)))
    box.run()
    sides = dict(zip(box.texts(), box.table.column("split").to_pylist(), strict=True))
    assert 0.1 < list(sides.values()).count("holdout") / 400 < 0.3
    box.put_rows("b.jsonl", *({"text": f"TEXT number {n}!", "label": "a"} for n in range(400)))
    result = box.run()
    again = dict(zip(box.texts(), box.table.column("split").to_pylist(), strict=True))
    assert again == {text.replace("text", "TEXT") + "!": side for text, side in sides.items()}
    assert result["holdout"] == list(sides.values()).count("holdout")


def test_an_intake_of_nothing(box: Box) -> None:
    result = box.run()
    assert result == {
        "batch": None,
        "rows": 0,
        "labelled": 0,
        "holdout": 0,
        "bad_rows": 0,
        "duplicates": 0,
        "near_duplicates": 0,
        "leaks": 0,
        "late_labels": 0,
        "files": {"accepted": 0, "duplicate": 0, "quarantined": 0, "waiting": 0},
        "labels": {},
        "problems": [],
    }
    assert sorted(path.name for path in (box.folder / "out1").iterdir()) == [
        "files.jsonl",
        "quarantine.jsonl",
    ]


def test_no_temporary_file_stays(box: Box) -> None:
    box.put("a.txt", "hello")
    box.run()
    assert list(box.context.workdir.iterdir()) == []


def test_row_groups_are_of_a_bounded_size(tmp_path: Path) -> None:
    part = pa.Table.from_pylist([{"text": "x", "hash": 1, "bands": [1]}] * 30_000, schema=rows.SCHEMA)
    assert intake_batch.write(tmp_path / "b.parquet", [part] * 4) == 120_000
    meta = pq.read_metadata(tmp_path / "b.parquet")
    assert [meta.row_group(n).num_rows for n in range(meta.num_row_groups)] == [60_000, 60_000]


# --- bad rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"text": "a\0b"}, "a NUL character in the text"),
        (
            {"text": "\ud800 alone"},
            "the text is not valid Unicode (a lone surrogate, or bytes that are not UTF-8)",
        ),
        ({"text": "好" * 400}, "a text of 1200 bytes (max_row 1000)"),
        ({"text": ""}, "no text"),
        ({"label": "a"}, "no text"),
        ({"text": " \u200b\n"}, "no visible text"),
        ({"text": "a", "label": "x" * 201}, "the label has more than 200 characters"),
        ({"text": "a", "label": "x\ny"}, "the label has control characters or is not valid Unicode"),
        ({"text": "a", "source": "\x1b[2J"}, "the source has control characters or is not valid Unicode"),
        ({"text": "a", "id": "\udc00"}, "the id has control characters or is not valid Unicode"),
        ({"text": "x" * 90}, "a text of 90 characters (max_characters 80)"),
    ],
)
def test_bad_rows_are_refused_one_by_one(tmp_path: Path, line: dict[str, Any], expected: str) -> None:
    box = Box(tmp_path)
    box.put_rows("a.jsonl", {"text": "before"}, line, {"text": "after"})
    result = box.run(max_row=1000, filters=["length"]) if len(line.get("text", "")) != 90 else _short(box)
    assert box.texts() == ["before", "after"]
    assert box.quarantine == [{"path": str(box.drop / "a.jsonl"), "row": 2, "reason": expected}]
    assert result["bad_rows"] == 1
    assert box.files["a.jsonl"]["rows"] == 2


def _short(box: Box) -> dict[str, Any]:
    """An intake with a length filter that the operator has set."""

    def short(kind: str, name: str) -> Component[Any]:
        component = load(kind, name)
        return type(component)(
            component.Options.model_validate({"max_characters": 80} if kind == "filter" else {})
        )

    return box.run(load_with=short)


def test_labels_in_other_scripts_are_labels(box: Box) -> None:
    labels = ["体育", "رياضة", "کتاب\u200cخانه", "👩‍💻", "खेल"]
    box.put_rows("a.jsonl", *({"text": f"text {n}", "label": f" {label} "} for n, label in enumerate(labels)))
    assert set(box.run()["labels"]) == set(labels)


def test_bytes_that_are_not_utf8_cost_their_row_alone(box: Box) -> None:
    box.put("a.txt", b"before\ncaf\xe9\nafter\n")
    box.put("b.csv", b"text,label\nbefore csv,a\ncaf\xe9,b\nafter csv,c\n")
    assert box.run()["bad_rows"] == 2
    assert box.texts() == ["before", "after", "before csv", "after csv"]


def test_reasons_are_presentable() -> None:
    assert presentable("a\n b\ud800") == "a b\\ud800"
    assert len(presentable("x" * 10_000)) == 500


# --- limits ---------------------------------------------------------------------------------------


def test_the_rest_of_many_files_waits(box: Box) -> None:
    for n in range(5):
        box.put(f"{n}.txt", f"text {n}")
    result = box.run(max_files=2)
    assert result["files"] == {"accepted": 2, "duplicate": 0, "quarantined": 0, "waiting": 3}
    assert result["problems"] == ["3 more files wait for the next intake (max_files, max_rows)"]
    assert box.run(max_files=2)["rows"] == 2
    assert box.run(max_files=2)["rows"] == 1


def test_the_rest_of_many_rows_waits(box: Box) -> None:
    for n in range(4):
        box.put_rows(f"{n}.jsonl", *({"text": f"text {n} {m}"} for m in range(3)))
    assert (box.run(max_rows=5)["rows"], len(box.scan().files)) == (6, 2)


def test_an_intake_stops_when_asked(box: Box) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    for n in range(10):
        box.put(f"{n}.txt", f"text {n}")
    box.context = replace(box.context, stop_asked=stop)
    with pytest.raises(Stopped):
        box.run()
    assert list(box.context.workdir.iterdir()) == []


def test_an_intake_stops_inside_a_large_file(box: Box) -> None:
    box.put_rows("a.jsonl", *({"text": f"text {n}"} for n in range(3000)))
    answers = iter([False, False])
    box.context = replace(box.context, stop_asked=lambda: next(answers, True))
    with pytest.raises(Stopped):
        box.run()


def test_progress_only_grows(box: Box) -> None:
    told: list[float] = []
    box.context = replace(box.context, on_progress=lambda fraction, text: told.append(fraction))
    for n in range(4):
        box.put(f"{n}.txt", f"text {n}")
    box.run()
    assert told == sorted(told)
    assert told[-1] == 0.9


def test_a_row_without_a_time_is_as_old_as_its_file(tmp_path: Path) -> None:
    box = Box(tmp_path)
    path = box.put_rows(
        "a.jsonl", {"text": "no time of its own"}, {"text": "its own time", "time": "2020-02-03"}
    )
    os.utime(path, (1_700_000_000, 1_700_000_000))
    box.run()
    days = dict(zip(*(box.table.column(name).to_pylist() for name in ("text", "time")), strict=True))
    assert str(days["no time of its own"]) == "2023-11-14 22:13:20+00:00"
    assert str(days["its own time"]).startswith("2020-02-03")
