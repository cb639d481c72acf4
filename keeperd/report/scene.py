"""The value types of a message: the scene that it tells, and the page that tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from keeperd.report.evidence import dig
from keeperd.report.wording import capital, sentence, visible, whole

Tone = Literal["good", "bad", "ask", "quiet"]


@dataclass(frozen=True)
class Command:
    """What to type, and what it is good for."""

    text: str
    what: str


STATUS = Command("keeperd status", "see what keeperd does now")


@dataclass(frozen=True)
class Page:
    """The words of a message.

    Attributes:
        tone: its colour.
        mark: the event in a word or two.
        title: the verdict; it begins the subject too.
        lead: what that means, in two or three sentences.
        next: what to do now.
        shows: which evidence belongs to it: "drift", "candidate", "checks", "watch".
        urgent: keeperd waits for somebody: the next step comes before the evidence.
    """

    tone: Tone
    mark: str
    title: str
    lead: str
    next: str = "You need to do nothing."
    commands: tuple[Command, ...] = ()
    shows: frozenset[str] = field(default=frozenset())
    urgent: bool = False


@dataclass(frozen=True)
class Scene:
    """A story and the event of it that is told."""

    story: Mapping[str, Any]
    event: Mapping[str, Any]

    @property
    def model(self) -> str:
        """The model's name."""
        return visible(self.event.get("model") or self.story.get("model") or "unknown model", 64)

    @property
    def cycle(self) -> int | None:
        """The cycle's number."""
        return whole(dig(self.story, "cycle", "id")) or whole(self.event.get("cycle"))

    @property
    def why(self) -> str:
        """The event's own sentence."""
        return sentence(self.event.get("why") or "")

    @property
    def state(self) -> str:
        """The state that the cycle was in when it happened."""
        return str(self.event.get("from_state") or self.event.get("from") or "")

    @property
    def new(self) -> str:
        """The candidate, or the version that went live."""
        number = whole(dig(self.story, "facts", "version"))
        return "the new version" if number is None else f"version {number}"

    @property
    def old(self) -> str | None:
        """The version that served before the candidate, None where there was none."""
        facts, new = self.story.get("facts"), whole(dig(self.story, "facts", "version"))
        for number in (
            dig(facts, "restored"),
            dig(facts, "predecessor"),
            self.story.get("champion"),
            self.story.get("predecessor"),
        ):
            if whole(number) is not None and whole(number) != new:
                return f"version {whole(number)}"
        return None

    @property
    def serving(self) -> str:
        """Who serves while the candidate does not."""
        return f"{capital(self.old)} keeps serving." if self.old else "No version serves yet."

    def command(self, verb: str, what: str) -> Command:
        """A command about the model."""
        return Command(f"keeperd {verb} {self.model}", what)

    @property
    def explain(self) -> tuple[Command, ...]:
        """How to see all of it."""
        if self.cycle is None:
            return (STATUS,)
        return (Command(f"keeperd why {self.cycle}", "see every step and figure"),)
