"""Which rows are new: exact and near duplicates, leaks, and labels that come late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keeperd import rows
from keeperd.intake import fingerprint
from tests.intake_kit import LONG, SCRIPTS, Box


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


# --- duplicates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*SCRIPTS.values(), *LONG.values()])
def test_equal_texts_are_kept_once(box: Box, text: str) -> None:
    box.put_rows("a.jsonl", {"text": text}, {"text": f" {text.upper()} "}, {"text": "something else"})
    result = box.run()
    assert (result["rows"], result["duplicates"]) == (2, 1)
    box.put_rows("b.jsonl", {"text": text}, {"text": "and now this"})
    result = box.run()
    assert (box.texts(), result["duplicates"]) == (["and now this"], 1)


@pytest.mark.parametrize("text", LONG.values())
def test_near_duplicates_are_dropped_within_and_across_batches(box: Box, text: str) -> None:
    box.put_rows("a.jsonl", {"text": text}, {"text": text + "x"}, {"text": "something else"})
    result = box.run()
    assert (result["rows"], result["near_duplicates"]) == (2, 1)
    box.put_rows("b.jsonl", {"text": "y" + text}, {"text": "and now this"})
    result = box.run()
    assert (box.texts(), result["near_duplicates"]) == (["and now this"], 1)


def test_near_duplicates_can_be_kept(box: Box) -> None:
    box.put_rows("a.jsonl", {"text": LONG["english"]}, {"text": LONG["english"] + "x"})
    assert box.run(near_duplicates=1.0)["rows"] == 2


def test_only_the_newest_batches_are_compared(box: Box) -> None:
    for name in ("a", "b", "c"):
        box.put_rows(f"{name}.jsonl", {"text": f"text of {name}"})
        box.run()
    box.put_rows("d.jsonl", {"text": "text of a"}, {"text": "text of c"})
    box.run(dedupe_rows=2, near_duplicates=1.0)
    assert box.texts() == ["text of a"]


def test_sketches_of_another_kind_are_made_anew(box: Box) -> None:
    box.put_rows("a.jsonl", {"text": LONG["english"]})
    box.run()
    table = rows.read(box.batches)
    wrong = table.set_column(7, "bands", [[[7] * fingerprint.BANDS]]).cast(rows.SCHEMA)
    rows.write(box.batches[0], wrong)
    box.put_rows("b.jsonl", {"text": LONG["english"] + "x"})
    assert box.run()["near_duplicates"] == 1


def test_50k_copies_of_one_text_are_one_row(box: Box) -> None:
    box.put_rows("a.jsonl", *({"text": "buy now!" + " " * (n % 3), "label": "spam"} for n in range(50_000)))
    result = box.run()
    assert (result["rows"], result["duplicates"]) == (1, 49_999)


# --- leaks ------------------------------------------------------------------------------------------


def test_rows_like_protected_ones_are_dropped(box: Box) -> None:
    box.protected = [*LONG.values(), "short golden text"]
    box.put_rows(
        "a.jsonl",
        *({"text": text.upper(), "label": "a"} for text in LONG.values()),
        {"text": LONG["english"] + "s"},
        {"text": LONG["chinese"] + "呢"},
        {"text": "Short golden text."},
        {"text": "harmless"},
    )
    result = box.run()
    assert (box.texts(), result["leaks"]) == (["harmless"], 6)


def test_leaks_are_dropped_where_near_duplicates_are_kept(box: Box) -> None:
    box.protected = [LONG["english"]]
    box.put_rows("a.jsonl", {"text": LONG["english"] + "s"})
    assert box.run(near_duplicates=1.0)["leaks"] == 1


def test_a_late_label_does_not_bring_a_protected_text(box: Box) -> None:
    box.put_rows("a.jsonl", {"text": LONG["english"], "id": "1"})
    box.run()
    box.protected = [LONG["english"] + "s"]
    box.put_rows("b.jsonl", {"id": "1", "label": "a"})
    result = box.run()
    assert (result["rows"], result["leaks"], result["late_labels"]) == (0, 1, 0)


# --- labels -----------------------------------------------------------------------------------------


def counts(result: dict[str, Any]) -> tuple[int, int, int, int]:
    return result["rows"], result["late_labels"], result["duplicates"], result["bad_rows"]


def test_a_label_for_an_earlier_text_brings_the_text_again(box: Box) -> None:
    box.put_rows("a.jsonl", {"text": "hello there"}, {"text": "other"})
    box.run()
    box.put_rows("b.jsonl", {"text": "Hello there!", "label": "a"}, {"text": "hello there", "label": "a"})
    assert counts(box.run()) == (1, 1, 1, 0)
    assert box.labels() == {"Hello there!": "a"}
    box.put_rows("c.jsonl", {"text": "hello THERE", "label": "a"}, {"text": "hello there"})
    assert counts(box.run()) == (0, 0, 2, 0)


@pytest.mark.parametrize("text", LONG.values())
def test_a_label_for_an_earlier_long_text_is_no_near_duplicate(box: Box, text: str) -> None:
    box.put_rows("a.jsonl", {"text": text})
    box.run()
    box.put_rows("b.jsonl", {"text": text, "label": "a"})
    assert counts(box.run()) == (1, 1, 0, 0)


def test_a_label_for_a_text_of_the_same_intake_joins_it(box: Box) -> None:
    box.put_rows("a.jsonl", {"text": "hello", "id": "7", "source": "web"})
    box.put_rows("b.jsonl", {"text": "HELLO", "label": "a"})
    assert counts(box.run()) == (1, 1, 0, 0)
    assert box.labels() == {"hello": "a"}
    assert box.table.column("id").to_pylist() == ["7"]
    assert [entry["rows"] for entry in box.files.values()] == [1, 0]


def test_a_label_alone_joins_the_row_of_its_id(box: Box) -> None:
    box.put_rows(
        "a.jsonl",
        {"text": "hello", "id": "1", "time": "2024-05-01", "source": "web"},
        {"text": "none", "id": "2"},
    )
    box.run()
    box.put_rows("b.jsonl", {"id": "1", "label": "a"}, {"id": "3", "label": "b"}, {"text": "new", "id": "3"})
    box.put("c.csv", "id,label\n2,c\n9,d\n1,a\n")
    result = box.run()
    assert counts(result) == (3, 3, 1, 1)
    assert box.labels() == {"new": "b", "hello": "a", "none": "c"}
    row = box.table.to_pylist()[1]
    assert (row["id"], row["source"], row["time"].isoformat()) == ("1", "web", "2024-05-01T00:00:00+00:00")
    assert box.quarantine == [
        {"path": str(box.drop / "c.csv"), "row": 2, "reason": "label for an unknown id"}
    ]
    assert [entry["rows"] for entry in box.files.values()] == [2, 1]
    assert (result["labelled"], result["labels"]) == (3, {"a": 1, "b": 1, "c": 1})


def test_rows_without_an_id_can_be_named_by_the_hash_of_their_text(box: Box) -> None:
    box.put_rows("a.jsonl", {"text": "hello"})
    box.run()
    (identity,) = box.table.column("id").to_pylist()
    assert identity == fingerprint.digest("hello")[0]
    box.put_rows("b.jsonl", {"id": identity, "label": "a"})
    assert counts(box.run()) == (1, 1, 0, 0)


def test_late_labels_are_found_however_old_the_row_is(box: Box) -> None:
    for n in range(4):
        box.put_rows(f"{n}.jsonl", {"text": f"text number {n}", "id": str(n)})
        box.run(dedupe_rows=1)
    box.put_rows("labels.jsonl", {"id": "0", "label": "a"}, {"text": "text number 0"})
    assert counts(box.run(dedupe_rows=1)) == (1, 1, 0, 0)


def test_a_label_for_the_id_of_a_dropped_copy_reaches_the_text(box: Box) -> None:
    box.put_rows("a.jsonl", {"text": "hello", "id": "1"})
    box.run()
    box.put_rows("b.jsonl", {"text": "hello", "id": "2"}, {"id": "2", "label": "a"})
    assert counts(box.run()) == (1, 1, 0, 0)
    assert box.labels() == {"hello": "a"}
    box.put_rows("c.jsonl", {"text": "new", "id": "3"}, {"text": "new", "id": "4"}, {"id": "4", "label": "b"})
    assert counts(box.run()) == (1, 1, 1, 0)
    assert box.labels() == {"new": "b"}


def test_an_edited_text_with_a_label_labels_the_text_of_its_id(box: Box) -> None:
    box.put_rows("a.jsonl", {"text": LONG["english"], "id": "1"})
    box.run()
    box.put_rows("b.jsonl", {"text": LONG["english"] + "s", "id": "1", "label": "a"})
    assert counts(box.run()) == (1, 1, 0, 0)
    assert box.labels() == {LONG["english"]: "a"}
    box.put_rows("c.jsonl", {"text": "x" + LONG["english"], "id": "5", "label": "a"})
    result = box.run()
    assert (result["rows"], result["near_duplicates"], result["bad_rows"]) == (0, 1, 0)


def test_conflicting_labels_keep_the_first(box: Box) -> None:
    box.put_rows(
        "a.jsonl",
        {"text": "hello", "label": "a"},
        {"text": "Hello", "label": "b"},
        {"text": "late", "id": "1"},
        {"id": "1", "label": "c"},
        {"id": "1", "label": "d"},
    )
    assert counts(box.run()) == (2, 1, 0, 2)
    assert box.labels() == {"hello": "a", "late": "c"}
    assert [(entry["row"], entry["reason"]) for entry in box.quarantine] == [
        (2, "label 'b', where it was 'a' before"),
        (5, "label 'd', where it was 'c' before"),
    ]
    box.put_rows("b.jsonl", {"text": "hello", "label": "b"}, {"id": "1", "label": "a"})
    assert counts(box.run()) == (0, 0, 0, 2)


def test_a_corrected_batch_label_counts_from_the_newest(box: Box) -> None:
    box.put_rows("a.jsonl", {"text": "hello"})
    box.run()
    box.put_rows("b.jsonl", {"text": "hello", "label": "a"})
    box.run()
    box.put_rows("c.jsonl", {"text": "hello", "label": "b"}, {"text": "hello", "label": "a"})
    assert counts(box.run()) == (0, 0, 1, 1)
