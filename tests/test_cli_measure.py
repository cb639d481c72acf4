"""`keeperd drift` on real files and `keeperd predict` with a real, if tiny, artefact."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from keeperd import versions
from keeperd.cli import app
from keeperd.paths import StatePaths
from tests import made_state, words


def keeperd(*args: str, config: Path | None = None, typed: str | None = None) -> Result:
    env = {"KEEPERD_CONFIG": str(config or "nowhere"), "COLUMNS": "80"}
    return CliRunner().invoke(app, [*args], env=env, input=typed, catch_exceptions=False)


# --- drift ----------------------------------------------------------------------------------------


def rows_file(path: Path, vocabulary: str, seed: int, column: str = "text") -> str:
    """Two hundred texts of eight words."""
    rng, known = random.Random(seed), vocabulary.split()
    lines = [json.dumps({column: " ".join(rng.choices(known, k=8)) + f" {rng.random()}"}) for _ in range(200)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


WEATHER = "rain sun cloud storm wind snow frost thunder humid drizzle today was very"
SPORT = "goal match team score league striker coach referee penalty season today was very"


def test_no_drift_is_0_and_drift_is_3(tmp_path: Path) -> None:
    old = rows_file(tmp_path / "old.jsonl", WEATHER, 1)
    same = keeperd("drift", old, rows_file(tmp_path / "same.jsonl", WEATHER, 2))
    assert same.exit_code == 0
    assert same.stdout.startswith("no drift: 200 rows against 200")
    page = tmp_path / "page.html"
    other = keeperd("drift", old, rows_file(tmp_path / "other.jsonl", SPORT, 3), "--html", str(page))
    assert other.exit_code == 3
    assert other.stdout.startswith("drift: 200 rows against 200")
    assert "more: " in other.stdout
    assert max(len(line) for line in other.stdout.splitlines()) <= 80
    assert "<html" in page.read_text()


def test_drift_as_json_and_with_other_columns(tmp_path: Path) -> None:
    old = rows_file(tmp_path / "old.jsonl", WEATHER, 1, column="body")
    new = rows_file(tmp_path / "new.jsonl", SPORT, 2, column="body")
    result = keeperd("drift", old, new, "--text-column", "body", "--json")
    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert told["drifted"] is True
    assert told["rows"] == {"reference": 200, "current": 200, "bad": 0}


@pytest.mark.parametrize(
    ("new", "more", "says"),
    [
        ("nowhere.jsonl", [], "No such file"),
        ("empty.jsonl", [], "no usable row"),
        ("few.jsonl", [], "one row says nothing"),
        ("old.jsonl", ["--text-column", "body"], "no usable row"),
        ("old.jsonl", ["--html", "/nowhere/page.html"], "its folder is not there"),
        ("old.jsonl", ["--html", "/"], "is a folder"),
        ("old.jsonl", ["--time", "when"], "no row has a time in 'when'"),
        ("old.jsonl", ["--png", "a.png"], "--png needs --replay FILE"),
        ("old.jsonl", ["--replay", "old.jsonl"], "REFERENCE cannot be together with --replay"),
    ],
)
def test_bad_input_is_2(tmp_path: Path, new: str, more: list[str], says: str) -> None:
    old = rows_file(tmp_path / "old.jsonl", WEATHER, 1)
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "few.jsonl").write_text('{"text": "one"}\n')
    reference, current = (
        (str(tmp_path / "few.jsonl"), old) if new == "few.jsonl" else (old, str(tmp_path / new))
    )
    result = keeperd("drift", reference, current, *more)
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("keeperd: ")
    assert says in line


def test_drift_wants_two_files() -> None:
    for args in (["drift"], ["drift", "one.jsonl"]):
        result = keeperd(*args)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "two files are needed" in result.stderr and len(result.stderr.splitlines()) == 1


# --- drift --replay -------------------------------------------------------------------------------


def dated_file(path: Path, days: int, changed_from: int = 10**6) -> str:
    """Fifty-two rows a day; from a day on they are about something else."""
    lines = []
    for number in range(days):
        rng, known = random.Random(number), (WEATHER if number < changed_from else SPORT).split()
        when = f"2026-{1 + number // 28:02}-{1 + number % 28:02}"
        lines += [json.dumps({"text": " ".join(rng.choices(known, k=8)), "when": when}) for _ in range(52)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_replay_tells_when_and_why(tmp_path: Path) -> None:
    path = dated_file(tmp_path / "dated.jsonl", 26, changed_from=22)
    page, picture = tmp_path / "page.html", tmp_path / "chart.png"
    more = ("--time", "when", "--reference", "18", "--html", str(page), "--png", str(picture))
    result = keeperd("drift", "--replay", path, *more)
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert lines[0].startswith("1 alarm in 8 blocks, 2026-01-19 to 2026-01-26")
    assert max(len(line) for line in lines) <= 80 and "\x1b" not in result.stdout
    [chart] = [line for line in lines if line.startswith("2026-01-19 ")]
    assert chart.endswith("████")
    [marks] = [line for line in lines if line.strip() == "!---"]
    assert marks.index("!") == len("2026-01-19 ") + 4
    assert "\n2026-01-23 text: The text has drifted" in result.stdout and "  more: " in result.stdout
    told = " ".join(lines[-2:])
    assert "alarmed once; a test of rows at 5 % would have alarmed on" in told and "of 8 blocks" in told
    assert picture.read_bytes().startswith(b"\x89PNG") and "data:image/png" in page.read_text()


def test_replay_without_an_alarm_as_json(tmp_path: Path) -> None:
    path = dated_file(tmp_path / "dated.jsonl", 20)
    more = ("--time", "when", "--reference", "16", "--budget", "0.5", "--json")
    result = keeperd("drift", "--replay", path, *more)
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert (told["alarms"], told["alarm_budget"], told["summary"]["blocks"]) == ([], 0.5, 4)


def test_replay_of_a_short_or_undated_file_is_2(tmp_path: Path) -> None:
    path = dated_file(tmp_path / "dated.jsonl", 16)
    for more, says in (
        (("--time", "when"), "16 blocks of at least 50 rows from 16 days; a replay needs 31"),
        ((), "no usable row has a time in 'time'"),
        (("--alpha", "0.05"), "--alpha cannot be together with --replay"),
    ):
        result = keeperd("drift", "--replay", path, *more)
        assert (result.exit_code, result.stdout) == (2, "")
        assert says in result.stderr and len(result.stderr.splitlines()) == 1


# --- predict --------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A model whose version 3 serves."""
    path = made_state.write_config(tmp_path)
    files = StatePaths(tmp_path / "state").model("reviews")
    words.write_version(files.version(3), 3, {"hello": "ham", "winner": "spam", "today": "news"})
    versions.flip(files, 3)
    return path


