"""What a cycle's story holds, as tidy values for a report. Whatever is missing is left out.

A story is JSON written by many hands over a cycle that may have ended anywhere: every look-up here
takes an absent, null or odd value for "not known", so that a report of a failure never fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeperd.gate.verdict import points
from keeperd.report.wording import count, figure, moment, portion, share, visible, whole

SETS = {"new": "new text", "golden": "your test set", "holdout": "old text"}


def dig(value: Any, *path: str) -> Any:
    """What lies at the end of the path of keys, or None."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """The mappings in a list, passing over everything else."""
    for one in value if isinstance(value, Sequence) and not isinstance(value, str) else ():
        if isinstance(one, Mapping):
            yield one


# --- champion against candidate ---------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """Champion and candidate on one test set: accuracies 0..1, `change` the candidate's less the
    champion's with its 90 % interval, `limit` the least change that passes."""

    name: str
    champion: float
    candidate: float
    change: float
    low: float | None
    high: float | None
    limit: float | None
    rows: int | None
    passed: bool

    @property
    def interval(self) -> str:
        """The interval in points, or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"


def compared(story: Mapping[str, Any]) -> tuple[Compared, ...]:
    """Every test set on which both models were judged."""
    verdict = dig(story, "facts", "gate")
    found = []
    for check in mappings(dig(verdict, "checks")):
        name, change = str(check.get("name")), portion(check.get("figure"), -1.0)
        if name not in SETS or change is None:
            continue
        before = _accuracy(dig(verdict, "champion", "sets", name))
        after = _accuracy(dig(verdict, "candidate", "sets", name))
        if before is None or after is None:
            continue
        found.append(
            Compared(
                name=SETS[name],
                champion=before,
                candidate=after,
                change=change,
                low=portion(check.get("low"), -1.0),
                high=portion(check.get("high"), -1.0),
                limit=portion(check.get("limit"), -1.0),
                rows=whole(check.get("rows")),
                passed=bool(check.get("passed")),
            )
        )
    return tuple(sorted(found, key=lambda one: list(SETS.values()).index(one.name)))


def _accuracy(metrics: Any) -> float | None:
    """The figure that the gate compares: the accuracy, or else the task's first metric."""
    if not isinstance(metrics, Mapping):
        return None
    known = [n for n in map(portion, (metrics.get("accuracy"), *metrics.values())) if n is not None]
    return known[0] if known else None


@dataclass(frozen=True)
class Tested:
    """One check of the gate or of the exported artefact."""

    name: str
    passed: bool
    text: str


def checks(story: Mapping[str, Any]) -> tuple[Tested, ...]:
    """The judged checks of the gate, and then those of the artefacts where none could be chosen."""
    found = [
        _tested(one, "text", passed=bool(one.get("passed")))
        for one in mappings(dig(story, "facts", "gate", "checks"))
        if one.get("judged", True)
    ]
    parity = dig(story, "facts", "verify")
    if isinstance(parity, Mapping) and not parity.get("passed"):
        for one in mappings(parity.get("artefacts")):
            name = f"artefact {visible(one.get('precision') or one.get('file'), 60)}"
            why = visible(one.get("why") or "refused", 250)
            found.append(Tested(name, bool(one.get("passed")), f"{name}: {why}"))
    return tuple(found)


def floors(story: Mapping[str, Any]) -> tuple[str, ...]:
    """What was measured of version 1, which has nothing to be compared with."""
    found = mappings(dig(story, "facts", "gate", "checks"))
    return tuple(visible(one.get("text") or "", 300) for one in found if one.get("name") == "floor")


def _tested(one: Mapping[str, Any], key: str, *, passed: bool) -> Tested:
    return Tested(visible(one.get("name"), 60), passed, visible(one.get(key) or one.get("name"), 300))


# --- drift ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """A term that became more or less frequent: shares of documents with it, 0..1."""

    term: str
    before: float
    now: float

    @property
    def change(self) -> str:
        """Both shares."""
        return f"{share(self.before)} to {share(self.now)}"


def words(story: Mapping[str, Any], most: int) -> tuple[Word, ...]:
    """Terms that changed most, strongest first."""
    return _changed(story, "words", "term", most)


