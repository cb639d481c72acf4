"""Intake as a whole: what a batch holds, and what is said about it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keeperd import intake, intake_batch, rows
from keeperd.api import BadInputError, BadRow, Columns, Component, Options, PluginError, Reader, Row, Stopped
from keeperd.config import Intake
from keeperd.intake_take import Quarantine, presentable
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


# --- readers that fail ----------------------------------------------------------------------------


class Faulty(Reader[Options]):
    """A reader that does what the first line of its file says."""

    name = "faulty"
    suffixes = (".faulty",)

    def read(self, file: BinaryIO, columns: Columns) -> Iterator[Row | BadRow]:
        yield Row("a first row of a faulty file")
        what = file.readline().decode().strip()
        if what == "garbage":
            yield "garbage"  # type: ignore[misc]
        if what == "types":
            yield Row(5)  # type: ignore[arg-type]
            yield Row("a", time="today")  # type: ignore[arg-type]
            yield Row("a", label=" ")
        errors = {
            "bug": ValueError("x" * 10_000),
            "no library": PluginError("install it"),
            "disk": OSError("full"),
        }
        if what in errors:
            raise errors[what]


def faulty(kind: str, name: str) -> Component[Any]:
    return Faulty() if kind == "reader" else load(kind, name)


def test_a_reader_that_fails_costs_its_file(box: Box) -> None:
    box.put("a.faulty", "bug")
    box.put("b.faulty", "garbage")
    box.put("c.faulty", "types")
    assert box.run(load_with=faulty)["bad_rows"] == 3
    assert box.texts() == ["a first row of a faulty file"]
    assert box.files["a.faulty"]["reason"].startswith("the faulty reader failed: ValueError: xxx")
    assert box.files["b.faulty"]["reason"] == "row 2: the plugin yields a str, not a Row"
    assert box.reasons()[2:] == [
        "the text is not a string",
        "the time is not a datetime",
        "the label is blank",
    ]


@pytest.mark.parametrize(("what", "error"), [("no library", PluginError), ("disk", OSError)])
def test_what_is_not_the_files_fault_ends_the_run(box: Box, what: str, error: type[Exception]) -> None:
    box.put("a.faulty", what)
    with pytest.raises(error):
        box.run(load_with=faulty)


def test_the_quarantine_list_forgets(tmp_path: Path) -> None:
    with Quarantine(tmp_path / "q.jsonl") as quarantine:
        quarantine.add("a", 1, "one")
        mark = quarantine.mark()
        quarantine.add("a", 2, "two, which is longer")
        quarantine.back_to(mark)
        quarantine.add("b", None, "all")
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [(line["path"], line["row"]) for line in lines] == [("a", 1), ("b", None)]


# --- one file -------------------------------------------------------------------------------------


def test_read_file_reads_as_intake_does(box: Box) -> None:
    path = box.put(
        "a.jsonl", '{"text": "one", "label": "a"}\nnonsense\n{"text": "ONE"}\n{"id": "1", "label": "b"}\n'
    )
    os.link(path, box.folder / "linked.jsonl")
    for name in (path, box.folder / "linked.jsonl"):
        table, bad = intake.read_file(name, Intake(), load)
        assert table.schema.equals(rows.SCHEMA)
        assert table.column("text").to_pylist() == ["one", "ONE"]
        assert table.column("label").to_pylist() == ["a", None]
        assert len(set(table.column("hash").to_pylist())) == 1
        assert [row.number for row in bad] == [2, 4]
        assert bad[1].reason == "no text"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.xyz", b"hello", "no reader takes this kind of file"),
        ("a.txt.gz", b"hello", "damaged or cut short"),
        ("a.txt", b"x" * 200, "larger than max_file"),
        ("a.csv", b"a,b\n", "no column 'text'"),
    ],
)
def test_read_file_names_the_file_that_it_refuses(box: Box, name: str, content: bytes, expected: str) -> None:
    path = box.put(name, content)
    with pytest.raises(BadInputError, match=f"^{path}: {expected}"):
        intake.read_file(path, Intake(max_file=100), load)


def test_read_file_of_nothing(box: Box) -> None:
    table, bad = intake.read_file(box.put("a.txt", ""), Intake(), load)
    assert (table.num_rows, bad) == (0, [])
    with pytest.raises(BadInputError, match="No such file"):
        intake.read_file(box.drop / "none.txt", Intake(), load)
