"""What keeperd tells people: an event as a message, a cycle as a report.

    story (JSON) -> evidence, pages -> sheet -> report_text, report_html

Everything here takes a story that may lack anything: a failed intake has no verdict. Text from data
is shown by `wording.visible` alone, and sample texts only where they were asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from keeperd.api import Message
from keeperd.report import pages
from keeperd.report import text as report_text
from keeperd.report.scene import Page
from keeperd.report.sheet import Sheet, sheet
from keeperd.report.wording import ascii_line

SUBJECT_LENGTH = 120


def render(story: Mapping[str, Any], event: Mapping[str, Any], *, examples: bool) -> Message:
    """The message about one event. Its id is good for one ledger only; who sends it sets another.

    Args:
        story: of the event's cycle; {"model": NAME} where it has none.
        event: a row of the ledger, with "times" and "first_at" where it stands for several.
        examples: show a few of the new texts.
    """
    from keeperd.report import html as report_html

    told = sheet(story, event, examples=examples)
    images = report_html.pictures(told)
    return Message(
        id=f"{told.event or 0}@keeperd.localhost",
        model=_word(told.model),
        kind=_word(str(event.get("kind") or "event")),
        subject=subject(told.model, told.page, event),
        text=report_text.text(told),
        html=report_html.html(told, report_html.by_cid(images)),
        images=images,
    )


def _word(text: str) -> str:
    """A name as a header may hold it."""
    return re.sub(r"[^A-Za-z0-9 ._-]+", "-", text)[:64]


def subject(model: str, page: Page, event: Mapping[str, Any]) -> str:
    """One line of printable ASCII; of what is told it has the model's name and version numbers."""
    times = event.get("times")
    many = f" ({times} times)" if isinstance(times, int) and times > 1 else ""
    title = page.title[:1].lower() + page.title[1:]
    return ascii_line(f"[keeperd] {model}: {title}{many}", SUBJECT_LENGTH)


def text_report(story: Mapping[str, Any], *, examples: bool = False) -> str:
    """The whole cycle as text of 78 columns."""
    return report_text.text(_whole(story, examples=examples))


def html_report(story: Mapping[str, Any], *, examples: bool = False) -> str:
    """The whole cycle as one HTML file, pictures and all."""
    from keeperd.report import html as report_html

    told = _whole(story, examples=examples)
    return report_html.html(told, report_html.by_data(report_html.pictures(told)))


def _whole(story: Mapping[str, Any], *, examples: bool) -> Sheet:
    return sheet(story, pages.decisive(story), examples=examples, full=True)