def slices(story: Mapping[str, Any], most: int) -> tuple[Word, ...]:
    """Groups of rows whose share changed most, strongest first."""
    return _changed(story, "slices", "name", most)


def _changed(story: Mapping[str, Any], key: str, name: str, most: int) -> tuple[Word, ...]:
    found: dict[str, tuple[float, Word]] = {}
    for signal in mappings(dig(story, "facts", "assess", "signals")):
        for one in mappings(signal.get(key)):
            before, now, z = portion(one.get("reference")), portion(one.get("current")), figure(one.get("z"))
            term = visible(one.get(name) or "", 40)
            if term and before is not None and now is not None and z is not None:
                found.setdefault(term, (-abs(z), Word(term, before, now)))
    return tuple(word for _, word in sorted(found.values(), key=lambda pair: pair[0])[:most])


def signals(story: Mapping[str, Any]) -> tuple[Tested, ...]:
    """One line a signal; `passed` where it has not drifted and warns of nothing."""
    return tuple(
        _tested(one, "summary", passed=not (one.get("drifted") or one.get("warning")))
        for one in mappings(dig(story, "facts", "assess", "signals"))
    )


def found(story: Mapping[str, Any]) -> str:
    """What the first signal that drifted says."""
    told = mappings(dig(story, "facts", "assess", "signals"))
    first = next((one for one in told if one.get("drifted") and not one.get("warning")), {})
    return visible(first.get("summary") or "", 300)


def warnings(story: Mapping[str, Any], most: int = 3) -> tuple[str, ...]:
    """What the format sentinels say; a page that was rendered is no warning."""
    told = mappings(dig(story, "facts", "assess", "signals"))
    lines = [visible(one.get("summary") or "", 200) for one in told if one.get("warning")]
    return tuple(line for line in lines if line and "report is rendered" not in line)[:most]


@dataclass(frozen=True)
class Harm:
    """The champion's accuracy on the new text, the one it was accepted with, and the interval of
    the loss between them; `measured` on labels or only estimated."""

    now: float
    accepted: float | None
    low: float | None
    high: float | None
    measured: bool

    @property
    def text(self) -> str:
        """All of it in one line."""
        about = "" if self.measured else "about "
        text = f"{about}{share(self.now)}"
        text += f", accepted at {share(self.accepted)}" if self.accepted is not None else ""
        if self.low is not None and self.high is not None:
            text += f" (loss {100 * self.low:+.1f} to {100 * self.high:+.1f} points)"
        return text + ("" if self.measured else "; estimated without labels")


def harm(story: Mapping[str, Any]) -> Harm | None:
    """What the drift does to the champion, or None where nobody can tell."""
    told = dig(story, "facts", "assess", "harm")
    now = portion(dig(told, "accuracy"))
    if now is None or dig(told, "abstained"):
        return None
    low, high = portion(told.get("low"), -1.0), portion(told.get("high"), -1.0)
    return Harm(now, portion(told.get("accepted")), low, high, measured=told.get("how") == "labels")


def not_known(story: Mapping[str, Any]) -> str:
    """Why nobody can tell what drift does, or ""."""
    told = dig(story, "facts", "assess", "harm")
    return visible(dig(told, "why") or "", 200) if dig(told, "abstained") else ""


def all_labels(story: Mapping[str, Any]) -> str:
    """What all labels since the promotion say together, or ""."""
    told = dig(story, "facts", "assess", "watch")
    rows, error, limit = whole(dig(told, "rows")), portion(dig(told, "error")), portion(dig(told, "limit"))
    if not rows or error is None or limit is None:
        return ""
    end = "too many" if dig(told, "alarmed") else "no alarm"
    return f"wrong on {share(error)} of {count(rows, 'labelled row')}; {share(limit)} is borne: {end}"


# --- probation --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watch:
    """A new champion beside its predecessor on `rows` labelled rows: how many each one alone had
    right, both accuracies, and how the evidence against the champion (an e-value) went."""

    rows: int
    champion: float | None
    predecessor: float | None
    only_champion: int
    only_predecessor: int
    trail: tuple[tuple[int, float], ...]
    limit: float | None


