"""What to say about an event: the verdict, what keeperd did or wants, and the next step.

One small function a kind of event, in sentences for somebody who was just woken up. Figures and
pictures are `evidence`'s; how it all looks is for `report_text` and `report_html`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from keeperd.report import evidence
from keeperd.report.evidence import dig
from keeperd.report.scene import STATUS, Command, Page, Scene
from keeperd.report.wording import capital, count, sentence, share, visible

DOING = {
    "QUEUED": "waiting", "INTAKE": "reading new files", "ASSESS": "looking for drift",
    "UPDATE": "training", "GATE": "judging the candidate", "EXPORT": "exporting the candidate",
    "VERIFY": "verifying what was exported", "APPROVAL": "waiting for approval",
    "PROMOTE": "switching versions", "PROBATION": "watching the new version",
    "ROLLBACK": "going back to an older version",
}  # fmt: skip
UNCHANGED = "For your users nothing has changed."


def _better(scene: Scene) -> str:
    """What the comparison showed of a candidate that passed, as the end of a sentence; nothing where
    nothing was compared."""
    sets = evidence.compared(scene.story)
    told = [
        f"right on {share(one.candidate)} of the new text instead of {share(one.champion)}"
        for one in sets
        if one.name == "new text"
    ]
    told += ["with no measurable loss on old text"] if any(one.name != "new text" for one in sets) else []
    return f": {', '.join(told)}" if told else ""


def _promoted(scene: Scene) -> Page:
    shows = frozenset({"drift", "candidate"})
    if scene.old is None:
        lead = f"It is the first version of {scene.model}. It passed every check, and serves from now on."
        nothing = "You need to do nothing: keeperd watches for new text now."
        return Page("good", "Promoted", f"{capital(scene.new)} is live", lead, nothing, scene.explain, shows)
    return Page(
        tone="good",
        mark="Promoted",
        title=f"{capital(scene.new)} is live",
        lead=f"It took the place of {scene.old}{_better(scene)}.",
        next="You need to do nothing: keeperd goes back by itself if new labels speak against it.",
        commands=(scene.command("rollback", f"go back to {scene.old} now"), *scene.explain),
        shows=shows,
    )


def _approval(scene: Scene) -> Page:
    number = scene.cycle if scene.cycle is not None else "CYCLE"
    return Page(
        tone="ask",
        mark="Your approval",
        title=f"{capital(scene.new)} waits for you",
        lead=f"It passed every check{_better(scene)}. {scene.serving}",
        next=f"{capital(scene.new)} goes live when you say so, and not before.",
        commands=(
            Command(f"keeperd approve {number}", f"let {scene.new} serve"),
            Command(f"keeperd reject {number}", "keep things as they are"),
            *scene.explain,
        ),
        shows=frozenset({"drift", "candidate"}),
        urgent=True,
    )


def _drift(scene: Scene) -> Page:
    harm, told = evidence.harm(scene.story), dig(scene.story, "facts", "assess", "harm")
    version = capital(scene.old) or "The champion"
    if dig(scene.story, "facts", "decision", "action") != "update":
        lead, nothing = scene.why, f"keeperd makes no update now. {scene.serving}"
        if harm is None:
            nothing += " Labelled rows in a watched folder would show whether one is needed."
    else:
        nothing = "You need to do nothing: keeperd is making an update and will tell you how it went."
        lead = f"Whether that hurts is not known. {sentence(dig(told, 'why') or '')}".strip()
        if harm is not None:
            about = "" if harm.measured else "about "
            before = f"; it was {share(harm.accepted)} when it went live" if harm.accepted is not None else ""
            lead = f"{version} is right on {about}{share(harm.now)} of it{before}."
    title = "The text has changed"
    return Page("ask", "Drift", title, lead, nothing, scene.explain, frozenset({"drift"}))


def _ask(scene: Scene) -> Page:
    """Drift without proven harm, where the operator wants to be asked before an update."""
    told = _drift(scene)
    return replace(
        told,
        mark="Your word",
        next="keeperd makes an update from the labelled rows that it has when you ask for it, and not before;"
        " the gate judges it as any other.",
        commands=(scene.command("trigger", "make an update now"), *scene.explain),
        urgent=True,
    )


def _suspect(scene: Scene) -> Page:
    told = dig(scene.story, "facts", "assess", "suspect")
    disagreement, expected = dig(told, "disagreement"), dig(told, "expected")
    lead = scene.why
    if share(disagreement) != "unknown" and share(expected) != "unknown":
        lead = (
            f"They disagree with {scene.old or 'the champion'} on {share(disagreement)} of the rows; "
            f"{share(expected)} was to be expected. They may be wrong, so keeperd does not learn from them."
        )
    return Page(
        tone="bad",
        mark="Suspect",
        title="The new labels look wrong",
        lead=f"{lead} {scene.serving}",
        next="Find out who made these labels. Correct them where they come from, and put the corrected rows "
        "into the watched folder.",
        commands=scene.explain,
        shows=frozenset({"drift"}),
        urgent=True,
    )


def _rejected(scene: Scene) -> Page:
    title, first = f"{capital(scene.new)} was rejected", scene.why
    if scene.state == "APPROVAL":
        lead, again = f"{first} {scene.serving} {UNCHANGED}", "You need to do nothing."
        return Page("quiet", "Refused", title, lead, again, scene.explain, frozenset({"candidate"}))
    tests = evidence.checks(scene.story)
    failed = sum(not one.passed for one in tests)
    if failed:
        first = f"It failed {failed} of {count(len(tests), 'check')}, so it never served."
    again = "You need to do nothing: keeperd tries again when more labelled rows have come in."
    if dig(scene.story, "facts", "gate", "harmful"):
        first += " It would have made answers worse."
        again = "The rows that it learned from are set aside. Look at them when you have the time."
    lead = f"{first} {scene.serving} {UNCHANGED}"
    shows = frozenset({"candidate", "checks"})
    return Page("ask", "Rejected", title, lead, again, scene.explain, shows)


def _rolled_back(scene: Scene) -> Page:
    old, new = scene.old or "the version before", scene.new
    seen = evidence.watch(scene.story)
    facts = scene.story.get("facts")
    asked = isinstance(facts, Mapping) and "target" in facts  # by a person, or for a damaged version
    if not asked and seen is not None and seen.champion is not None:
        lead = (
            f"{capital(new)} did worse than {old} on {count(seen.rows, 'labelled row')} that came since: "
            f"right on {share(seen.champion)} instead of {share(seen.predecessor)}. "
            f"{capital(old)} serves again."
        )
    else:
        lead = scene.why
    return Page(
        tone="bad",
        mark="Rolled back",
        title=f"Back to {old}",
        lead=lead,
        next="You need to do nothing at once. The version that was withdrawn does not come back, and what it "
        "learned from is set aside.",
        commands=scene.explain,
        shows=frozenset({"watch"}),
    )


def _error(scene: Scene) -> tuple[str | None, str]:
    """What keeperd was doing, and the error without the state's name before it."""
    why = str(scene.event.get("why") or "")
    for before in (f"{scene.state} failed: ", f"{scene.state}: "):
        why = why.removeprefix(before)
    return DOING.get(scene.state), sentence(why)


