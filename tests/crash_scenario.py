"""A whole life of one model that may be killed anywhere and goes on from what is on disk.

Version 1, a window that is left alone, an update to version 2 that is kept, one to version 3 that
is rolled back. `play` goes on from wherever an earlier one was killed. Run by hand:
`python -m tests.crash_scenario FOLDER`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keeperd import config, versions
from keeperd.engine import Engine
from keeperd.store import Store
from tests import fakes
from tests.fakes import FakeClock, FakeRuns

DROPS = ("0", "1", "2", "3", "4", "5")
"""Files in order: bootstrap, nothing, drift, labels that keep, drift, labels that roll back."""


class Killer:
    """Kills this process at the n-th point, counted from 1; 0 only counts."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class CountedStore(Store):
    """The real ledger, with a point before and after each commit."""

    point: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        outermost = self._depth == 0
        with super().transaction():
            yield
            if outermost:
                self.point()
        if outermost:
            self.point()


class Scripted(FakeRuns):
    """Runs that answer by what lies in the watched folder and in the ledger, as real ones would."""

    point: Callable[[], None] = staticmethod(lambda: None)

    def ensure(
        self, cycle: int, model: str, kind: str, inputs: Mapping[str, Any], serial: int | str = 0
    ) -> tuple[int, dict[str, Any]] | None:
        self.point()
        self.answers[kind] = [getattr(self, f"_{kind}")(inputs)]
        done = super().ensure(cycle, model, kind, inputs, int(serial))
        self.point()
        return done

    def next_drop(self) -> str | None:
        known = self.store.known_files("m")
        return next((one for one in DROPS if not known.has_content(one * 64)), None)

    def _intake(self, inputs: Mapping[str, Any]) -> Any:
        drop = self.next_drop()
        return fakes.nothing_new() if drop is None else fakes.intake(drop * 64)

    def _assess(self, inputs: Mapping[str, Any]) -> Any:
        return fakes.report(drifted=inputs["batches"][-1][0] != "1")

    def _train(self, inputs: Mapping[str, Any]) -> Any:
        return fakes.train

    def _gate(self, inputs: Mapping[str, Any]) -> Any:
        return fakes.verdict()

    def _export(self, inputs: Mapping[str, Any]) -> Any:
        return fakes.exported

    def _verify(self, inputs: Mapping[str, Any]) -> Any:
        return fakes.parity()

    def _probe(self, inputs: Mapping[str, Any]) -> Any:
        return fakes.probe("p" * 100 if inputs["champion"] >= 3 else "b" * 300)

    def recover(self) -> None:
        for run in self.store.open_runs():
            self.store.end_run(run.id, "failed", FakeClock().now(), "interrupted")


def settings(folder: Path) -> config.Settings:
    model = {"base": "/base", "watch": ["/in"], "decide": {"cooldown": 0}}
    return config.Settings.model_validate({"state": str(folder), "model": {"m": model}})


def play(folder: Path, kill_at: int = 0) -> int:
    """Go on with the story until its end, or until the kill. Returns the number of points passed."""
    point = Killer(kill_at)
    folder.mkdir(exist_ok=True)
    store = CountedStore(folder / "keeperd.db")
    engine = Engine(settings(folder), store, FakeClock())
    runs = Scripted(store, engine.settings)
    engine.runs = runs  # type: ignore[assignment]
    store.point = runs.point = point
    flip, publish = versions.flip, versions.publish

    def counted_flip(*args: Any) -> None:
        point()
        flip(*args)
        point()

    def counted_publish(*args: Any) -> None:
        point()
        publish(*args)
        point()

    versions.flip, versions.publish = counted_flip, counted_publish
    try:
        engine.start()
        for _ in range(500):
            if engine.tick():
                continue
            if runs.next_drop() is None:
                break
            store.add_trigger("m", "files", "a rescan found a file", FakeClock().now())
        else:
            raise AssertionError("the story does not end")
    finally:
        versions.flip, versions.publish = flip, publish
        store.close()
    return point.count


if __name__ == "__main__":
    play(Path(sys.argv[1]))
