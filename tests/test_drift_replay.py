"""The monitor over a dated file."""

from __future__ import annotations

import json
import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from keeperd import plugins
from keeperd.api import BadInputError, Columns, Context
from keeperd.config import Intake
from keeperd.drift import chart, history, replay_page
from keeperd.drift.replay import replay
from tests.conftest import labelled_texts

KNOWN = ("food", "sport", "travel")
START = date(2026, 1, 1)
REFERENCE, QUIET, DRIFTED, CALM = 24, 5, 3, 3
BLOCK = {
    "from", "to", "rows", "p", "evidence", "alarm", "channel", "by", "since", "latched", "row_p", "row_alarm",
}  # fmt: skip

Rows = list[dict[str, Any]]


def day(number: int, rows: int = 52, unseen: int = 0) -> Rows:
    """Rows of one day; the topics have shares of their own on it, as in real streams."""
    rng = random.Random(number)
    topics = (*KNOWN, rng.choice(KNOWN), rng.choice(KNOWN))
    texts = labelled_texts(rows - unseen, topics, number)[0] + labelled_texts(unseen, ("music",), number)[0]
    when = (START + timedelta(days=number)).isoformat()
    return [
        {"text": text, "time": f"{when}T{row % 24:02}:00:00Z", "id": f"{number}-{row}"}
        for row, text in enumerate(texts)
    ]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def changing() -> Rows:
    """Two dozen days as the reference, five like them, three with many unseen rows, and three like before."""
    begin, end = REFERENCE + QUIET, REFERENCE + QUIET + DRIFTED
    days = [day(number, unseen=40 if begin <= number < end else 0) for number in range(end + CALM)]
    return [row for rows in days for row in rows]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = write(tmp_path_factory.mktemp("replay") / "dated.jsonl", changing())
    return replay(path, reference_blocks=REFERENCE)


def test_an_alarm_on_the_day_of_the_change_and_none_before(told: dict[str, Any]) -> None:
    blocks = told["blocks"]
    assert all(one.keys() == BLOCK for one in blocks)
    assert len(blocks) == QUIET + DRIFTED + CALM
    assert not any(one["alarm"] or one["latched"] for one in blocks[:QUIET])
    assert blocks[QUIET]["alarm"] and blocks[QUIET]["channel"] == "text"
    [alarm] = told["alarms"]
    changed = (START + timedelta(days=REFERENCE + QUIET)).isoformat()
    assert alarm["at"] == changed == blocks[QUIET]["from"] == blocks[QUIET]["since"]
    assert alarm["by"] in {"1", "3", "7", "witness"} and alarm["by"] == blocks[QUIET]["by"]
    music = {"song", "guitar", "concert", "band", "piano", "melody", "drum", "singer", "album", "rhythm",
             "violin", "chorus"}  # fmt: skip
    assert any(set(word["term"].split()) & music and word["z"] > 0 for word in alarm["words"])
    assert alarm["effect"] > alarm["usual"]
    assert told["alarm_budget"] == 1.0 and told["seconds"] >= 0
    json.dumps(told, allow_nan=False)


def test_an_alarm_holds_until_the_text_has_been_calm_for_a_week(told: dict[str, Any]) -> None:
    assert [one["latched"] for one in told["blocks"]] == [False] * QUIET + [True] * (DRIFTED + CALM)
    assert {one["since"] for one in told["blocks"][QUIET:]} == {told["alarms"][0]["at"]}
    assert told["summary"]["latched"] == DRIFTED + CALM


def test_the_summary_counts_what_the_blocks_say(told: dict[str, Any]) -> None:
    summary, blocks = told["summary"], told["blocks"]
    assert summary["blocks"] == len(blocks)
    assert summary["alarms"] == len(told["alarms"]) == sum(one["alarm"] for one in blocks)
    assert summary["alarms_per_365_blocks"] == pytest.approx(
        365 * len(told["alarms"]) / len(blocks), abs=0.01
    )
    assert summary["row_alarms"] == sum(one["row_p"] <= 0.05 for one in blocks)
    assert summary["reference_blocks"] == REFERENCE
    assert (summary["reference_from"], summary["reference_to"]) == ("2026-01-01", "2026-01-24")
    rows = 52 * (QUIET + DRIFTED + CALM)
    assert told["rows"] == {"reference": 52 * REFERENCE, "watched": rows, "left": 0, "bad": 0, "undated": 0}


def test_it_is_what_the_monitor_says_when_shown_one_block_after_another(
    told: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "dated.jsonl", changing())
    found = history.read(path, Intake(), plugins.load, REFERENCE)
    monitor, context, state = plugins.load("detector", "monitor"), Context(tmp_path), None
    statistics = monitor.fit(history.window_of(found.reference), context)
    for block, one in zip(found.later[: QUIET + 3], told["blocks"], strict=False):
        signals, state = monitor.detect(statistics, block.window, state, context)
        text = signals[0]
        assert (text.facts["alarm"], text.facts["since"]) == (one["by"], one["since"])
        assert text.p_value == pytest.approx(one["p"]) and text.facts["evidence"] == one["evidence"]