def _failed(scene: Scene) -> Page:
    withdrawn = str(scene.event.get("why") or "").startswith("withdrawn")
    at, error = _error(scene)
    lead = f"It went wrong while {at}. " if at and not withdrawn else ""
    return Page(
        tone="quiet" if withdrawn else "bad",
        mark="Withdrawn" if withdrawn else "Failed",
        title="The update was withdrawn" if withdrawn else "The update was given up",
        lead=f"{lead}{scene.serving} {UNCHANGED}\n{error}",
        next="No rows are lost. keeperd tries again when something new comes in, or when you ask for it.",
        commands=(*scene.explain, scene.command("trigger", "try again now")),
    )


def _alert(scene: Scene) -> Page:
    at, error = _error(scene)
    lead = f"It is stuck while {at}, and keeps trying.\n{error}" if at else error
    return Page(
        tone="bad",
        mark="Alert",
        title="keeperd needs help",
        lead=lead,
        next="Please look at it now.",
        commands=(STATUS, *(scene.explain if scene.cycle is not None else ())),
        urgent=True,
    )


def _skipped(scene: Scene) -> Page:
    return Page(
        tone="quiet",
        mark="Skipped",
        title="No update this time",
        lead=f"{scene.why} {scene.serving}".strip(),
        commands=scene.explain,
        shows=frozenset({"drift"}),
    )


def _completed(scene: Scene) -> Page:
    seen = evidence.watch(scene.story)
    lead = scene.why
    if seen is not None and seen.champion is not None:
        lead = (
            f"Its probation is over: right on {share(seen.champion)} of {count(seen.rows, 'labelled row')} "
            f"that came since, {scene.old or 'its predecessor'} on {share(seen.predecessor)}."
        )
    commands = scene.explain
    if scene.old is not None:
        commands = (*commands, scene.command("rollback", f"go back to {scene.old} all the same"))
    title = f"{capital(scene.new)} stays"
    return Page("good", "Completed", title, lead, commands=commands, shows=frozenset({"watch"}))


def _other(scene: Scene) -> Page:
    kind = visible(scene.event.get("kind") or "event", 40)
    at = DOING.get(str(dig(scene.story, "cycle", "state")))
    title = f"keeperd is {at}" if at else capital(kind)
    return Page("quiet", capital(kind), title, scene.why, commands=scene.explain)


TELL: dict[str, Callable[[Scene], Page]] = {
    "drift": _drift, "ask": _ask, "suspect": _suspect, "promoted": _promoted, "rejected": _rejected,
    "rolled back": _rolled_back, "failed": _failed, "approval": _approval, "alert": _alert,
    "skipped": _skipped, "completed": _completed,
}  # fmt: skip
"""Kinds of events that have words of their own."""


def page(scene: Scene) -> Page:
    """The words for an event of any kind."""
    return TELL.get(str(scene.event.get("kind")), _other)(scene)


def decisive(story: Mapping[str, Any]) -> Mapping[str, Any]:
    """The event that tells how a cycle ended or where it stands: the latest that has words of its
    own, else the latest."""
    events = list(evidence.mappings(story.get("events")))
    told = [event for event in events if str(event.get("kind")) in TELL]
    return (told or events or [{}])[-1]
