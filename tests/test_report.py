"""Messages and reports: complete as text, safe as HTML, and never lost for a missing fact."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.cells import cell_len

from keeperd import report
from keeperd.api import Message
from keeperd.report import pages
from keeperd.report.sheet import sheet
from keeperd.report.wording import ascii_line, columns, moment, visible, wrap
from tests import stories

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "{{7*7}}{% raw %}${7*7}",
    "\u202egnp.exe\u2066\u200b\u200d\ufeff",
    "\x1b[2J\x07\x00<3>\r\nBcc: everyone@example.org",
    "=?UTF-8?Q?=0A?=Bcc: everyone@example.org",
    "\" onload=alert(1) x='",
    "&lt;b&gt;javascript:alert(1)",
    "a" * 1_000_000,
    "Z" + "\u0301" * 500,
    "\ud800",
)
HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "div", "table", "tbody", "tr", "td", "th"),
    *("p", "h1", "h2", "b", "br", "span", "code", "img"),
}
ATTRIBUTES = {"lang", "charset", "name", "content", "class", "role", "align", "style", "width", "src", "alt"}


class Page(HTMLParser):
    """What a mail program sees of a document."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._silent = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._silent = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def render(kind: str, *, examples: bool = False, **more: Any) -> Message:
    return report.render(stories.story(kind), stories.event(kind, **more), examples=examples)


def check_width(text: str) -> None:
    """78 columns; commands alone may be wider, with a long name in them."""
    assert all(cell_len(line) <= 78 for line in text.splitlines() if not line.startswith("    keeperd "))


def check_safe(message: Message) -> Page:
    """What must hold of every message, whatever it tells."""
    assert message.subject.isascii()
    assert message.subject.isprintable()
    assert 0 < len(message.subject) <= 120
    assert "=?" not in message.subject
    assert re.fullmatch(r"[A-Za-z0-9 ._-]{1,64}", message.kind)
    check_width(message.text)
    assert not HIDDEN.search(message.text)
    assert not HIDDEN.search(message.html)
    assert len(message.text) + len(message.html) < 60_000
    page = Page(message.html)
    assert page.tags <= TAGS
    assert {name for name, _ in page.attributes} <= ATTRIBUTES
    for name, value in page.attributes:
        if name == "src":
            assert value.removeprefix("cid:") in message.images
    assert not re.search(r"(?i)url\(|@import|https?:", message.html)
    return page


