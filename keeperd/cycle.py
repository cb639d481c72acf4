"""The product: one pass of maintenance, as a table of states and one small function a state.

A step looks, does at most one thing that may be done twice, and says where to go; it never sleeps
and never writes the ledger. `None` means: nothing new yet, look again. What it returns is checked
against `TABLE` and committed, with its event, in one transaction (`advance`). Long work is
`kit.run(...)`: it starts a worker once and later gives its result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from keeperd import drift, probation
from keeperd.api import JSON, KeeperdError
from keeperd.kit import Kit
from keeperd.store import Cycle, Store

log = logging.getLogger("keeperd.cycle")

TABLE: dict[str, tuple[str, ...]] = {
    "QUEUED": ("INTAKE", "SKIPPED", "FAILED"),
    "INTAKE": ("ASSESS", "SKIPPED", "FAILED"),
    "ASSESS": ("UPDATE", "SKIPPED", "FAILED"),
    "UPDATE": ("GATE", "FAILED"),
    "GATE": ("EXPORT", "REJECTED", "FAILED"),
    "EXPORT": ("VERIFY", "FAILED"),
    "VERIFY": ("PROMOTE", "APPROVAL", "REJECTED", "FAILED"),
    "APPROVAL": ("PROMOTE", "REJECTED", "FAILED"),
    "PROMOTE": ("PROBATION", "COMPLETED"),
    "PROBATION": ("PROBATION", "COMPLETED", "ROLLBACK"),
    "ROLLBACK": ("ROLLED_BACK",),
}
CLOSED = ("SKIPPED", "REJECTED", "FAILED", "COMPLETED", "ROLLED_BACK")
NEVER_ABANDONED = ("PROMOTE", "PROBATION", "ROLLBACK")
"""States in which a failing step is tried for ever: giving up half-way would leave it unclear what serves."""


class TransitionError(KeeperdError):
    """A step wanted an edge that the table does not have."""


@dataclass(frozen=True)
class Outcome:
    """Where to go and why; `facts` join the cycle's, `kind` names the event, `record` writes what
    belongs to the same transaction, and `told` is what the event itself remembers."""

    to: str
    why: str
    facts: Mapping[str, JSON] = field(default_factory=dict)
    kind: str = "step"
    record: Callable[[Store], None] = lambda store: None
    told: Mapping[str, JSON] = field(default_factory=dict)


Step = Callable[[Cycle, Kit], Outcome | None]


def queued(cycle: Cycle, kit: Kit) -> Outcome | None:
    """Wait while the model is paused."""
    if kit.paused:
        return None
    if cycle.trigger == "init" and kit.champion is not None:
        return Outcome("SKIPPED", f"version {kit.champion} is there already", kind="skipped")
    return Outcome("INTAKE", "reading what has come in")


def intake(cycle: Cycle, kit: Kit) -> Outcome | None:
    """Freeze new files into a batch. The window is that batch and every earlier one that waited."""
    done = kit.run("intake", kit.intake_inputs())
    if done is None:
        return None
    kit.keep_batch(done)
    window = kit.window_with(done.result["batch"])
    facts = {"intake": done.result, "batches": window}
    record = kit.record.intake(done.result, done.out / "files.jsonl")
    if not window:
        return Outcome("SKIPPED", "no new rows", facts, "skipped", record)
    return Outcome("ASSESS", kit.describe_intake(done.result), facts, record=record)


def assess(cycle: Cycle, kit: Kit) -> Outcome | None:
    """Has the text drifted, does it hurt, and is an update worth it?"""
    if kit.champion is None:
        return Outcome("UPDATE", "there is no version yet", record=kit.record.candidate())
    done = kit.run("assess", kit.assess_inputs(cycle.facts["batches"]))
    if done is None:
        return None
    report = drift.Report.from_json(done.result)
    decision = drift.decide(report, kit.settings.decide, kit.settings.update, kit.history())
    told = {name: value for name, value in done.result.items() if name != "states"}
    facts = {"assess": told, "decision": decision.to_json(), "report": kit.keep_report(done)}
    record = kit.record.assessment(done.result, decision, cycle.facts["batches"])
    if decision.action == "update":
        return Outcome("UPDATE", decision.why, facts, "drift" if report.drifted else "step", record)
    kind = {"tell": "drift", "ask": "ask", "suspect": "suspect"}.get(decision.action, "skipped")
    return Outcome("SKIPPED", decision.why, facts, kind, record)


def update(cycle: Cycle, kit: Kit) -> Outcome | None:
    """Make a candidate from the champion and the new rows."""
    done = kit.run("train", kit.train_inputs())
    if done is None:
        return None
    facts = {
        "train": done.result,
        "candidate": kit.folder(done, "candidate"),
        "version": done.result["version"],
    }
    return Outcome("GATE", f"version {done.result['version']} trained by {done.result['strategy']}", facts)


def gate(cycle: Cycle, kit: Kit) -> Outcome | None:
    """Let only a proven candidate pass."""
    done = kit.run("gate", kit.gate_inputs(cycle.facts))
    if done is None:
        return None
    verdict = done.result
    if verdict["passed"]:
        return Outcome("EXPORT", verdict["summary"], {"gate": verdict}, record=kit.record.golden(verdict))
    record = kit.record.rejection(cycle.facts["version"], cycle.facts["batches"], verdict)
    return Outcome("REJECTED", verdict["summary"], {"gate": verdict}, "rejected", record)


def export(cycle: Cycle, kit: Kit) -> Outcome | None:
    """Make deployable artefacts of the candidate."""
    done = kit.run("export", kit.export_inputs(cycle.facts))
    if done is None:
        return None
    names = ", ".join(artefact["precision"] for artefact in done.result["artefacts"])
    return Outcome("VERIFY", f"exported: {names}", {"export": done.result, "exported": kit.folder(done, ".")})


def verify(cycle: Cycle, kit: Kit) -> Outcome | None:
    """Measure the very artefact that will serve, on the runtime that will serve it."""
    done = kit.run("verify", kit.verify_inputs(cycle.facts))
    if done is None:
        return None
    facts = {"verify": done.result, "sealed": kit.folder(done, "version")}
    if not done.result["passed"]:
        record = kit.record.rejection(cycle.facts["version"], cycle.facts["batches"])
        return Outcome("REJECTED", done.result["summary"], facts, "rejected", record)
    if kit.settings.approval and kit.champion is not None:
        return Outcome("APPROVAL", f"version {cycle.facts['version']} waits for you", facts, "approval")
    return Outcome("PROMOTE", done.result["summary"], facts)


def approval(cycle: Cycle, kit: Kit) -> Outcome | None:
    """Wait for the operator, where the configuration asks for it."""
    version = cycle.facts["version"]
    if cycle.answer == "approve":
        return Outcome("PROMOTE", f"version {version} approved by the operator")
    if cycle.answer == "reject":
        record = kit.record.rejection(version, cycle.facts["batches"])
        return Outcome(
            "REJECTED", f"version {version} refused by the operator", kind="rejected", record=record
        )
    return None


def promote(cycle: Cycle, kit: Kit) -> Outcome | None:
    """Move `live`. The intent is committed already, so after a crash the same is done again."""
    version = cycle.facts["version"]
    kit.go_live(version, cycle.facts["sealed"], cycle.facts["verify"]["manifest"])
    facts = {"predecessor": kit.champion, "promoted_at": kit.now.isoformat()}
    record = kit.record.promotion(cycle.facts)
    if kit.champion is None:
        return Outcome("COMPLETED", f"version {version} is the first champion", facts, "promoted", record)
    why = f"version {version} serves in place of {kit.champion}"
    return Outcome("PROBATION", why, {**facts, "watch": probation.start()}, "promoted", record)


def watch(cycle: Cycle, kit: Kit) -> Outcome | None:
    """Compare the new champion with its predecessor on labels that arrive later."""
    if kit.rollback_asked is not None:
        why, target = kit.rollback_asked.why, kit.rollback_asked.target
        return Outcome(
            "ROLLBACK", why, {"target": target, "rollback_why": why}, record=kit.record.taken("rollback")
        )
    state, probed = cycle.facts["watch"], cycle.facts.get("probed", [])
    policy, since = kit.settings.probation, kit.promoted_at()
    if todo := kit.new_labelled_batches(exclude=probed):
        done = kit.run("probe", kit.probe_inputs(cycle.facts, todo), serial=len(probed) + 1)
        if done is None:
            return None
        state = probation.watch(state, done.result["pairs"], policy)
        decision = probation.decide(state, policy, since, kit.now)
        told = decision.facts()
        facts = {"watch": state, "probation": told, "probed": [*probed, *todo], "probe": done.result}
        record = kit.record.probe(cycle.facts, done.result)
        return Outcome("PROBATION", decision.why, facts, "watched", record, told)
    decision = probation.decide(state, policy, since, kit.now)
    told = decision.facts()
    if decision.action == "roll back":
        return Outcome("ROLLBACK", decision.why, {"probation": told, "rollback_why": decision.why}, told=told)
    if decision.action == "keep":
        return Outcome("COMPLETED", decision.why, {"probation": told}, "completed", told=told)
    return _look_for_labels(cycle, kit)


def _look_for_labels(cycle: Cycle, kit: Kit) -> Outcome | None:
    """In probation, files that arrive are frozen at once; the next cycle will judge them too."""
    taken = cycle.facts.get("intakes", 0)
    if not (kit.files_waiting or kit.has_run("intake", taken + 1)):
        return None
    done = kit.run("intake", kit.intake_inputs(), serial=taken + 1)
    if done is None:
        return None
    kit.keep_batch(done)
    why = kit.describe_intake(done.result)
    return Outcome(
        "PROBATION",
        why,
        {"intakes": taken + 1},
        record=kit.record.intake(done.result, done.out / "files.jsonl"),
    )


def rollback(cycle: Cycle, kit: Kit) -> Outcome | None:
    """Point `live` at the predecessor again, or at the newest older version that is whole."""
    target = kit.rollback_target(cycle.facts.get("target"))
    kit.flip(target)
    bad = kit.champion
    why = f"version {target} serves again in place of {bad}: {cycle.facts['rollback_why']}"
    return Outcome("ROLLED_BACK", why, {"restored": target}, "rolled back", kit.record.rollback(target))


STEPS: dict[str, Step] = {
    "QUEUED": queued, "INTAKE": intake, "ASSESS": assess, "UPDATE": update, "GATE": gate, "EXPORT": export,
    "VERIFY": verify, "APPROVAL": approval, "PROMOTE": promote, "PROBATION": watch, "ROLLBACK": rollback,
}  # fmt: skip


def advance(cycle: Cycle, kit: Kit) -> bool:
    """Take one step; True when it moved. New state, facts, event and records commit together.

    Raises:
        TransitionError: the step wanted an edge that is not in the table.
    """
    outcome = STEPS[cycle.state](cycle, kit)
    if outcome is None:
        return False
    commit(cycle, kit, outcome)
    return True


def commit(cycle: Cycle, kit: Kit, outcome: Outcome) -> None:
    """Check the edge and write it."""
    if outcome.to not in TABLE[cycle.state]:
        raise TransitionError(f"cycle {cycle.id}: no edge from {cycle.state} to {outcome.to}")
    store, now = kit.store, kit.now
    with store.transaction():
        outcome.record(store)
        facts = {**cycle.facts, **outcome.facts}
        store.move_cycle(cycle.id, outcome.to, now, facts, closed=outcome.to in CLOSED)
        store.add_event(
            now, cycle.model, outcome.kind, outcome.why, cycle.id, cycle.state, outcome.to, outcome.told
        )
    log.info("%s: cycle %d: %s -> %s: %s", cycle.model, cycle.id, cycle.state, outcome.to, outcome.why)
