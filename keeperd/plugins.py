"""Finding plugins by name without importing them, and loading exactly one.

An installed plugin is an entry point of group `keeperd.plugins` named KIND.NAME ("strategy.full"),
or hook.NAME for a module that only hears events. A dropped-in plugin is one file KIND_NAME.py
(hyphens as underscores) in the configured plugin folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from pydantic import ValidationError

from keeperd.api import ENTRY_POINT_GROUP, JSON, KEEPERD_API, KINDS, Component, Hooks, PluginError
from keeperd.config import explain

HOOK = "hook"


@dataclass(frozen=True)
class PluginInfo:
    """One plugin, as its metadata names it."""

    kind: str
    name: str
    module: str
    source: str
    """Distribution and version, or "file"."""
    sha256: str | None = None
    """Of a dropped-in file."""


def installed(folder: Path | None = None) -> list[PluginInfo]:
    """All plugins, sorted by kind and name; nothing is imported.

    Raises:
        PluginError: the plugin folder cannot be trusted, or two plugins have one name.
    """
    found = [_from_entry_point(point) for point in entry_points(group=ENTRY_POINT_GROUP)]
    if folder is not None:
        found += [_from_file(path) for path in sorted(folder.glob("*.py"))]
    found = sorted(set(found), key=lambda info: (info.kind, info.name))
    for one, other in itertools.pairwise(found):
        if (one.kind, one.name) == (other.kind, other.name):
            raise PluginError(
                f"plugins: {one.kind} {one.name!r} is given twice: {one.module} ({one.source})"
                f" and {other.module} ({other.source}); remove one"
            )
    return found


def _from_entry_point(point: EntryPoint) -> PluginInfo:
    kind, dot, name = point.name.partition(".")
    if not dot or kind not in {*KINDS, HOOK}:
        raise PluginError(
            f"entry point {point.name!r} ({point.value}): name it KIND.NAME, such as strategy.{point.name}"
        )
    return PluginInfo(kind, name, point.value, _source(point.dist) if point.dist else "unknown")


@lru_cache(maxsize=64)
def _source(distribution: Distribution) -> str:
    """Its name and version. Both are read from its whole description, which takes milliseconds, and one
    distribution has many plugins."""
    metadata = distribution.metadata
    return f"{metadata['Name']} {metadata['Version']}"


def _from_file(path: Path) -> PluginInfo:
    check_trusted(path)
    kind, underscore, name = path.stem.partition("_")
    if not underscore or kind not in {*KINDS, HOOK}:
        raise PluginError(f"{path}: name it KIND_NAME.py, such as detector_{path.stem}.py")
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    return PluginInfo(kind, name.replace("_", "-"), str(path), "file", sha)


def check_trusted(path: Path) -> None:
    """Refuse a plugin that someone else could have put there or can change.

    Raises:
        PluginError: the file, or a folder above it, is not owned by root or by this user, or is
            writable by others (a sticky folder such as /tmp protects what lies in it).
    """
    for place in (path, *path.parents):
        info = place.lstat()
        if stat.S_ISLNK(info.st_mode):
            raise PluginError(f"{place}: a plugin is not loaded through a symbolic link; name its real place")
        if info.st_uid not in {0, os.geteuid()}:
            raise PluginError(f"{place}: belongs to user {info.st_uid}; make it root's or keeperd's own")
        writable = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if writable and not (stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX):
            raise PluginError(f"{place}: can be changed by others; chmod go-w {place}")


def find(kind: str, name: str, folder: Path | None = None) -> PluginInfo:
    """The plugin of this kind and name.

    Raises:
        PluginError: there is none; the message names those that there are.
    """
    plugins = [info for info in installed(folder) if info.kind == kind]
    for info in plugins:
        if info.name == name:
            return info
    known = ", ".join(info.name for info in plugins) or "none"
    raise PluginError(f"no {kind} plugin {name!r}; installed: {known}")


def _import(info: PluginInfo) -> ModuleType:
    if info.source != "file":
        return importlib.import_module(info.module)
    path = Path(info.module)
    check_trusted(path)
    spec = importlib.util.spec_from_file_location(f"keeperd_dropped.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def register(info: PluginInfo) -> pluggy.PluginManager:
    """Import one plugin and register it alone; its hooks are checked against the specification.

    Raises:
        PluginError: it cannot be imported, or has hooks that keeperd does not know.
    """
    manager = pluggy.PluginManager("keeperd")
    manager.add_hookspecs(Hooks)
    try:
        manager.register(_import(info), name=f"{info.kind}.{info.name}")
        manager.check_pending()
    except Exception as error:  # whatever a module does at import, it is the plugin's fault
        raise PluginError(f"plugin {info.module}: {type(error).__name__}: {error}") from error
    return manager


def load(
    kind: str, name: str, options: Mapping[str, JSON] | None = None, folder: Path | None = None
) -> Component[Any]:
    """Import the one plugin that offers this component, and make it with these options.

    Raises:
        PluginError: no such component, another API version, or options that it refuses.
    """
    info = find(kind, name, folder)
    classes = [one for many in register(info).hook.keeperd_components() for one in many]
    for component in classes:
        if component.kind == kind and component.name == name:
            break
    else:
        offered = ", ".join(f"{one.kind} {one.name}" for one in classes) or "nothing"
        raise PluginError(f"plugin {info.module}: promises {kind} {name!r} but offers {offered}")
    if component.api != KEEPERD_API:
        raise PluginError(
            f"plugin {info.module}: written for API {component.api}, this keeperd has {KEEPERD_API}"
        )
    try:
        made: Component[Any] = component(component.Options.model_validate(dict(options or {})))
    except ValidationError as error:
        raise PluginError("; ".join(f"options.{name}.{line}" for line in explain(error))) from error
    return made
