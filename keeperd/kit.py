"""What a step of the cycle may touch: runs, the model's files, the ledger's present, and records.

One `Kit` is made for one look at one cycle. Whatever it changes on disk may be done twice.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from keeperd import config, drift, versions
from keeperd.api import JSON
from keeperd.clock import Clock
from keeperd.paths import ModelPaths, fsync_folder
from keeperd.records import Records
from keeperd.runs import Runs
from keeperd.store import Cycle, Store, Trigger
from keeperd.versions import VersionError

WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Done:
    """A run that succeeded."""

    run: int
    result: dict[str, JSON]
    out: Path


class Kit:
    """The ports of one cycle's steps."""

    def __init__(self, store: Store, runs: Runs, settings: config.Model, cycle: Cycle, clock: Clock) -> None:
        self.store = store
        self.settings = settings
        self.now = clock.now()
        self.files: ModelPaths = runs.paths.model(cycle.model)
        self._runs = runs
        self._cycle = cycle
        row = store.model(cycle.model)
        self.champion: int | None = row["champion"]
        self.predecessor: int | None = row["predecessor"]
        self.paused: str | None = row["paused"]
        self._states = row["states"]
        self._golden: str | None = row["golden_sha"]
        self.record = Records(cycle, self.champion, self.now)

    # --- runs ---

    def run(self, kind: str, inputs: Mapping[str, JSON], serial: int = 0) -> Done | None:
        """The result of a worker's run, or None while it works; started once."""
        done = self._runs.ensure(self._cycle.id, self._cycle.model, kind, inputs, serial)
        if done is None:
            return None
        number, result = done
        return Done(number, result, self._runs.paths.run(number) / "out")

    def has_run(self, kind: str, serial: int) -> bool:
        """True when this run was started already."""
        return self.store.last_run(self._cycle.id, f"{kind}.{serial}") is not None

    @staticmethod
    def folder(done: Done, name: str) -> str:
        """A folder that a run made, as later runs are told of it."""
        return str(done.out / name)

    # --- what runs are told ---

    def intake_inputs(self) -> dict[str, JSON]:
        """First the bootstrap file, where there is no champion and one is configured."""
        bootstrap = self.settings.bootstrap if self.champion is None else None
        return {
            "folders": [str(folder) for folder in self.settings.watch],
            "bootstrap": str(bootstrap) if bootstrap else None,
            "champion": self.champion,
            "settle_s": self._runs.settings.daemon.settle.total_seconds(),
            "now": self.now.timestamp(),
            "batches": [batch.sha for batch in self.store.batches(self._cycle.model)],
        }

    def assess_inputs(self, window: Sequence[str]) -> dict[str, JSON]:
        """The window and each detector's state."""
        return {
            "champion": self.champion,
            "batches": list(window),
            "states": self._states,
            "cycle": self._cycle.id,
            "now": self.now.date().isoformat(),
        }

    def train_inputs(self) -> dict[str, JSON]:
        """All that was not trained on yet: the window and earlier batches that were left alone."""
        first = self.champion is None
        training = self.settings.training
        batches = self.store.batches(self._cycle.model, "new", "judged")
        return {
            "version": self.record.candidate_number(self.store),
            "champion": self.champion,
            "batches": [batch.sha for batch in batches],
            "strategy": training.first_strategy if first else training.strategy,
            "cycle": self._cycle.id,
        }

    def gate_inputs(self, facts: Mapping[str, JSON]) -> dict[str, JSON]:
        """The candidate, and the window whose held-out rows are the new data."""
        return {
            "champion": self.champion,
            "candidate": facts["candidate"],
            "batches": facts["batches"],
            "golden_sha": self._golden,
            "golden_accesses": self.store.count_runs(self._cycle.model, "gate"),
        }

    @staticmethod
    def export_inputs(facts: Mapping[str, JSON]) -> dict[str, JSON]:
        """The candidate, by folder and by hash: what the gate judged, and nothing put in its place."""
        return {"candidate": facts["candidate"], "manifest": facts["train"]["manifest"]}

    def verify_inputs(self, facts: Mapping[str, JSON]) -> dict[str, JSON]:
        """The candidate and its artefacts."""
        return {
            **self.export_inputs(facts),
            "version": facts["version"],
            "export": facts["exported"],
            "verdict": facts["gate"],
            "batches": facts["batches"],
        }

    def probe_inputs(self, facts: Mapping[str, JSON], batches: Sequence[str]) -> dict[str, JSON]:
        """Champion and predecessor, and labelled rows that neither has seen."""
        return {"champion": facts["version"], "predecessor": facts["predecessor"], "batches": list(batches)}

    def history(self) -> drift.History:
        """What the decision needs to know of the past."""
        updates = self.store.updates_since(self._cycle.model, self.now - WEEK)
        window = set(self._cycle.facts.get("batches", ()))
        earlier = [one for one in self.store.batches(self._cycle.model, "judged") if one.sha not in window]
        return drift.History(
            now=self.now,
            last_update=updates[-1] if updates else None,
            updates_in_week=len(updates),
            trigger=self._cycle.trigger,
            labelled_before=sum(one.labelled for one in earlier),
        )

    # --- batches ---

    def keep_batch(self, done: Done) -> None:
        """Move a run's frozen batch, and its list of refused rows, to where they stay."""
        if done.result["batch"]:
            _move(done.out / "batch.parquet", self.files.batch(done.result["batch"]))
        _move(done.out / "quarantine.jsonl", self.files.quarantine / f"{done.run}.jsonl")

    def window_with(self, batch: str | None) -> list[str]:
        """Batches that wait to be judged, oldest first, and the one that is about to join them. Where the
        operator asks for an update, also those that were judged and left alone."""
        states = ("new", "judged") if self._cycle.trigger == "manual" else ("new",)
        waiting = [one.sha for one in self.store.batches(self._cycle.model, *states)]
        return waiting if batch is None or batch in waiting else [*waiting, batch]

    def new_labelled_batches(self, exclude: Sequence[str]) -> list[str]:
        """Batches with labels that arrived after the promotion."""
        batches = self.store.batches(self._cycle.model, "new")
        return [batch.sha for batch in batches if batch.labelled and batch.sha not in exclude]

    @staticmethod
    def describe_intake(result: Mapping[str, JSON]) -> str:
        """One line: what came in and what was refused."""
        files = result["files"]
        parts = [f"{result['rows']} rows ({result['labelled']} labelled) from {files['accepted']} files"]
        parts += [f"{files['quarantined']} files refused"] if files["quarantined"] else []
        for key, words in (
            ("bad_rows", "rows refused"),
            ("duplicates", "duplicates"),
            ("near_duplicates", "near duplicates"),
            ("leaks", "rows of the test sets kept out"),
            ("late_labels", "late labels"),
        ):
            parts += [f"{result[key]} {words}"] if result[key] else []
        return ", ".join(parts)

    def keep_report(self, done: Done) -> str | None:
        """Move the HTML and figures of an assessment to the reports."""
        target = self._runs.paths.report(self._cycle.id)
        _move(done.out / "report", target)
        return str(target) if target.exists() else None

    # --- versions ---

    def go_live(self, version: int, sealed: str, manifest: str) -> None:
        """Publish the sealed folder, check every byte of it, and move the pointer."""
        folder = self.files.version(version)
        versions.publish(Path(sealed), folder)
        versions.verify(folder, manifest)
        self.flip(version)

    def flip(self, version: int) -> None:
        """Move the pointer."""
        versions.flip(self.files, version)

    def rollback_target(self, wanted: int | None) -> int:
        """The version to go back to: the one asked for, else the predecessor, else the newest
        older version that served once; the first of these whose bytes are all as accepted.

        Raises:
            VersionError: none is whole; the champion stays.
        """
        rows = {row["version"]: row for row in self.store.versions(self._cycle.model)}
        older = [n for n in sorted(rows, reverse=True) if rows[n]["state"] == "retired"]
        wishes = [wanted] if wanted is not None else [self.predecessor, *older]
        problems = []
        for number in dict.fromkeys(n for n in wishes if n is not None):
            try:
                versions.verify(
                    self.files.version(number), rows[number]["manifest"] if number in rows else ""
                )
            except VersionError as error:
                problems.append(str(error))
                continue
            return number
        raise VersionError(f"no version to go back to: {'; '.join(problems) or 'there was none before'}")

    # --- probation ---

    @property
    def rollback_asked(self) -> Trigger | None:
        """A rollback that the operator asked for and that nobody has dealt with yet."""
        asked = [one for one in self.store.pending_triggers(self._cycle.model) if one.kind == "rollback"]
        return asked[0] if asked else None

    @property
    def files_waiting(self) -> bool:
        """True when new files were seen and not taken in yet."""
        return any(one.kind == "files" for one in self.store.pending_triggers(self._cycle.model))

    def promoted_at(self) -> datetime:
        """When the candidate went live."""
        return datetime.fromisoformat(self._cycle.facts["promoted_at"])


def _move(source: Path, target: Path) -> None:
    """Rename into place and make it durable; nothing to do where it was done before."""
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    else:
        with source.open("rb") as file:
            os.fsync(file.fileno())
    source.rename(target)
    fsync_folder(target.parent)