def holes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as (container, key)."""
    for key in list(value if isinstance(value, dict) else range(len(value))):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from holes(value[key])


@pytest.mark.parametrize("kind", stories.KINDS)
def test_every_kind_says_what_happened_and_what_to_do(kind: str) -> None:
    message = render(kind)
    page = check_safe(message)
    told = pages.page(sheet_scene(kind))
    assert message.subject.startswith("[keeperd] tickets: ")
    for words in (told.title, told.next, *(one.text for one in told.commands)):
        assert words in re.sub(r"\s+", " ", message.text)
        assert words.replace("\u00a0", " ") in page.text.replace("\u00a0", " ")
    assert "keeperd why 12" in message.text
    assert "Traceback" not in message.text


def sheet_scene(kind: str) -> Any:
    from keeperd.report.scene import Scene

    return Scene(stories.story(kind), stories.event(kind))


@pytest.mark.parametrize(
    ("kind", "subject", "told"),
    [
        ("promoted", "version 4 is live", ["right on 88.9 % of the new text", "rollback tickets", "+7.7"]),
        ("drift", "the text has changed", ["passkey", "81.2 %", "89.4 %", "making an update"]),
        ("drift", "the text has changed", ["passkey, log in, lost", "1.4 %", "11.8 %", "U+00C3"]),
        ("drift", "the text has changed", ["AUC 0.71", "wrong on 18.8 % of 420 labelled rows"]),
        ("ask", "the text has changed", ["keeperd trigger tickets", "when you ask for it"]),
        ("suspect", "the new labels look wrong", ["41.0 %", "12.0 %", "does not learn from them"]),
        ("rejected", "version 4 was rejected", ["failed 2 of 7 checks", "label 'refund'", "keeps serving"]),
        ("rolled back", "back to version 3", ["76.2 %", "86.2 %", "210 labelled rows"]),
        ("failed", "the update was given up", ["while training", "lack of memory", "trigger tickets"]),
        ("approval", "version 4 waits for you", ["keeperd approve 12", "keeperd reject 12"]),
        ("alert", "keeperd needs help", ["No space left on device", "keeperd status"]),
        ("completed", "version 4 stays", ["90.3 %", "83.0 %", "300 labelled rows"]),
        ("skipped", "no update this time", ["only 31 rows so far"]),
    ],
)  # fmt: skip
def test_the_figures_are_in_the_text(kind: str, subject: str, told: list[str]) -> None:
    message = render(kind)
    assert message.subject == f"[keeperd] tickets: {subject}"
    text = re.sub(r"\s+", " ", message.text)
    html = Page(message.html).text.replace("\u00a0", " ")
    for words in told:
        assert words.lower() in text.lower()
        assert words.lower() in html.lower()


def test_the_text_says_all_that_the_html_says() -> None:
    for kind in stories.KINDS:
        message = render(kind)
        text = message.text
        for number in re.findall(r"\d+\.\d", Page(message.html).text):
            assert number in text, f"{kind}: {number} is in the HTML alone"


def test_html_carries_its_styles_in_its_elements_and_knows_the_dark() -> None:
    html = render("promoted").html
    assert html.count("style=") > 50
    assert "prefers-color-scheme: dark" in html
    assert '<meta name="color-scheme" content="light dark">' in html
    assert "<link" not in html


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("promoted", {"candidate"}),
        ("rolled back", {"probation"}),
        ("completed", {"probation"}),
        ("drift", set()),
    ],
)
def test_pictures_are_small_transparent_png(kind: str, names: set[str]) -> None:
    message = render(kind)
    assert set(message.images) == names
    for png in message.images.values():
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        width, height, _, colours = struct.unpack(">IIBB", png[16:26])
        assert (width, colours) == (700, 6), "twice 350 pixels, with an alpha channel"
        assert 100 <= height <= 300
        assert len(png) < 60_000


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_shows_and_does_nothing(text: str) -> None:
    for kind in ("drift", "rejected", "failed"):
        story = stories.story(kind)
        facts = story["facts"]
        facts["assess"]["signals"][0]["words"][0]["term"] = text
        facts["assess"]["signals"][0]["summary"] = text
        facts["assess"]["new_labels"] = {text: 3}
        facts["assess"]["examples"] = [text, {"text": text}]
        for place in (facts.get("gate"), facts.get("verify")):
            for check in (place or {}).get("checks", []):
                check |= {"text": text, "name": text if check["name"].startswith("label") else check["name"]}
        story["cycle"]["why"] = text
        for event in story["events"]:
            event["why"] = text
        message = report.render(story, stories.event(kind, why=text, model=text), examples=True)
        page = check_safe(message)
        assert "7*7" in page.text or "7*7" not in text
        html = report.html_report(story, examples=True)
        assert Page(html).tags <= TAGS
        assert not HIDDEN.search(html)
        check_width(report.text_report(story, examples=True))


def test_sample_texts_are_shown_only_where_they_were_asked_for() -> None:
    quiet, open_ = render("drift"), render("drift", examples=True)
    for sample in ("My passkey is gone", "Please fax me the form"):
        assert sample not in quiet.text + quiet.html + report.text_report(stories.story("drift"))
        assert sample in open_.text
        assert sample in open_.html
    assert open_.text.index("New texts") < open_.text.index("Texts that are missing now")


def test_a_group_says_how_often() -> None:
    message = render("failed", times=1000, first_at="2026-11-22T02:04:00+00:00")
    assert message.subject.endswith("(1000 times)")
    assert "1,000 times since 22 Nov 2026, 02:04 UTC" in message.text
    assert "1,000 times" in Page(message.html).text


def test_the_first_version_has_nothing_to_be_compared_with() -> None:
    story = stories.story("promoted")
    floor = "Right on 88.0 % of 200 new rows; always saying the most frequent label is right on 40.0 %."
    story |= {"champion": 1, "predecessor": None}
    checks = [{"name": "floor", "passed": True, "text": floor, "figure": 0.48, "limit": 0.05, "rows": 200}]
    story["facts"] |= {"version": 1, "predecessor": None, "gate": {"passed": True, "checks": checks}}
    message = report.render(story, stories.event("promoted"), examples=False)
    check_safe(message)
    assert "Version 1 is live" in message.text
    assert "rollback" not in message.text
    assert "88.0 %" in message.text
    assert message.images == {}


def test_a_rollback_that_somebody_asked_for() -> None:
    story = stories.story("rolled back")
    story["facts"] = {"target": None, "rollback_why": "answers about refunds are wrong", "restored": 3}
    why = "version 3 serves again in place of 4: answers about refunds are wrong"
    message = report.render(story, stories.event("rolled back", why=why), examples=False)
    check_safe(message)
    assert message.subject == "[keeperd] tickets: back to version 3"
    assert "answers about refunds are wrong" in message.text


def test_a_refusal_by_the_operator() -> None:
    event = stories.event("rejected", from_state="APPROVAL", why="version 4 refused by the operator")
    message = report.render(stories.story("approval"), event, examples=False)
    assert "refused by the operator" in message.text
    assert "Failed checks" not in message.text


@pytest.mark.parametrize("action", ["update", "tell"])
def test_drift_whose_harm_is_not_known(action: str) -> None:
    story = stories.story("drift")
    harm = {"abstained": True, "accuracy": 0.9, "why": "only 12 rows have a label"}
    story["facts"]["assess"]["harm"] = harm
    story["facts"]["decision"]["action"] = action
    event = stories.event("drift", why="the text has drifted, but updates are switched off")
    text = re.sub(r"\s+", " ", report.render(story, event, examples=False).text)
    if action == "update":
        assert "Whether that hurts is not known. Only 12 rows have a label." in text
    else:
        assert "The text has drifted, but updates are switched off." in text
        assert "makes no update now" in text
        assert "Labelled rows in a watched folder would show" in text
    assert "90.0 %" not in text


def test_estimates_are_called_so() -> None:
    story = stories.story("drift")
    story["facts"]["assess"]["harm"] |= {"how": "estimate", "low": None, "high": None}
    text = re.sub(r"\s+", " ", report.render(story, stories.event("drift"), examples=False).text)
    assert "right on about 81.2 % of it" in text
    assert "about 81.2 %, accepted at 89.4 %; estimated without labels" in text


def test_artefacts_that_failed_are_named() -> None:
    story = stories.story("approval")
    story["facts"]["verify"] |= {"passed": False, "chosen": None}
    for one in story["facts"]["verify"]["artefacts"]:
        one |= {"passed": False, "why": "the same label on 91.0 % of rows, 97.5 % are asked for"}
    message = report.render(story, stories.event("rejected", from_state="VERIFY"), examples=False)
    assert "artefact int8: the same label on 91.0 %" in re.sub(r"\s+", " ", message.text)


@pytest.mark.parametrize("kind", ["rejected", "rolled back"])
@pytest.mark.parametrize("hole", [None, [], "x", float("nan"), 1e300], ids=repr)
def test_no_missing_or_odd_fact_loses_the_message(kind: str, hole: Any) -> None:
    story, event = stories.story(kind), stories.event(kind)
    for container, key in [*holes(story), *holes(event)]:
        kept, container[key] = container[key], hole
        told = sheet(story, event, examples=True)
        assert report.subject(told.model, told.page, event)
        assert report.text_report(story)
        container[key] = kept


@pytest.mark.parametrize("kind", [*stories.KINDS, "retry", "manual", "watched", "", "<odd>"])
def test_a_message_needs_no_facts_at_all(kind: str) -> None:
    stories_without: list[dict[str, Any]] = [
        {},
        {"model": "tickets"},
        {"model": "tickets", "facts": {}, "cycle": None, "events": []},
    ]
    for story in stories_without:
        message = report.render(story, {"kind": kind, "id": 7}, examples=True)
        check_safe(message)
        assert report.text_report(story)
        assert report.html_report(story)


@pytest.mark.parametrize("odd", [-1, 0, 1, 1e300, -1e300])
def test_odd_figures_can_be_drawn(odd: float) -> None:
    story = stories.story("rolled back")
    for check in story["facts"]["gate"]["checks"]:
        check |= {"figure": odd, "low": odd, "high": odd, "limit": odd}
    for side in ("champion", "candidate"):
        for figures in story["facts"]["gate"][side]["sets"].values():
            figures["accuracy"] = abs(odd)
    for word in story["facts"]["assess"]["signals"][0]["words"]:
        word |= {"current": odd, "reference": odd}
    for event in story["events"]:
        event["facts"] = {"rows": odd, "evidence": odd, "limit": odd}
    Page(report.html_report(story))


def test_a_failed_intake_is_told() -> None:
    story = stories.story("failed")
    story["facts"] = {"failed_at": "INTAKE"}
    event = stories.event(
        "failed", from_state="INTAKE", why="INTAKE failed: intake (run 3): folder unreadable"
    )
    message = report.render(story, event, examples=False)
    text = re.sub(r"\s+", " ", message.text)
    assert "It went wrong while reading new files. Version 3 keeps serving." in text
    assert "Intake (run 3): folder unreadable." in text


def test_a_whole_cycle_is_one_file_with_its_pictures() -> None:
    html = report.html_report(stories.story("rolled back"))
    page = Page(html)
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == 2
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert "What happened" in page.text
    text = report.text_report(stories.story("rolled back"))
    for words in ("Back to version 3", "What happened", "Signals", "3,356 rows, strategy full in 4 min"):
        assert words in text


def test_a_cycle_is_told_by_its_latest_event_of_weight() -> None:
    story = stories.story("promoted")
    story["events"] += [{"kind": "watched", "why": "60 rows"}, {"kind": "retry", "why": "again"}]
    assert pages.decisive(story)["kind"] == "promoted"
    assert pages.decisive({"events": [{"kind": "opened"}, {"kind": "step"}]})["kind"] == "step"


# --- wording ----------------------------------------------------------------------------------------


def test_nothing_hides_in_visible_text() -> None:
    assert visible("a\u202eb\u200bc\x1b[2J") == "a[U+202E]b[U+200B]c[U+001B][2J"
    assert visible(" two\r\n\tlines\u2028here ") == "two lines here"
    assert visible("\u3164\u2800") == "[U+3164][U+2800]"
    assert visible("e\u0301te\u0301") == "e\u0301te\u0301"
    assert visible("\u9000\u6b3e \U0001f680") == "\u9000\u6b3e \U0001f680"
    assert len(visible("a" * 10**6, 40)) == 40
    assert visible(None) == "None"


def test_ascii_lines_hold_no_header() -> None:
    assert ascii_line("=?UTF-8?Q?=0A?=Bcc: x\r\nTo: y\0", 120) == "UTF-8?Q?=0A?=Bcc: x To: y"
    assert ascii_line("==??==??", 120) == ""
    assert len(ascii_line("x" * 500, 120)) == 120


def test_wrapping_counts_wide_letters_twice() -> None:
    assert all(cell_len(line) <= 20 for line in wrap("\u9000\u6b3e" * 30 + " and words", "  ", width=20))
    assert wrap("") == []
    assert columns([["\u9000", "1"], ["abc", "22"]]) == ["  \u9000     1", "  abc   22"]


def test_times_are_utc_or_unknown() -> None:
    assert moment("2026-11-22T03:14:00+01:00") == "22 Nov 2026, 02:14 UTC"
    assert moment("2026-11-22T02:14:00") == "22 Nov 2026, 02:14 UTC"
    assert moment(None) == "time unknown"


def test_text_reports_load_no_drawing() -> None:
    code = (
        "import sys; from keeperd import report; report.text_report({});"
        "print(sorted({'jinja2', 'matplotlib', 'css_inline', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
