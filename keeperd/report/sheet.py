"""Everything that a message or report shows, in its order; text and HTML lay out the same sheet."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keeperd.report import evidence, pages
from keeperd.report.evidence import Compared, Tested, Watch, Word
from keeperd.report.scene import Page, Scene
from keeperd.report.wording import capital, moment, sentence, share, visible, whole

MOST_CHECKS = 4
"""Failed checks in a message; a report has all."""


@dataclass(frozen=True)
class Sheet:
    """A page with its evidence; what is empty is not shown.

    Attributes:
        group: how often the same happened, where it did more than once.
        words, slices: what drifted.
        failed: checks that were not passed.
        facts: short labelled figures.
        more: how many failed checks are left out.
        signals, history: of a report of the whole cycle only.
        examples, gone: typical new texts, and typical ones of the reference that are missing now.
    """

    page: Page
    model: str
    at: str
    cycle: int | None
    event: int | None
    host: str
    group: str = ""
    words: tuple[Word, ...] = ()
    slices: tuple[Word, ...] = ()
    compared: tuple[Compared, ...] = ()
    versions: tuple[str, str] = ("champion", "candidate")
    failed: tuple[Tested, ...] = ()
    more: int = 0
    watch: Watch | None = None
    facts: tuple[tuple[str, str], ...] = ()
    signals: tuple[Tested, ...] = ()
    history: tuple[tuple[str, str, str], ...] = ()
    examples: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def sheet(story: Mapping[str, Any], event: Mapping[str, Any], *, examples: bool, full: bool = False) -> Sheet:
    """The sheet of one event, or with `full` of its whole cycle."""
    scene = Scene(story, event)
    page = pages.page(scene)
    shows = frozenset({"drift", "candidate", "checks", "watch"}) if full else page.shows
    failed = tuple(one for one in evidence.checks(story) if not one.passed) if "checks" in shows else ()
    kept = failed if full else failed[:MOST_CHECKS]
    return Sheet(
        page=page,
        model=scene.model,
        at=moment(event.get("at")),
        cycle=scene.cycle,
        event=whole(event.get("id")),
        host=visible(socket.gethostname(), 64),
        group=_group(event),
        words=evidence.words(story, _most_words(page, full=full)) if "drift" in shows else (),
        slices=evidence.slices(story, 5 if full else 3) if full or shows == {"drift"} else (),
        compared=evidence.compared(story) if "candidate" in shows else (),
        versions=(scene.old or "champion", scene.new),
        failed=kept,
        more=len(failed) - len(kept),
        watch=evidence.watch(story) if "watch" in shows else None,
        facts=tuple(_facts(scene, shows, full=full)),
        signals=evidence.signals(story) if full else (),
        history=evidence.history(story) if full else (),
        examples=evidence.texts(story) if examples and "drift" in shows else (),
        gone=evidence.texts(story, "reference") if examples and "drift" in shows else (),
    )


def _most_words(page: Page, *, full: bool) -> int:
    """Many where drift is the news, few where it is only the cause."""
    if full:
        return 12
    return 6 if page.shows == {"drift"} else 3


def _group(event: Mapping[str, Any]) -> str:
    times = whole(event.get("times")) or 1
    if times < 2:
        return ""
    return f"This happened {times:,} times since {moment(event.get('first_at'))}; this is the last of them."


def _facts(scene: Scene, shows: frozenset[str], *, full: bool) -> list[tuple[str, str]]:
    story, facts = scene.story, []
    if "drift" in shows and (full or shows == {"drift"}):
        harm = evidence.harm(story)
        facts += [("Found", evidence.found(story)), ("Came in", evidence.arrived(story))]
        unknown = evidence.not_known(story)
        facts += [("Accuracy now", harm.text if harm else unknown and f"not known: {unknown}")]
        facts += [("All labels", evidence.all_labels(story)), ("New labels", _new_labels(story))]
        facts += [("Format", line) for line in evidence.warnings(story)]
    if "candidate" in shows:
        facts += [] if full else [("Why", _cause(scene))]
        tests = evidence.checks(story)
        passed = sum(one.passed for one in tests)
        facts += [("Trained on", evidence.trained(story))] if full else []
        facts += [("Measured", floor) for floor in evidence.floors(story)]
        facts += [("Checks", f"{passed} of {len(tests)} passed")] if tests else []
        facts += [("Serves as", evidence.artefact(story))]
    seen = evidence.watch(story) if "watch" in shows else None
    if (
        seen is not None
        and seen.rows
        and seen.only_champion is not None
        and seen.only_predecessor is not None
    ):
        other = scene.old or "the version before"
        alone = f"{scene.new} {seen.only_champion:,} times, {other} {seen.only_predecessor:,} times"
        facts += [("Alone right", alone)]
    return [(label, text) for label, text in facts if text]


def _cause(scene: Scene) -> str:
    """Why there was an update at all."""
    harm = evidence.harm(scene.story)
    drifted = evidence.dig(scene.story, "facts", "assess", "drifted")
    told = ["drift"] if drifted else []
    if harm is not None and harm.accepted is not None and harm.now < harm.accepted:
        told.append(f"accuracy {share(harm.accepted)}, now {share(harm.now)}")
    decided = evidence.dig(scene.story, "facts", "decision", "why")
    return capital("; ".join(told)) or sentence(decided or "", 150)


def _new_labels(story: Mapping[str, Any]) -> str:
    """Labels that the champion does not know, the most frequent first."""
    found = evidence.dig(story, "facts", "assess", "new_labels")
    if not isinstance(found, Mapping) or not found:
        return ""
    names = sorted(found, key=lambda name: -(whole(found[name]) or 0))
    shown = ", ".join(f"{visible(name, 40)} ({whole(found[name]) or 0:,})" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if names[3:] else "")
