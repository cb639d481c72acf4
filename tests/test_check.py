"""`keeperd check`: each thing that can be wrong before the start is found, and said in one line."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from keeperd import check, config
from keeperd.cli import app
from keeperd.finding import Finding
from keeperd.store import Store
from tests import made_state

DETECTOR = """
from keeperd import api

class Options(api.Options):
    words: int = 10

class Still(api.Detector[Options]):
    name = "still"
    Options = Options
    def fit(self, reference, context): ...
    def detect(self, statistics, window, state, context): ...

@api.hookimpl
def keeperd_components():
    return [Still]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration in which everything is right."""
    plugins = tmp_path / "plugins"
    plugins.mkdir(mode=0o700)
    (plugins / "detector_still.py").write_text(DETECTOR)
    (tmp_path / "golden.jsonl").write_text('{"text": "a", "label": "b"}\n')
    written = made_state.write_config(
        tmp_path,
        extra=f'[daemon]\nplugins = "{plugins}"',
        model=(
            f'gate.golden = "{tmp_path}/golden.jsonl"\ndecide = {{detectors = ["still"], report = "still"}}'
        ),
    )
    base = tmp_path / "base"
    (base / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    (base / "tokenizer.json").write_text("{}")
    save_file({"weights": np.zeros(2, np.float32)}, base / "model.safetensors")
    return written


def findings(path: Path) -> list[Finding]:
    return list(check.check(config.load(path), path))


def bad(path: Path) -> Finding:
    """The one finding that is not ok."""
    [found] = [one for one in findings(path) if one.level != "ok"]
    return found


def add(path: Path, line: str) -> None:
    """Add a line to the model's table."""
    path.write_text(path.read_text() + line + "\n")


def test_all_is_well(path: Path) -> None:
    assert [one for one in findings(path) if one.level != "ok"] == []
    whats = " ".join(one.what for one in findings(path))
    for part in (
        "keeperd.toml", "state", "task text-classification", "filter length", "detector still",
        "strategy full", "exporter onnx", "base", "watch", "gate.golden",
    ):  # fmt: skip
        assert part in whats


def test_nothing_is_written(path: Path) -> None:
    before = sorted(path.parent.rglob("*"))
    findings(path)
    assert sorted(one for one in path.parent.rglob("*") if "__pycache__" not in str(one)) == before


@pytest.mark.parametrize(
    ("line", "what", "says"),
    [
        ('task = "nope"', "task nope", "no task plugin 'nope'; installed: text-classification"),
        ('training.strategy = "nope"', "strategy nope", "no strategy plugin 'nope'"),
        ('intake.filters = ["nope"]', "filter nope", "no filter plugin 'nope'"),
        ("options.still.words = 'many'", "detector still", "options.still.words: found 'many'"),
        ("options.still.wrods = 5", "detector still", "wrods: unknown key"),
        ("options.stil.words = 5", "options.stil", "no plugin of this name is used"),
        ("schedule = '* * *'", "schedule", "found '* * *'"),
        ("bootstrap = '/nowhere.csv'", "bootstrap", "cannot be read: No such file"),
        ("bootstrap = '/dev/null'", "bootstrap", "is no regular file"),
    ],
)
def test_one_mistake_is_one_finding(path: Path, line: str, what: str, says: str) -> None:
    add(path, line)
    found = bad(path)
    assert what in found.what
    assert says in found.found
    assert "\n" not in found.found


def test_files_of_rows(path: Path) -> None:
    golden = path.parent / "golden.jsonl"
    golden.write_bytes(b"")
    assert (bad(path).level, bad(path).found) == ("wrong", "is empty")
    golden.write_text("x")
    for name, good in (("a.csv.gz", True), ("a.parquet", True), ("a.docx", False), ("plain", False)):
        (path.parent / name).write_text("x")
        path.write_text(path.read_text().replace("golden.jsonl", name))
        found = [one for one in findings(path) if one.level != "ok"]
        assert (found == []) is good
        assert good or "no reader takes" in found[0].found
        path.write_text(path.read_text().replace(name, "golden.jsonl"))


def test_the_golden_file_is_the_one_that_was_sealed(path: Path) -> None:
    state = path.parent / "state"
    state.mkdir()
    store = Store(state / "keeperd.db")
    store.ensure_model("reviews")
    store.set_model("reviews", golden_sha="0" * 64)
    assert "not the file that earlier verdicts" in bad(path).found
    sha = hashlib.sha256((path.parent / "golden.jsonl").read_bytes()).hexdigest()
    store.set_model("reviews", golden_sha=sha)
    store.close()
    assert [one for one in findings(path) if one.level != "ok"] == []