def test_predict(config: Path) -> None:
    result = keeperd("predict", "reviews", "hello there", "winner winner\x1b[2J", config=config)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()[2:]]
    assert [(line[0], float(line[1])) for line in lines] == [("ham", 78.7), ("spam", 78.7)]
    assert r"\x1b[2J" in result.stdout


def test_predict_from_standard_input_as_json(config: Path) -> None:
    result = keeperd("predict", "reviews", "--json", config=config, typed="hello\n\ntoday\n")
    told = json.loads(result.stdout)
    assert (told["version"], told["provider"]) == (3, "cpu")
    assert [(one["text"], one["label"]) for one in told["predictions"]] == [
        ("hello", "ham"),
        ("today", "news"),
    ]
    assert sum(told["predictions"][0]["scores"].values()) == pytest.approx(1)


def test_predict_refuses(config: Path) -> None:
    nothing = keeperd("predict", "reviews", config=config, typed="\n")
    assert (nothing.exit_code, "no text" in nothing.stderr) == (2, True)
    (StatePaths(config.parent / "state").model("reviews").version(3) / "onnx" / "model.onnx").write_bytes(
        b"x"
    )
    damaged = keeperd("predict", "reviews", "hello", config=config)
    assert damaged.exit_code == 2
    assert len(damaged.stderr.splitlines()) == 1
    StatePaths(config.parent / "state").model("reviews").live.unlink()
    none = keeperd("predict", "reviews", "hello", config=config)
    assert none.exit_code == 1
    assert "keeperd init reviews" in none.stderr
