"""`keeperd check`: will this configuration work on this machine? Nothing is changed.

Plugins are loaded here, in the process of the command, to see their options; the daemon never does.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from keeperd import config, plugins
from keeperd.api import JSON, KeeperdError, Reader
from keeperd.finding import Finding, ok, warn, wrong
from keeperd.paths import StatePaths
from keeperd.store import inventory, open_readonly
from keeperd.store.migrations import MIGRATIONS
from keeperd.versions import sha256_file

LEAST_FREE = 2 * 2**30
"""Bytes free in the state folder below which a training may fail."""
PACKED = {".gz", ".zst"}


def check(settings: config.Settings, path: Path) -> Iterator[Finding]:
    """Everything that can be wrong before the daemon starts, one finding a thing.

    Args:
        path: where the configuration was read from.
    """
    yield from _configuration(settings, path)
    yield from _state(StatePaths(settings.state))
    yield from _plugins(settings)
    for name, model in settings.model.items():
        yield from _model(name, model, settings)
    yield from _watched_twice(settings)


# --- surroundings ---------------------------------------------------------------------------------


def _configuration(settings: config.Settings, path: Path) -> Iterator[Finding]:
    if path.stat().st_mode & stat.S_IWOTH:
        yield wrong(str(path), "anyone may change it", f"chmod o-w {path}")
    elif not settings.model:
        yield warn(str(path), "it names no model", "add a table [model.NAME]")
    else:
        yield ok(str(path), f"models: {', '.join(sorted(settings.model))}")


def _state(paths: StatePaths) -> Iterator[Finding]:
    folder, what = paths.folder, f"state {paths.folder}"
    if not folder.exists():
        above = next(one for one in folder.parents if one.exists())
        if os.access(above, os.W_OK | os.X_OK):
            yield ok(what, "will be made")
        else:
            yield wrong(what, "is not there, and this user may not make it", "make it and give it to keeperd")
        return
    info = folder.stat()
    if not stat.S_ISDIR(info.st_mode):
        yield wrong(what, "is no folder", "move it away")
    elif info.st_uid != os.geteuid():
        yield warn(
            what,
            f"belongs to user {info.st_uid}",
            "check as that user, with its permissions: runuser -u USER -- keeperd check",
        )
    elif info.st_mode & stat.S_IWOTH:
        yield wrong(what, "anyone may write there", f"chmod o-w {folder}")
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield wrong(what, "this user may not write there", "see its owner and mode")
    elif (free := shutil.disk_usage(folder).free) < LEAST_FREE:
        yield warn(
            what,
            f"only {free / 2**30:.1f} GiB are free",
            "make room: a training needs several times the model's size",
        )
    else:
        yield ok(what, f"{free / 2**30:.0f} GiB free")
    yield from _ledger(paths.database)


def _ledger(database: Path) -> Iterator[Finding]:
    if not database.exists():
        yield ok(f"ledger {database}", "will be made")
        return
    try:
        with open_readonly(database) as ledger:
            schema, damage = inventory.schema(ledger.db), inventory.damage(ledger.db)
    except (KeeperdError, OSError, sqlite3.Error) as error:
        yield wrong(f"ledger {database}", str(error), "see its owner and mode")
        return
    if damage:
        yield wrong(f"ledger {database}", damage[0], "restore it from a backup")
    elif schema > len(MIGRATIONS):
        yield wrong(f"ledger {database}", f"written by a newer keeperd (schema {schema})", "upgrade keeperd")
    else:
        yield ok(f"ledger {database}", f"schema {schema}")


# --- plugins --------------------------------------------------------------------------------------


def _plugins(settings: config.Settings) -> Iterator[Finding]:
    """Plugins that belong to no model."""
    folder = settings.daemon.plugins
    if folder is not None and not folder.is_dir():
        yield wrong(f"plugin folder {folder}", "is not there", "make it, or remove daemon.plugins")
        return
    for name in settings.daemon.hear:
        yield _try(f"daemon.hear: {name}", partial(plugins.find, plugins.HOOK, name, folder))
    for name, notify in settings.notify.items():
        yield _loads(f"notify.{name}", "notifier", notify.plugin, notify.options, folder)


def _try(what: str, action: Callable[[], object], found: str = "") -> Finding:
    """What an action says that raises when something is wrong. A plugin may raise anything."""
    try:
        action()
    except KeeperdError as error:
        return wrong(what, str(error))
    except Exception as error:  # noqa: BLE001 - someone else's code; told, not hidden
        return wrong(what, f"{type(error).__name__}: {error}", "tell the plugin's author")
    return ok(what, found)


def _loads(
    where: str, kind: str, name: str, options: Mapping[str, JSON] | None, folder: Path | None
) -> Finding:
    return _try(f"{where}: {kind} {name}", lambda: plugins.load(kind, name, options, folder))


def _used(model: config.Model) -> Iterator[tuple[str, str]]:
    """Kind and name of every plugin that a model uses."""
    yield "task", model.task
    yield from (("filter", name) for name in model.intake.filters)
    yield from (("detector", name) for name in model.decide.detectors)
    if model.decide.report:
        yield "detector", model.decide.report
    yield "strategy", model.training.first_strategy
    yield "strategy", model.training.strategy
    yield "exporter", model.export.exporter


# --- one model ------------------------------------------------------------------------------------


def _model(name: str, model: config.Model, settings: config.Settings) -> Iterator[Finding]:
    where, folder = f"model.{name}", settings.daemon.plugins
    used = list(dict.fromkeys(_used(model)))
    loaded = {one: _loads(where, *one, model.options.get(one[1]), folder) for one in used}
    yield from loaded.values()
    for plugin in sorted(model.options.keys() - {plugin for _, plugin in used}):
        readers = {info.name for info in _installed(folder) if info.kind == "reader"}
        if plugin not in readers:
            yield warn(
                f"{where}.options.{plugin}",
                "no plugin of this name is used",
                "remove it, or see its spelling",
            )
    if loaded["task", model.task].level == "ok":
        yield _base(f"{where}.base", model, folder)
    for path in model.watch:
        yield _watched(f"{where}.watch {path}", path, settings.state)
    for key, file in (("bootstrap", model.bootstrap), ("gate.golden", model.gate.golden)):
        if file is not None:
            yield _rows_file(f"{where}.{key} {file}", file, folder)
    if model.gate.golden is not None:
        yield from _golden(name, f"{where}.gate.golden", model.gate.golden, StatePaths(settings.state))
    if model.schedule is not None:
        yield _try(f"{where}.schedule", lambda: _cron(model.schedule or ""), model.schedule)
    if model.device == "cuda" and not list(Path("/dev").glob("nvidia[0-9]*")):
        yield wrong(f"{where}.device", "there is no NVIDIA device", 'set device = "auto"')


def _installed(folder: Path | None) -> list[plugins.PluginInfo]:
    try:
        return plugins.installed(folder)
    except KeeperdError:
        return []  # told for each plugin that is used


def _base(where: str, model: config.Model, folder: Path | None) -> Finding:
    """The task itself says whether it can work with the folder."""

    def look() -> None:
        task: Any = plugins.load("task", model.task, model.options.get(model.task), folder)
        task.classes(model.base)

    return _try(f"{where} {model.base}", look)


def _watched(what: str, path: Path, state: Path) -> Finding:
    if not path.is_dir():
        return wrong(what, "no such folder", f"make it: install -d {path}")
    if not os.access(path, os.R_OK | os.X_OK):
        return wrong(what, "this user may not read it", "give keeperd's user read and search permission")
    if path.resolve().is_relative_to(state.resolve()) or state.resolve().is_relative_to(path.resolve()):
        return wrong(what, f"it and the state folder {state} lie within each other", "watch another folder")
    if path.stat().st_mode & stat.S_IWOTH:
        return warn(what, "anyone on this machine may put training data there", f"chmod o-w {path}")
    return ok(what)


def _watched_twice(settings: config.Settings) -> Iterator[Finding]:
    seen: dict[Path, str] = {}
    for name, model in settings.model.items():
        for path in model.watch:
            other = seen.setdefault(path.resolve(), name)
            if other != name:
                yield warn(
                    f"model.{name}.watch {path}",
                    f"model {other} watches it too",
                    "each will learn from all its files",
                )


def _rows_file(what: str, path: Path, folder: Path | None) -> Finding:
    """A file of rows that the operator named: there, readable, with a reader for its ending."""
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return wrong(what, "is no regular file", "name a file with rows")
            if not file.read(1):
                return wrong(what, "is empty", "name a file with rows")
    except OSError as error:
        return wrong(what, f"cannot be read: {error.strerror}", "see its path, owner and mode")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    ending = next((suffix for suffix in reversed(suffixes) if suffix not in PACKED), "")
    known = _suffixes(folder)
    if ending not in known:
        return wrong(
            what,
            f"no reader takes {ending or 'a file without an ending'}",
            f"use one of {', '.join(sorted(known))}",
        )
    return ok(what)


def _suffixes(folder: Path | None) -> set[str]:
    """File endings that some installed reader takes."""
    found: set[str] = set()
    for info in _installed(folder):
        if info.kind == "reader":
            for many in plugins.register(info).hook.keeperd_components():
                for component in many:
                    if issubclass(component, Reader):
                        found.update(component.suffixes)
    return found


def _golden(name: str, where: str, path: Path, paths: StatePaths) -> Iterator[Finding]:
    """The golden file is sealed at its first use; a changed one makes verdicts incomparable."""
    if not paths.database.exists() or not path.is_file():
        return
    try:
        with open_readonly(paths.database) as ledger:
            sealed = {row["name"]: row["golden_sha"] for row in inventory.models(ledger.db)}.get(name)
    except sqlite3.Error:
        return  # a ledger that cannot be read is a finding of its own
    if sealed is not None and sealed != sha256_file(path):
        yield warn(
            where,
            "it is not the file that earlier verdicts were given on",
            "put the old one back, or go on knowingly",
        )


def _cron(schedule: str) -> None:
    from apscheduler.triggers.cron import CronTrigger

    try:
        CronTrigger.from_crontab(schedule, timezone="UTC")
    except ValueError as error:
        raise config.ConfigError([f"found {schedule!r}: {error}; expected five fields as in cron"]) from error
