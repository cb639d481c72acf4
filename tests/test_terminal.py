"""Text for terminals: harmless whatever it holds, figures as people read them, one record a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeperd import logs, terminal
from keeperd.finding import ok, warn, wrong

NOW = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)


@given(st.text(st.characters(codec=None)))
def test_plain_is_always_printable_and_one_line(text: str) -> None:
    shown = terminal.plain(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    shown.encode()  # no lone surrogates


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve 漢字 😀", "naïve 漢字 😀"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\tc\0", r"a\nb\tc\x00"),
        ("\u202egpj.exe\u200b", r"\u202egpj.exe\u200b"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\udcff", r"\udcff"),
        ("non\u00a0breaking", "non breaking"),
        ("[bold]no markup[/bold]", "[bold]no markup[/bold]"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert terminal.plain(text) == shown


def test_long_text_is_cut() -> None:
    assert terminal.plain("x" * 50, 10) == "xxxxxxx..."
    assert len(terminal.plain("x" * 10**6)) == terminal.LONGEST


def test_markup_in_data_stays_text(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show(terminal.text("[red]:warning: [link=http://x]y[/link]"))
    assert capsys.readouterr().out == "[red]:warning: [link=http://x]y[/link]\n"


SPANS = {
    0: "0 s", 0.4: "0 s", 59.6: "1 min", 61: "1 min 1 s", 3600: "1 h", 3660: "1 h 1 min", 3605: "1 h",
    86400 * 3 + 7200: "3 d 2 h", -5: "0 s",
}  # fmt: skip


@pytest.mark.parametrize(("seconds", "shown"), SPANS.items())
def test_span(seconds: float, shown: str) -> None:
    assert terminal.span(seconds) == shown


def test_ago() -> None:
    assert terminal.ago(None, NOW) == "-"
    assert terminal.ago(NOW.isoformat(), NOW) == "now"
    assert terminal.ago((NOW + timedelta(hours=1)).isoformat(), NOW) == "now"
    assert terminal.ago((NOW - timedelta(hours=26)).isoformat(), NOW) == "1 d ago"


def test_figures() -> None:
    assert [terminal.count(1), terminal.count(1, "row"), terminal.count(1240, "row")] == [
        "1",
        "1 row",
        "1,240 rows",
    ]
    assert terminal.count(None, "row") == "?"
    assert [terminal.percent(0.9123), terminal.percent(None)] == ["91.2 %", "-"]
    figures = [terminal.figure(value) for value in (None, True, 1200, 0.12345, "x\n")]
    assert figures == ["-", "True", "1,200", "0.123", r"x\n"]
    assert [terminal.milliseconds(ms) for ms in (4.12, 1234.0, None)] == ["4.1 ms", "1,234 ms", "-"]
    assert terminal.clock("2026-01-05T04:00:09+01:00", seconds=True) == "2026-01-05 03:00:09"


def test_findings() -> None:
    assert terminal.finding(ok("live", "version 2")).plain == "ok     live: version 2"
    assert terminal.finding(warn("a\x1b[2J", "odd", "look")).plain == r"warn   a\x1b[2J: odd; look"
    assert terminal.finding(wrong("a", "broken", "mend it"), repaired=True).plain == "mended a: broken"


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_json({"label": "\x9b\u202e漢"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"label": "\x9b\u202e漢"}
    with pytest.raises(ValueError, match="JSON"):
        terminal.show_json(float("nan"))


# --- log lines ------------------------------------------------------------------------------------


def record(text: str, level: int = logging.WARNING, *, error: bool = False) -> logging.LogRecord:
    try:
        raise ValueError("bad\n<3>forged\x1b[2J")
    except ValueError:
        info = sys.exc_info() if error else None
    return logging.LogRecord("keeperd.x", level, "f", 1, "%s", (text,), info)


def test_a_record_is_one_line() -> None:
    hostile = "file 'a\n<3>forged\x1b[2J\r.jsonl'"
    journal = logs.Line(journal=True).format(record(hostile))
    assert journal == r"<4>file 'a\n<3>forged\x1b[2J\r.jsonl'"
    human = logs.Line(journal=False).format(record(hostile))
    assert human.endswith(r" warning: file 'a\n<3>forged\x1b[2J\r.jsonl'")
    assert len(human.splitlines()) == 1


def test_a_traceback_keeps_its_lines_each_marked() -> None:
    lines = logs.Line(journal=True).format(record("failed", logging.ERROR, error=True)).splitlines()
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)
    assert "\x1b" not in "".join(lines)


def test_records_go_to_the_present_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    try:
        logs.begin()
        logging.getLogger("keeperd.x").info("told")
        logging.getLogger("other").info("not told")
        logging.getLogger("other").error("told too")
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    assert capsys.readouterr().err == "<6>told\n<3>told too\n"
