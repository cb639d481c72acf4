"""Readers that fail, and one file read for a command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from keeperd import intake, rows
from keeperd.api import BadInputError, BadRow, Columns, Component, Options, PluginError, Reader, Row
from keeperd.config import Intake
from keeperd.intake.take import Quarantine
from tests.intake_kit import Box, load


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


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
