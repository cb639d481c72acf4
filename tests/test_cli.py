"""The program itself: help, errors and their codes, configuration, plugins, how fast it starts."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from keeperd import __version__, config
from keeperd.exits import EXIT_CODES, exit_code
from keeperd.store import views
from tests import made_state
from tests.cli_kit import error_line, keeperd, process
from tests.made_state import MadeState


@pytest.fixture
def state(tmp_path: Path) -> MadeState:
    return made_state.make(tmp_path)


# --- the program ----------------------------------------------------------------------------------


def test_alone_it_prints_help() -> None:
    result = keeperd(Path("nowhere"))
    for name in (
        "demo", "init", "check", "run", "status", "timeline", "why", "trigger", "rollback", "pause", "resume",
        "approve", "reject", "report", "verify", "plugins", "config", "reload", "drift", "predict",
    ):  # fmt: skip
        assert f" {name} " in result.output
    for code, meaning in EXIT_CODES.items():
        assert f"{code}  {meaning[:40]}" in result.output


def test_version() -> None:
    assert keeperd(Path("nowhere"), "--version").stdout == f"keeperd {__version__}\n"


def test_the_configuration_may_be_named_anywhere(state: MadeState) -> None:
    path = str(state.config)
    for args in (
        ["--config", path, "status", "--json"],
        ["status", "--json", "--config", path],
        ["status", f"--config={path}", "--json"],
    ):
        assert json.loads(keeperd(Path("nowhere"), *args).stdout)["models"]
    assert keeperd(state, "status", "--config").exit_code == 2


def test_a_bad_configuration_is_a_line_a_mistake(tmp_path: Path) -> None:
    path = made_state.write_config(tmp_path, extra="[daemon]\nnice = 99\nnicer = 1")
    result = keeperd(path, "status")
    assert result.exit_code == 78
    assert len(result.stderr.splitlines()) == 2
    assert keeperd(tmp_path / "none.toml", "status").exit_code == 78


def test_a_damaged_ledger_is_one_line(state: MadeState) -> None:
    state.paths.database.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    result = keeperd(state, "timeline", "reviews")
    assert result.exit_code == 78
    assert "keeperd verify" in error_line(result)


def test_every_expected_error_has_a_code() -> None:
    from keeperd.api import BadInputError, KeeperdError, PluginError

    assert exit_code(config.ConfigError(["x"])) == 78
    assert exit_code(BadInputError("x")) == 2
    assert exit_code(PluginError("x")) == 1
    assert exit_code(KeeperdError("x")) == 1


def test_a_bug_keeps_its_traceback(state: MadeState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "status", lambda db: {"models": [{}]})
    with pytest.raises(KeyError):
        keeperd(state, "status")


def test_a_closed_pipe_and_odd_encodings(state: MadeState) -> None:
    command = f"{sys.executable} -m keeperd.cli why 2 | head -1"
    env = {**os.environ, "KEEPERD_CONFIG": str(state.config)}
    piped = subprocess.run(command, shell=True, capture_output=True, text=True, env=env, check=True)  # noqa: S602
    assert piped.stderr == ""
    ascii_only = process(state.config, "why", "2", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert (ascii_only.returncode, ascii_only.stderr) == (0, "")


def test_status_starts_fast_and_light(state: MadeState) -> None:
    """Nothing heavy is imported; CPU seconds are bounded generously, as machines differ."""
    code = (
        "import sys\nfrom keeperd.cli import app\n"
        "try:\n    app(['status'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'uvicorn', 'starlette', 'httpx', 'jinja2', 'apscheduler'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "KEEPERD_CONFIG": str(state.config)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


# --- configuration and plugins --------------------------------------------------------------------


def test_config_show_is_the_configuration_in_force(tmp_path: Path) -> None:
    path = made_state.write_config(
        tmp_path,
        extra="[daemon]\nrescan = '90s'",
        model='options.two-sample = {words = ["a\\"b", "\\u007f\\u00e9"], "x.y" = true}',
    )
    shown = keeperd(path, "config", "show")
    again = config.Settings.model_validate(tomllib.loads(shown.stdout))
    assert again == config.load(path)
    assert "# model.reviews.schedule is not set" in shown.stdout
    assert (
        config.Settings.model_validate(json.loads(keeperd(path, "config", "show", "--json").stdout)) == again
    )


def test_config_schema_describes_every_option() -> None:
    schema = json.loads(keeperd(Path("nowhere"), "config", "schema").stdout)
    assert schema["$defs"]["Gate"]["properties"]["margin"]["description"]
    assert keeperd(Path("nowhere"), "config").exit_code == 2


def test_plugins_list(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o700)
    (folder / "filter_shout.py").write_text("raise RuntimeError('never imported')")
    path = made_state.write_config(tmp_path, extra=f'[daemon]\nplugins = "{folder}"')
    found = json.loads(keeperd(path, "plugins", "list", "--json").stdout)
    assert {"reader", "strategy", "task"} <= {one["kind"] for one in found}
    [dropped] = [one for one in found if one["name"] == "shout"]
    assert (dropped["kind"], dropped["source"], len(dropped["sha256"])) == ("filter", "file", 64)
    assert "shout" in keeperd(path, "plugins", "list").stdout
