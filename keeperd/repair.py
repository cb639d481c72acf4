"""`keeperd verify`: does everything on disk agree with the ledger and with its hashes?

What can be put right without choosing between two truths has a `repair`; it may be called only
while no daemon runs. Damaged data is never touched: the finding says what to do.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keeperd import versions
from keeperd.desk import SERVED
from keeperd.finding import Finding, ok, warn, wrong
from keeperd.paths import ModelPaths, StatePaths, fsync_folder
from keeperd.store import inventory
from keeperd.versions import VersionError

MOVING = {"PROMOTE", "ROLLBACK"}
"""States of a cycle in which `live` may differ from the ledger for a moment."""


def verify(db: sqlite3.Connection, paths: StatePaths, *, daemon: bool) -> Iterator[Finding]:
    """Look at everything in the state folder. Reads every byte of versions and batches.

    Args:
        daemon: one is running, so that what changes under our eyes is no fault.
    """
    damage = inventory.damage(db)
    if damage:
        yield wrong(
            f"ledger {paths.database}", "; ".join(damage[:3]), "stop keeperd and restore it from a backup"
        )
        return
    yield ok(f"ledger {paths.database}", "whole")
    for model in inventory.models(db):
        files = paths.model(model["name"])
        good: set[int] = set()
        yield from _versions(db, model, files, good)
        yield _live(model, files, good)
        yield from _batches(db, model, files)
    if not daemon:
        yield from _leftovers(db, paths)


# --- versions and the pointer ---------------------------------------------------------------------


def _versions(
    db: sqlite3.Connection, model: dict[str, Any], files: ModelPaths, good: set[int]
) -> Iterator[Finding]:
    """Every version folder against its manifest, and the manifest against the ledger; `good` is filled."""
    listed = {row["version"]: row for row in inventory.versions(db, model["name"])}
    for number, row in sorted(listed.items()):
        what, folder = f"{model['name']} version {number} ({row['state']})", files.version(number)
        if not folder.exists():
            if row["state"] in SERVED:
                yield wrong(what, f"{folder} is missing", _instead(model, number))
            continue
        try:
            versions.verify(folder, row["manifest"])
        except (VersionError, OSError) as error:
            yield wrong(what, str(error), _instead(model, number))
        else:
            good.add(number)
            yield ok(what, "as sealed")
    for folder in _inside(files.versions):
        if folder.name not in {str(number) for number in listed}:
            yield warn(
                str(folder), "the ledger knows no such version", "remove it if you do not know it either"
            )


def _instead(model: dict[str, Any], number: int) -> str:
    if number == model["champion"]:
        return f"restore it from a backup, or let another serve: keeperd rollback {model['name']}"
    return "restore it from a backup, or go without: it cannot be rolled back to"


def _live(model: dict[str, Any], files: ModelPaths, good: set[int]) -> Finding:
    """The one pointer names the ledger's champion."""
    what, champion = f"{model['name']} live", model["champion"]
    try:
        live = versions.live_version(files)
    except VersionError as error:
        return wrong(what, str(error), "move it away, then keeperd verify --repair")
    if model["open"] in MOVING:
        return ok(what, f"version {live}, about to move")
    if live == champion:
        return ok(what, "no version yet" if live is None else f"version {live}")
    found = "there is none" if live is None else f"it names version {live}"
    if champion is None:
        return wrong(what, f"{found}, the ledger has no champion", f"remove {files.live}")
    if champion not in good:
        return wrong(what, f"{found}, and the champion {champion} is damaged", _instead(model, champion))
    return wrong(
        what, f"{found}, the champion is {champion}", "keeperd verify --repair",
        lambda: versions.flip(files, champion),
    )  # fmt: skip


# --- batches --------------------------------------------------------------------------------------


def _batches(db: sqlite3.Connection, model: dict[str, Any], files: ModelPaths) -> Iterator[Finding]:
    """Every batch is a file that bears its own hash as its name."""
    listed, bad = inventory.batches(db, model["name"]), 0
    for sha in listed:
        path = files.batch(sha)
        try:
            found = versions.sha256_file(path)
        except OSError as error:
            found = error.strerror or str(error)
        if found != sha:
            bad += 1
            state = "its bytes are not those of its name" if len(found) == len(sha) else found
            yield wrong(str(path), state, "restore it from a backup; until then trainings that need it fail")
    if listed and not bad:
        yield ok(f"{model['name']} batches", f"{len(listed)} as frozen")
    known = {f"{sha}.parquet" for sha in listed}
    for path in _inside(files.batches):
        if path.suffix == ".parquet" and path.name not in known and model["open"] is None:
            # Its files were not recorded, so the next intake freezes them again.
            yield warn(
                str(path), "left by an intake that did not finish", "keeperd verify --repair", _remover(path)
            )


# --- leftovers ------------------------------------------------------------------------------------


def _leftovers(db: sqlite3.Connection, paths: StatePaths) -> Iterator[Finding]:
    """What a crash left behind: temporary files, runs that the ledger does not know, a dead socket."""
    places = [paths.folder, paths.runs]
    for model in _inside(paths.folder / "models"):
        files = ModelPaths(model)
        places += [model, files.versions, files.batches, files.quarantine]
    for place in places:
        for path in _inside(place):
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                yield warn(
                    str(path),
                    "a temporary file that nobody writes any more",
                    "keeperd verify --repair",
                    _remover(path),
                )
    known = inventory.runs(db)
    for path in _inside(paths.runs):
        if path.name.isdecimal() and int(path.name) not in known:
            yield warn(
                str(path), "a run that the ledger does not know", "keeperd verify --repair", _remover(path)
            )
    if paths.socket.is_socket():
        yield warn(
            str(paths.socket), "nobody listens there", "keeperd verify --repair", _remover(paths.socket)
        )


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _remover(path: Path) -> Callable[[], None]:
    def remove() -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        fsync_folder(path.parent)

    return remove
