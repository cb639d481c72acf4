"""Commands that look, over a real ledger: status, timeline, why, report; and in a real terminal."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from keeperd.store import Store
from tests import made_state
from tests.cli_kit import CONTROL, Terminal, error_line, keeperd
from tests.made_state import MadeState


@pytest.fixture
def state(tmp_path: Path) -> MadeState:
    return made_state.make(tmp_path)


# --- looking --------------------------------------------------------------------------------------


def test_status_shows_everything_in_80_columns(state: MadeState) -> None:
    result = keeperd(state, "status")
    assert result.exit_code == 0
    for part in (
        "daemon not running", "reviews", "APPROVAL", "version 2", "91.2 %", "1,240 rows", "4.1 ms",
        "#3 REJECTED", "Rejected: forgets", "keeperd approve 4",
    ):  # fmt: skip
        assert part in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert not CONTROL & set(result.stdout)


def test_status_as_json(state: MadeState) -> None:
    seen = json.loads(keeperd(state, "status", "--json").stdout)
    [model] = seen["models"]
    assert (seen["daemon"], model["champion"], model["cycle"]["state"]) == (False, 2, "APPROVAL")
    assert model["last"]["outcome"] == "Rejected: forgets too much."
    assert "facts" not in model["cycle"]


def test_status_says_when_a_person_is_needed(state: MadeState) -> None:
    assert keeperd(state, "status", "--exit-code").exit_code == 4


def test_status_before_the_first_start(tmp_path: Path) -> None:
    result = keeperd(made_state.write_config(tmp_path), "status")
    assert result.exit_code == 0
    assert "no version" in result.stdout
    assert "keeperd init reviews" in result.stdout


def test_status_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "keeperd.toml").write_text(f'state = "{tmp_path}"\n')
    assert "no model yet" in keeperd(tmp_path / "keeperd.toml", "status").stdout


def test_status_shows_how_far_a_run_is(state: MadeState) -> None:
    store = Store(state.paths.database)
    run = store.add_run(4, "reviews", "train", 1, made_state.START)
    store.close()
    assert "APPROVAL 0 %" in keeperd(state, "status").stdout
    state.paths.run(run).mkdir(parents=True)
    (state.paths.run(run) / "progress.json").write_text('{"fraction": 0.43, "text": "epoch 2"}')
    assert "APPROVAL 43 %" in keeperd(state, "status").stdout


def test_timeline(state: MadeState) -> None:
    result = keeperd(state, "timeline", "reviews")
    assert [line.split()[0] for line in result.stdout.splitlines() if "2025-11" in line] == [
        "1",
        "2",
        "3",
        "4",
    ]
    assert "7 min 7 s" in result.stdout
    assert "version 4 waits for" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert [
        cycle["id"] for cycle in json.loads(keeperd(state, "timeline", "reviews", "-n", "2", "--json").stdout)
    ] == [3, 4]


@pytest.mark.parametrize("columns", ["80", "120"])
def test_why_is_the_whole_chain(state: MadeState, columns: str) -> None:
    result = keeperd(state, "why", "2", COLUMNS=columns)
    chain = [
        "trigger",
        "intake",
        "drift",
        "decision",
        "training",
        "gate",
        "parity",
        "promotion",
        "probation",
        "outcome",
    ]
    places = [result.stdout.index("\n" + part) for part in chain]
    assert places == sorted(places)
    for part in (
        "1,240 rows from 3 files", "600 labelled", "0.71 AUC", "<0.001", "crypto", "5.0 points lost (2.1 to",
        "accuracy fell by 5 points", "1,100 examples", "+1.2 pt", "-0.4 .. +2.8", "and 34 more labels",
        "99.2 %", "chosen", "version 2 serves in place of 1", "champion 87.9 %, predecessor 83.9 %",
        "COMPLETED",
    ):  # fmt: skip
        assert part in result.stdout, part
    assert max(len(line) for line in result.stdout.splitlines()) <= int(columns)
    assert not CONTROL & set(result.stdout)


def test_why_a_rejection_shows_what_failed(state: MadeState) -> None:
    result = keeperd(state, "why", "3")
    assert "FAIL" in result.stdout
    assert "holdout: No measurable loss." in result.stdout
    assert "parity" not in result.stdout


def test_why_of_a_model_is_its_newest_cycle(state: MadeState) -> None:
    assert "cycle 4 of reviews" in keeperd(state, "why", "reviews").stdout
    assert "cycle 3 of reviews" in keeperd(state, "why", "#3").stdout
    assert json.loads(keeperd(state, "why", "reviews", "--json").stdout)["cycle"]["id"] == 4


def test_why_of_half_a_story(state: MadeState) -> None:
    """Whatever is missing, what there is is shown: a crash leaves all kinds of halves."""
    store = Store(state.paths.database)
    harm, suspect = {"abstained": True, "why": "too few rows"}, {"suspect": True, "why": "labels flipped"}
    halves: list[dict[str, Any]] = [
        {},
        {"intake": {}},
        {"assess": {}, "decision": {}},
        {"gate": {}, "verify": {}, "train": {}, "probation": {}},
        {"assess": {"harm": harm, "suspect": suspect}},
        {
            "verify": {"artefacts": [{}]},
            "gate": {"checks": [{"name": "label: x", "passed": True, "text": ""}]},
        },
    ]
    for facts in halves:
        store.move_cycle(4, "APPROVAL", made_state.START, facts)
        assert keeperd(state, "why", "4").exit_code == 0
    store.retry_cycle(4, 2, made_state.START)
    run = store.add_run(4, "reviews", "train", 1, made_state.START)
    store.end_run(run, "failed", made_state.START, "out of\nmemory\x1b[2J")
    store.close()
    result = keeperd(state, "why", "4")
    assert "attempt 2 at 2025-11-01" in result.stdout
    assert r"train, attempt 1: out of\nmemory\x1b[2J" in result.stdout


def test_report_as_text_and_html(state: MadeState, tmp_path: Path) -> None:
    result = keeperd(state, "report", "2", "--html", str(tmp_path / "report.html"))
    assert (result.exit_code, result.stdout) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html")
    text = keeperd(state, "report", "2").stdout
    assert "reviews" in text
    assert not CONTROL & set(text)
    assert "cannot be written" in error_line(keeperd(state, "report", "2", "--html", str(tmp_path)))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("why", "99"), "no cycle 99"),
        (("why", "\x1b[2Jx"), r"no model and no cycle '\x1b[2Jx'"),
        (("timeline", "nobody"), "no model 'nobody'"),
        (("trigger", "nobody"), "there are: reviews"),
        (("predict", "nobody", "text"), "there are: reviews"),
        (("report", "99"), "no cycle 99"),
        (("approve", "77"), "no cycle 77"),
    ],
)
def test_what_is_not_known_is_said_in_one_line(state: MadeState, args: tuple[str, ...], says: str) -> None:
    result = keeperd(state, *args)
    assert result.exit_code == 2
    assert says in error_line(result)


# --- in a terminal --------------------------------------------------------------------------------


def test_the_live_view_leaves_quietly(state: MadeState) -> None:
    terminal = Terminal(state.config, "status", "--watch")
    terminal.until("keeperd approve 4")
    os.kill(terminal.pid, signal.SIGINT)
    assert terminal.end() == 0
    assert "Traceback" not in terminal.seen
    assert "Aborted" not in terminal.seen
    assert "\x1b[?25h" in terminal.seen  # the cursor is back


def test_hostile_text_never_reaches_the_terminal(state: MadeState) -> None:
    terminal = Terminal(state.config, "why", "2")
    assert terminal.end() == 0
    assert "\x1b[1m" in terminal.seen  # our own colours
    for hostile in ("\x1b[2J", "\x1b]0;", "\x07", "\u202e"):
        assert hostile not in terminal.seen
    assert r"\x1b[2J\u202e" in terminal.seen