def test_an_unsorted_file_and_rows_without_times(told: dict[str, Any], tmp_path: Path) -> None:
    rows = changing()
    random.Random(1).shuffle(rows)
    rows += [
        {"text": "no time at all"},
        {"text": "a bad one", "time": "yesterday"},
        {"text": "x", "time": True},
    ]
    path = write(tmp_path / "dated.jsonl", rows)
    with path.open("a") as file:
        file.write('{"text": "not a number", "time": NaN}\n')
    again = replay(path, reference_blocks=REFERENCE)
    assert (again["rows"]["bad"], again["rows"]["undated"]) == (3, 1)
    assert [one["at"] for one in again["alarms"]] == [one["at"] for one in told["alarms"]]
    assert [one["rows"] for one in again["blocks"]] == [one["rows"] for one in told["blocks"]]


def test_labels_are_followed(tmp_path: Path) -> None:
    rows = [row for number in range(REFERENCE + 4) for row in day(number)]
    for number, row in enumerate(rows):
        late = number >= 52 * (REFERENCE + 2)
        row["label"] = "spam" if number % 10 < (8 if late else 2) else "ham"
    told = replay(write(tmp_path / "labelled.jsonl", rows), reference_blocks=REFERENCE)
    assert [(one["channel"], one["at"]) for one in told["alarms"]] == [("labels", "2026-01-27")]
    assert told["blocks"][2]["channel"] == "labels" and "spam" in told["alarms"][0]["summary"]


def test_small_days_are_joined_and_what_is_left_is_counted(tmp_path: Path) -> None:
    rows = [row for number in range(2 * REFERENCE + 5) for row in day(number, rows=30)]
    told = replay(write(tmp_path / "few.jsonl", rows), reference_blocks=REFERENCE)
    assert [one["rows"] for one in told["blocks"]] == [60, 60]
    assert (told["blocks"][0]["from"], told["blocks"][0]["to"]) == ("2026-02-18", "2026-02-19")
    assert all(one["p"] is not None for one in told["blocks"])
    assert told["rows"]["left"] == 30


def test_other_columns(tmp_path: Path) -> None:
    rows = [row for number in range(REFERENCE + 1) for row in day(number)]
    renamed = [{"body": row["text"], "when": row["time"]} for row in rows]
    columns = Columns(text="body", time="when")
    told = replay(write(tmp_path / "o.jsonl", renamed), columns=columns, reference_blocks=REFERENCE)
    assert told["summary"]["blocks"] == 1


@pytest.mark.parametrize(
    ("days", "reference", "says"),
    [
        (10, 14, "10 blocks of at least 50 rows from 10 days; a replay needs 15"),
        (20, 30, r"20 blocks .* a replay needs 31: .*--reference 19"),
        (14, 14, "14 blocks .* needs 15"),
    ],
)
def test_too_few_blocks(days: int, reference: int, says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "short.jsonl", [row for number in range(days) for row in day(number)])
    with pytest.raises(BadInputError, match=says):
        replay(path, reference_blocks=reference)


def test_no_times(tmp_path: Path) -> None:
    path = write(tmp_path / "undated.jsonl", [{"text": "a text"}] * 60)
    with pytest.raises(BadInputError, match=r"no usable row has a time in 'time'.*--time"):
        replay(path)
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(BadInputError, match="empty"):
        replay(empty)


def test_one_constant_text_is_checked_block_by_block(tmp_path: Path) -> None:
    rows = [row for number in range(REFERENCE + 3) for row in day(number)]
    for number, row in enumerate(rows):
        row["text"] = "the same" if number < 52 * (REFERENCE + 2) else "quite another one"
    told = replay(write(tmp_path / "constant.jsonl", rows), reference_blocks=REFERENCE)
    assert [one["alarm"] for one in told["blocks"]] == [False, False, True]
    assert told["alarms"][0]["at"] == told["blocks"][2]["to"]
    json.dumps(told, allow_nan=False)


def test_the_picture_and_the_page(told: dict[str, Any]) -> None:
    picture = chart.chart(told)
    assert picture.startswith(b"\x89PNG")
    evil = {"term": "<script>alert(1)</script>", "z": 5.0, "current": 0.5, "reference": 0.0}
    alarm = {**told["alarms"][0], "words": [evil]}
    html = replay_page.page({**told, "alarms": [alarm]}, "<b>file</b>.jsonl", picture)
    assert "<script" not in html and "&lt;script&gt;" in html and "<b>file" not in html
    assert "data:image/png;base64," in html and "default-src 'none'" in html
    assert "http://" not in html and "https://" not in html
    assert "alarmed once; a test of rows at 5 % would have alarmed on" in html
    assert chart.decades(None) == 0.0 and chart.decades(1e-3) == pytest.approx(3) and chart.decades(0.0) == 12


def test_it_tells_how_far_it_is(tmp_path: Path) -> None:
    rows = [row for number in range(REFERENCE + 2) for row in day(number)]
    heard: list[float] = []
    replay(
        write(tmp_path / "a.jsonl", rows),
        reference_blocks=REFERENCE,
        tell=lambda fraction, words: heard.append(fraction),
    )
    assert heard == [0.0, 0.5]