def watch(story: Mapping[str, Any]) -> Watch | None:
    """What probation has seen. Its state holds the counts; events tell the evidence as it was
    (`rows`, `evidence` and `limit` in their facts)."""
    state = dig(story, "facts", "probation")
    if not isinstance(state, Mapping):
        return None
    both, good, bad, neither = (
        max(whole(state.get(name)) or 0, 0) for name in ("both", "champion", "predecessor", "neither")
    )
    rows = both + good + bad + neither
    champion, predecessor = ((both + good) / rows, (both + bad) / rows) if rows else (None, None)
    trail, limit = _trail(story)
    return Watch(rows, champion, predecessor, good, bad, trail, limit)


def _trail(story: Mapping[str, Any]) -> tuple[tuple[tuple[int, float], ...], float | None]:
    trail: dict[int, float] = {}
    limit = None
    for event in mappings(story.get("events")):
        rows, evidence = whole(dig(event, "facts", "rows")), figure(dig(event, "facts", "evidence"))
        if rows is not None and evidence is not None and evidence > 0:
            trail[rows] = evidence
            limit = figure(dig(event, "facts", "limit")) or limit
    return tuple(sorted(trail.items())), limit


# --- plain facts ------------------------------------------------------------------------------------


def arrived(story: Mapping[str, Any]) -> str:
    """What the intake took and what it refused."""
    taken = dig(story, "facts", "intake")
    rows, labelled = whole(dig(taken, "rows")), whole(dig(taken, "labelled"))
    if rows is None:
        return ""
    parts = [count(rows, "row") + (f", {labelled:,} labelled" if labelled else "")]
    refused = whole(dig(taken, "files", "quarantined"))
    bad = whole(dig(taken, "bad_rows"))
    parts += [f"{count(refused, 'file')} refused"] if refused else []
    parts += [f"{count(bad, 'row')} refused"] if bad else []
    return "; ".join(parts)


def trained(story: Mapping[str, Any]) -> str:
    """How the candidate came about."""
    done = dig(story, "facts", "train")
    examples = whole(dig(done, "examples"))
    if examples is None:
        return ""
    seconds = figure(dig(done, "seconds"))
    took = ""
    if seconds is not None:
        took = f" in {seconds:.0f} s" if seconds < 120 else f" in {seconds / 60:.0f} min"
    return f"{count(examples, 'row')}, strategy {visible(dig(done, 'strategy') or '?', 64)}{took}"


def artefact(story: Mapping[str, Any]) -> str:
    """What serves, and what was measured of it."""
    parity = dig(story, "facts", "verify")
    chosen = dig(parity, "chosen")
    for one in mappings(dig(parity, "artefacts")):
        if chosen is not None and one.get("file") == chosen:
            precision, provider = one.get("precision") or chosen, one.get("provider") or "cpu"
            text = f"{visible(precision, 30)} on {visible(provider, 30)}"
            agreement, slow = figure(one.get("agreement")), figure(one.get("p95_ms"))
            text += f", {share(agreement)} as trained" if agreement is not None else ""
            return text + (f", {slow:.1f} ms" if slow is not None else "")
    return ""


def history(story: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Every event of the cycle: when, what, why."""
    return tuple(
        (
            moment(one.get("at")),
            visible(one.get("to") or one.get("kind") or "", 40),
            visible(one.get("why") or "", 300),
        )
        for one in mappings(story.get("events"))
    )


def texts(story: Mapping[str, Any], side: str = "current", most: int = 3) -> tuple[str, ...]:
    """A few typical texts of one side, "current" or "reference", for those who asked for them."""
    found = [
        visible(one["text"], 160)
        for one in mappings(dig(story, "facts", "assess", "examples"))
        if isinstance(one.get("text"), str) and one["text"].strip() and one.get("side", "current") == side
    ]
    return tuple(found[:most])


def change(difference: float) -> str:
    """A difference of accuracies in points; "no change" where it rounds to nothing."""
    return "no change" if abs(difference) < 0.0005 else points(difference)
