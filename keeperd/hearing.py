"""Event hooks of plugins: each configured hook hears every event, in order, in a worker of its own.

A hook that fails is passed over; after so many failures in a row it is left out until the daemon
starts again. Nothing that it does can hold up another hook or a cycle.
"""

from __future__ import annotations

import logging

from keeperd.config import Settings
from keeperd.runs import RunFailedError, Runs
from keeperd.store import Store

log = logging.getLogger("keeperd.hearing")


class Hearing:
    """How far each hook has got."""

    def __init__(self, store: Store, runs: Runs) -> None:
        self._store = store
        self._runs = runs
        self._failures: dict[str, int] = {}

    def push(self, settings: Settings) -> None:
        """Start what is due and see what became of what is under way; never waits."""
        for plugin in settings.daemon.hear:
            if self._failures.get(plugin, 0) < settings.daemon.plugin_failures:
                self._next(plugin, settings)

    def _next(self, plugin: str, settings: Settings) -> None:
        event = self._store.next_to_hear(plugin)
        if event is None:
            return
        if event["model"] in settings.model:
            inputs = {"plugin": plugin, "event": event}
            try:
                done = self._runs.ensure(0, event["model"], "hear", inputs, serial=f"{plugin}.{event['id']}")
            except RunFailedError as error:
                self._failed(plugin, error, settings)
            else:
                if done is None:
                    return
                self._failures[plugin] = 0
        self._store.set_heard(plugin, event["id"])

    def _failed(self, plugin: str, error: RunFailedError, settings: Settings) -> None:
        self._failures[plugin] = self._failures.get(plugin, 0) + 1
        log.warning("event hook %s: %s", plugin, error)
        if self._failures[plugin] == settings.daemon.plugin_failures:
            log.error("event hook %s failed %d times in a row; left out", plugin, self._failures[plugin])