def test_a_base_that_could_run_code(path: Path) -> None:
    (path.parent / "base" / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "x--y.z"}}))
    assert "'auto_map': it names remote code" in bad(path).found
    (path.parent / "base" / "pytorch_model.bin").write_bytes(b"")
    assert "a pickle can run code" in bad(path).found


def test_watched_folders(path: Path) -> None:
    folder = path.parent / "in"
    folder.chmod(0o777)
    assert (bad(path).level, bad(path).do) == ("warn", f"chmod o-w {folder}")
    folder.rmdir()
    assert (bad(path).level, bad(path).found) == ("wrong", "no such folder")
    folder.symlink_to(path.parent)
    assert "lie within each other" in bad(path).found


def test_two_models_that_watch_one_folder(path: Path) -> None:
    text = path.read_text()
    model = text[text.index("[model.reviews]") :]
    path.write_text(text + model.replace("[model.reviews]", "[model.mails]"))
    assert "model reviews watches it too" in bad(path).found


def test_the_state_folder(path: Path) -> None:
    state = path.parent / "state"
    state.mkdir()
    state.chmod(0o777)
    assert bad(path).found == "anyone may write there"
    state.chmod(0o750)
    if os.geteuid() == 0:
        os.chown(state, 65534, 65534)
        assert (bad(path).level, bad(path).found) == ("warn", "belongs to user 65534")
        os.chown(state, 0, 0)
    (state / "keeperd.db").write_bytes(b"no database at all, but long enough to be one")
    assert (bad(path).level, "not a database" in bad(path).found) == ("wrong", True)
    (state / "keeperd.db").unlink()
    store = Store(state / "keeperd.db")
    store._db.execute("PRAGMA user_version=99")
    store.close()
    assert "written by a newer keeperd (schema 99)" in bad(path).found


def test_the_configuration_file(path: Path) -> None:
    path.chmod(0o666)
    assert (bad(path).found, bad(path).do) == ("anyone may change it", f"chmod o-w {path}")


def test_plugins_that_misbehave(path: Path) -> None:
    plugin = path.parent / "plugins" / "detector_still.py"
    plugin.write_text("raise OverflowError('too much\\x1b[2J')")
    assert bad(path).found.endswith("OverflowError: too much\x1b[2J")  # escaped when it is shown
    plugin.write_text(DETECTOR.replace("return [Still]", "raise OverflowError('too much')"))
    assert (bad(path).found, bad(path).do) == ("OverflowError: too much", "tell the plugin's author")
    plugin.chmod(0o666)
    assert all(
        "can be changed by others" in one.found
        for one in findings(path)
        if "plugin" in one.found or "detector" in one.what
    )


def test_notifiers_and_hooks(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace("[daemon]", '[notify.ops]\nplugin = "nope"\n[daemon]\nhear = ["nobody"]'))
    found = [one for one in findings(path) if one.level == "wrong"]
    assert [one.what for one in found] == ["daemon.hear: nobody", "notify.ops: notifier nope"]
    assert "installed:" in found[1].found


def test_the_command(path: Path) -> None:
    run = CliRunner()
    env = {"KEEPERD_CONFIG": str(path)}
    good = run.invoke(app, ["check"], env=env)
    assert good.exit_code == 0
    assert all(line.startswith("ok ") for line in good.stdout.splitlines())
    plugin = path.parent / "plugins" / "detector_still.py"
    plugin.write_text("raise OverflowError('too\\nmuch\\x1b[2J')")
    wrong = run.invoke(app, ["check"], env=env)
    assert wrong.exit_code == 1
    [line] = [
        line
        for line in wrong.stdout.splitlines()
        if line.startswith("WRONG  model.reviews: detector still: ")
    ]
    assert line.endswith(r"OverflowError: too\nmuch\x1b[2J")
    assert len(wrong.stdout.splitlines()) == len(good.stdout.splitlines())
    told = json.loads(run.invoke(app, ["check", "--json"], env=env).stdout)
    assert {one["level"] for one in told} == {"ok", "wrong"}
    path.write_text("state = 5")
    assert run.invoke(app, ["check"], env=env).exit_code == 78
