"""The command line, over a real ledger: what it prints, what it refuses, how it exits."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from keeperd import __version__, config, views
from keeperd.cli import app
from keeperd.clock import SystemClock
from keeperd.control import ControlServer
from keeperd.desk import LedgerDesk
from keeperd.exits import EXIT_CODES, exit_code
from keeperd.lock import hold
from keeperd.store import Store, open_readonly
from tests import made_state
from tests.made_state import MadeState

CONTROL = {chr(code) for code in (*range(32), *range(127, 160))} - {"\n"}


@pytest.fixture
def state(tmp_path: Path) -> MadeState:
    return made_state.make(tmp_path)


def keeperd(state: MadeState | Path, *args: str, **env: str) -> Result:
    path = state.config if isinstance(state, MadeState) else state
    return CliRunner().invoke(
        app, [*args], env={"KEEPERD_CONFIG": str(path), "COLUMNS": "80", **env}, catch_exceptions=False
    )


def process(path: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keeperd.cli", *args],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "KEEPERD_CONFIG": str(path), **env},
    )  # fmt: skip


def error_line(result: Result) -> str:
    """The one line that an expected error leaves."""
    [line] = result.stderr.splitlines()
    assert line.startswith("keeperd: ")
    assert result.stdout == ""
    return line.removeprefix("keeperd: ")


def answer_of(state: MadeState, cycle: int) -> Any:
    store = Store(state.paths.database)
    try:
        return store.cycle(cycle).answer
    finally:
        store.close()


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
        model='options.ngram = {words = ["a\\"b", "\\u007f\\u00e9"], "x.y" = true}',
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


# --- wishes ---------------------------------------------------------------------------------------


@contextmanager
def serving(state: MadeState, errors: tuple[str, ...] = ()) -> Iterator[Store]:
    """A daemon's control socket, with the lock held as the daemon holds it."""
    store = Store(state.paths.database)
    desk = LedgerDesk(store, SystemClock(), config.load(state.config), reread=lambda: list(errors))
    with hold(state.paths.lock):
        server = ControlServer(desk, state.paths.socket)
        server.start()
        try:
            yield store
        finally:
            server.stop()
            store.close()


def test_wishes_without_a_daemon_go_to_the_ledger(state: MadeState) -> None:
    assert "begins when one starts" in keeperd(state, "trigger", "reviews", "--why", "new season").stdout
    assert json.loads(keeperd(state, "trigger", "reviews", "--json").stdout) == {
        "trigger": 5,
        "daemon": False,
    }
    assert keeperd(state, "pause", "reviews", "--why", "holiday").exit_code == 0
    assert "paused (holiday)" in keeperd(state, "status").stdout
    assert keeperd(state, "resume", "reviews").exit_code == 0
    assert keeperd(state, "approve", "4").exit_code == 0
    assert answer_of(state, 4) == "approve"
    assert keeperd(state, "reject", "4").exit_code == 0
    assert answer_of(state, 4) == "reject"
    refused = keeperd(state, "approve", "3")
    assert refused.exit_code == 1
    assert "waits for no answer" in error_line(refused)
    with open_readonly(state.paths.database) as ledger:
        assert (
            views.event(ledger.db, ledger.db.execute("SELECT MAX(id) FROM events").fetchone()[0])["facts"][
                "by"
            ]
            == "operator"
        )


def test_wishes_go_to_the_daemon_where_one_runs(state: MadeState) -> None:
    with serving(state) as store:
        assert json.loads(keeperd(state, "trigger", "reviews", "--json").stdout)["daemon"] is True
        assert keeperd(state, "pause", "reviews").exit_code == 0
        assert store.model("reviews")["paused"] == "by hand"
        assert "daemon running" in keeperd(state, "status").stdout
        reloaded = keeperd(state, "reload")
        assert (reloaded.exit_code, reloaded.stderr) == (0, "")
        with open_readonly(store.path) as ledger:
            by = views.event(ledger.db, ledger.db.execute("SELECT MAX(id) FROM events").fetchone()[0])[
                "facts"
            ]["by"]
        assert by == f"uid {os.getuid()}"


def test_a_bad_reload_fails_visibly(state: MadeState) -> None:
    with serving(state, errors=("keeperd.toml: model.x: \x1b[1mwrong", "keeperd.toml: y: wrong")):
        result = keeperd(state, "reload")
    assert result.exit_code == 78
    assert result.stderr == "keeperd: keeperd.toml: model.x: \\x1b[1mwrong\nkeeperd: keeperd.toml: y: wrong\n"


def test_without_a_daemon_a_reload_is_for_later(state: MadeState) -> None:
    result = keeperd(state, "reload")
    assert result.exit_code == 75
    assert "no daemon runs" in error_line(result)


def test_a_held_lock_without_a_socket_is_temporary(state: MadeState) -> None:
    with hold(state.paths.lock):
        result = keeperd(state, "pause", "reviews")
        assert result.exit_code == 75
        assert f"held by process {os.getpid()}" in error_line(result)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_nobody_else_may_leave_files_in_the_state(state: MadeState) -> None:
    os.chown(state.paths.folder, 65534, 65534)
    result = keeperd(state, "pause", "reviews")
    assert result.exit_code == 1
    assert "run as that user: runuser -u nobody -- keeperd" in error_line(result)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused_at_the_socket(state: MadeState) -> None:
    state.paths.folder.chmod(0o755)
    code = (
        "import os\nfrom pathlib import Path\nfrom keeperd.client import Client\n"
        "os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\nClient(Path('control.sock')).is_up()"
    )
    with serving(state):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=state.paths.folder
        )
    assert "you may not use it" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_what_the_system_refuses_is_one_line(mode: int) -> None:
    """A folder that may not be searched; a ledger that cannot be opened without its writer."""
    code = (
        "import os\nimport keeperd.plugins, keeperd.views, rich.table\nfrom keeperd.cli import main\n"
        "os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\nmain()"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # unlike pytest's own, which others may not enter
        state = made_state.make(Path(folder))
        state.paths.folder.chmod(mode)
        env = {**os.environ, "KEEPERD_CONFIG": str(state.config)}
        args = [sys.executable, "-c", code, "timeline", "reviews"]
        done = subprocess.run(args, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith(f"keeperd: {state.paths.database}: ")
    assert "owner" in line or "owns" in line


# --- in a terminal --------------------------------------------------------------------------------


class Terminal:
    """A command in a terminal of its own, 80 columns wide."""

    def __init__(self, path: Path, *args: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ |= {"KEEPERD_CONFIG": str(path), "TERM": "xterm-256color"}
            os.execv(sys.executable, [sys.executable, "-m", "keeperd.cli", *args])  # noqa: S606
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        self._data = b""

    @property
    def seen(self) -> str:
        return self._data.decode(errors="replace")

    def until(self, text: str) -> str:
        """Read until the text has appeared."""
        while text not in self.seen:
            self._read()
        return self.seen

    def _read(self) -> bool:
        ready, _, _ = select.select([self.fd], [], [], 60)
        assert ready, f"nothing more came after {self.seen!r}"
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # Linux: the other end is closed
            return False
        self._data += data
        return bool(data)

    def end(self) -> int:
        """Wait for the end; the exit code."""
        while self._read():
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


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
