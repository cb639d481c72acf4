"""What a step leaves in the ledger besides its state: closures that `cycle.commit` runs inside
the one transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from keeperd import drift
from keeperd.api import JSON
from keeperd.store import Cycle, Store

Record = Callable[[Store], None]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


class Records:
    """Writes that belong to one cycle."""

    def __init__(self, cycle: Cycle, champion: int | None, now: datetime) -> None:
        self._cycle = cycle
        self._model = cycle.model
        self._champion = champion
        self._now = now

    def candidate_number(self, store: Store) -> int:
        """The version number that this cycle's candidate bears."""
        return store.add_version(self._model, self._cycle.id, self._champion, self._now)

    def candidate(self) -> Record:
        """Reserve a version number."""

        def write(store: Store) -> None:
            self.candidate_number(store)

        return write

    def intake(self, result: Mapping[str, JSON], files: Path) -> Record:
        """The batch, every file of it, and the triggers that asked for it."""

        def write(store: Store) -> None:
            batch = result["batch"]
            if batch:
                store.add_batch(
                    self._model, batch, self._cycle.id, self._now, result["rows"], result["labelled"]
                )
            if files.exists():
                store.add_files(self._model, self._cycle.id, batch, _lines(files))
            self._take(store, "files")

        return write

    def assessment(self, report: Mapping[str, JSON], decision: drift.Decision, window: list[str]) -> Record:
        """The detectors' states, the champion's measured accuracy, and what becomes of the window."""

        def write(store: Store) -> None:
            store.set_model(self._model, states=report["states"])
            harm = report["harm"]
            if self._champion is not None and harm["how"] == "labels" and harm["accuracy"] is not None:
                store.measure(
                    self._model, self._champion, self._now, "labels", harm["rows"], accuracy=harm["accuracy"]
                )
            if decision.action == "update":
                self.candidate_number(store)
            elif decision.action == "suspect":
                store.mark_batches(self._model, window, "suspect")
            elif decision.action != "wait":
                store.mark_batches(self._model, window, "judged")

        return write

    def golden(self, verdict: Mapping[str, JSON]) -> Record:
        """Seal the golden set at its first use."""

        def write(store: Store) -> None:
            if verdict.get("golden_sha"):
                store.set_model(self._model, golden_sha=verdict["golden_sha"])

        return write

    def rejection(self, version: int, window: list[str], verdict: Mapping[str, JSON] | None = None) -> Record:
        """A refused candidate. Batches that made a harmful one are not trained on again; others
        may still help together with later ones."""
        harmful = verdict is not None and verdict["harmful"]

        def write(store: Store) -> None:
            store.set_version(self._model, version, "rejected")
            store.mark_batches(self._model, window, "rejected" if harmful else "judged")
            if verdict is not None:
                self.golden(verdict)(store)

        return write

    def failure(self) -> Record:
        """A cycle that was given up; its batches stay as they are, to be judged again."""

        def write(store: Store) -> None:
            for row in store.versions(self._model):
                if row["cycle"] == self._cycle.id and row["state"] == "candidate":
                    store.set_version(self._model, row["version"], "rejected")

        return write

    def promotion(self, facts: Mapping[str, JSON]) -> Record:
        """The new champion, what it was trained on, and what it was measured at."""

        def write(store: Store) -> None:
            version, parity = facts["version"], facts["verify"]
            if self._champion is not None:
                store.set_version(self._model, self._champion, "retired")
            store.set_version(self._model, version, "champion", parity["manifest"])
            store.set_model(self._model, champion=version, predecessor=self._champion, states={})
            store.mark_batches(self._model, facts["train"]["batches"], "trained", version)
            chosen = next(one for one in parity["artefacts"] if one["file"] == parity["chosen"])
            store.measure(
                self._model, version, self._now, "verify", parity["rows"], chosen["metric"], chosen["p50_ms"]
            )

        return write

    def probe(self, facts: Mapping[str, JSON], result: Mapping[str, JSON]) -> Record:
        """Accuracy of champion and predecessor on labels that arrived later."""

        def write(store: Store) -> None:
            for role, version in (("champion", facts["version"]), ("predecessor", facts["predecessor"])):
                accuracy = result[role].get("accuracy")
                if accuracy is not None:
                    store.measure(self._model, version, self._now, "labels", result["rows"], accuracy)

        return write

    def rollback(self, target: int) -> Record:
        """The restored champion; the withdrawn version and the batches behind it are marked."""

        def write(store: Store) -> None:
            withdrawn = self._champion
            older = [row["version"] for row in store.versions(self._model) if row["state"] == "retired"]
            before = max((number for number in older if number < target), default=None)
            if withdrawn is not None and withdrawn != target:
                store.set_version(self._model, withdrawn, "rolled back")
                store.mark_batches(self._model, store.batches_of_version(self._model, withdrawn), "bad")
            store.set_version(self._model, target, "champion")
            store.set_model(self._model, champion=target, predecessor=before, states={})
            self._take(store, "rollback")

        return write

    def taken(self, kind: str) -> Record:
        """Triggers of this kind are dealt with."""
        return lambda store: self._take(store, kind)

    def _take(self, store: Store, kind: str) -> None:
        waiting = store.pending_triggers(self._model)
        store.take_triggers(self._cycle.id, [one.id for one in waiting if one.kind == kind])
