"""Damaged, packed, oversized and repeated files: what becomes of their contents."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pytest

from keeperd import intake
from keeperd.api import BadInputError
from keeperd.folders import Opener
from keeperd.intake.copy import IN_MEMORY
from tests.intake_kit import SCRIPTS, Box

HIDDEN = "the secret of the house"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def refused(box: Box) -> dict[str, str]:
    """File -> reason; and nothing but the harmless file was taken."""
    box.put("harmless.txt", "harmless")
    result = box.run()
    assert box.texts() == ["harmless"]
    assert result["files"]["quarantined"] == len(box.quarantine)
    assert HIDDEN not in str(box.files)
    return {name: entry["reason"] for name, entry in box.files.items() if entry["status"] == "quarantined"}


# --- contents -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.xyz",
            b"hello",
            "no reader takes this kind of file; known are .csv, .jsonl, .ndjson, .parquet, .tsv",
        ),
        ("a", b"hello", "no reader takes this kind of file"),
        ("a.txt.bz2", b"hello", "no reader takes this kind of file"),
        ("empty.txt", b"", "empty: no row in it"),
        ("blank.jsonl", b"\n\n \n", "empty: no row in it"),
        ("header.csv", b"text,label\n", "empty: no row in it"),
        ("binary.txt", bytes(200) + b"ELF", "binary data"),
        (
            "latin.jsonl",
            '{"text": "caf\xe9"}'.encode("latin-1"),
            "no good row among 1; row 1: the text is not valid",
        ),
        ("plain.jsonl", b"just words\n" * 3, "no good row among 3; row 1: not valid JSON"),
        ("short.txt.gz", gzip.compress(b"hello\n" * 1000, mtime=0)[:-40], "damaged or cut short: gzip"),
        ("wrong.txt.gz", b"not gzip at all, but long enough", "damaged or cut short: gzip"),
        ("wrong.txt.zst", b"not zstd at all, but long enough", "damaged or cut short: zstd"),
        (
            "short.txt.zst",
            pa.compress(b"hello\n" * 1000, "zstd", asbytes=True)[:-4],
            "damaged or cut short: zstd",
        ),
    ],
)
def test_files_that_cannot_be_read_are_quarantined_with_a_reason(
    box: Box, name: str, content: bytes, expected: str
) -> None:
    box.put(name, content)
    reasons = refused(box)
    assert reasons[name].startswith(expected)
    assert box.quarantine == [{"path": str(box.drop / name), "row": None, "reason": reasons[name]}]
    assert box.run()["files"] == {"accepted": 0, "duplicate": 0, "quarantined": 0, "waiting": 0}


def test_packed_files_are_unpacked(box: Box) -> None:
    lines = [*SCRIPTS.values()]
    box.put("a.txt.gz", gzip.compress(lines[0].encode(), mtime=0) + gzip.compress(b"\n" + lines[1].encode()))
    box.put("b.TXT.ZST", pa.compress(lines[2].encode(), "zstd", asbytes=True))
    large = "\n".join(" ".join(str(n * k) for k in range(1, 2000)) for n in range(1000))
    assert len(large) > IN_MEMORY
    box.put("c.txt.gz", gzip.compress(large.encode(), 1, mtime=0))
    result = box.run(near_duplicates=1.0)
    assert box.texts()[:3] == lines[:3]
    assert result["rows"] == 1003


def test_a_bomb_is_stopped_early(box: Box) -> None:
    with gzip.open(box.drop / "bomb.txt.gz", "wb") as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    assert (box.drop / "bomb.txt.gz").stat().st_size < 400_000
    assert refused(box)["bomb.txt.gz"] == "unpacks to more than 100 times its size (max_ratio)"


def test_sizes_are_limited(box: Box) -> None:
    box.put("large.txt", "x" * 2000)
    box.put("packed.txt.gz", gzip.compress(b"x\n" * 1000, mtime=0))
    box.put("rows.txt", "\n".join(f"row {n}" for n in range(60)))
    box.run(max_file=1000, max_rows=50)
    assert {name: entry["reason"] for name, entry in box.files.items()} == {
        "large.txt": "larger than max_file (1000 bytes)",
        "packed.txt.gz": "unpacks to more than max_file (1000 bytes)",
        "rows.txt": "more than 50 rows (max_rows); split the file",
    }


def test_a_refused_file_leaves_no_row_behind(box: Box) -> None:
    box.put("a.csv", 'text\ngood before\n"bad\n')
    box.put("b.csv", "text\ngood after\n")
    result = box.run()
    assert box.texts() == ["good after"]
    assert result["bad_rows"] == 0
    assert box.reasons() == ["a quote in row 2 is never closed"]


# --- identity -------------------------------------------------------------------------------------


def test_a_file_is_taken_once_and_again_when_it_changes(box: Box) -> None:
    path = box.put("a.txt", "one")
    assert box.run()["rows"] == 1
    assert box.scan().files == []
    path.write_text("another")
    assert box.run()["rows"] == 1
    assert box.texts() == ["another"]


def test_the_same_content_under_another_name_is_a_duplicate(box: Box) -> None:
    box.put("a.txt", "one")
    box.put("b.txt", "one")
    result = box.run()
    assert result["files"] == {"accepted": 1, "duplicate": 1, "quarantined": 0, "waiting": 0}
    assert box.files["b.txt"]["reason"] == f"same content as {box.drop / 'a.txt'}"
    assert box.files["b.txt"]["sha256"] == box.files["a.txt"]["sha256"]
    box.put("c.txt", "one")
    assert box.run()["batch"] is None
    assert box.files["c.txt"]["reason"] == "same content as a file taken before"


def test_a_refused_file_is_not_the_original_of_a_duplicate(box: Box) -> None:
    box.put("a.xyz", "one")
    box.put("b.jsonl", "one")
    box.put("c.txt", "one")
    assert box.run()["files"] == {"accepted": 1, "duplicate": 0, "quarantined": 2, "waiting": 0}


def test_a_file_that_the_operator_names_may_be_a_link(box: Box) -> None:
    path = box.put("a.txt", "hello")
    os.link(path, box.folder / "hard.txt")
    (box.folder / "soft.txt").symlink_to(path)
    for name in ("hard.txt", "soft.txt"):
        with Opener() as opener:
            os.close(opener.open(intake.found_by_operator(box.folder / name)))
    with pytest.raises(BadInputError, match="No such file"):
        intake.found_by_operator(box.folder / "none.txt")
    with pytest.raises(BadInputError, match="not a regular file"):
        intake.found_by_operator(box.folder)
