"""Immutable version folders and the one pointer `live`.

A version folder is sealed by a manifest of sha256 hashes, moved to its place by one rename, and
never changed again. `live` is one relative symbolic link, replaced by one rename. Readers open it
once and stay in the folder that it named (`resolve`).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keeperd.api import KeeperdError
from keeperd.paths import ModelPaths, fsync_folder, write_durably

MANIFEST = "manifest.json"
CHUNK = 1 << 20


class VersionError(KeeperdError):
    """A version folder is missing, incomplete or not what its manifest says."""


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[str]:
    """Relative paths of everything in the folder that is not a folder, sorted."""
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            yield path.relative_to(folder).as_posix()
        elif not stat.S_ISDIR(mode):
            raise VersionError(f"{path}: a version folder holds plain files only; remove it")


def seal(folder: Path, model: str, version: int) -> str:
    """Hash every file, make all of it durable, write the manifest last.

    Returns:
        sha256 hex of the manifest, which stands for the whole version.
    """
    files = {}
    for name in _files(folder):
        if name == MANIFEST:
            continue
        path = folder / name
        files[name] = {"sha256": sha256_file(path), "size": path.stat().st_size}
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for child in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        fsync_folder(child)
    manifest = {"model": model, "version": version, "files": files}
    write_durably(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    return sha256_file(folder / MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, or VersionError."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise VersionError(
            f"{folder}: no readable {MANIFEST} ({error}); this is no complete version"
        ) from error
    return manifest


def verify(folder: Path, manifest_sha: str | None = None) -> None:
    """Check every file against the manifest, and the manifest against the ledger's hash of it.

    Raises:
        VersionError: naming the first file that is missing, changed or does not belong.
    """
    manifest = read_manifest(folder)
    if manifest_sha is not None and sha256_file(folder / MANIFEST) != manifest_sha:
        raise VersionError(f"{folder}: {MANIFEST} is not the one that was accepted")
    found = set(_files(folder)) - {MANIFEST}
    listed = manifest["files"]
    if odd := sorted(found ^ listed.keys()):
        state = "is not in the manifest" if odd[0] in found else "is missing"
        raise VersionError(f"{folder / odd[0]}: {state}")
    for name, entry in listed.items():
        path = folder / name
        if path.stat().st_size != entry["size"] or sha256_file(path) != entry["sha256"]:
            raise VersionError(f"{path}: changed after it was sealed")


def publish(sealed: Path, target: Path) -> None:
    """Move a sealed folder to its place by one rename. Doing it again after a crash is harmless."""
    if sealed.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        sealed.rename(target)
        fsync_folder(target.parent)
        fsync_folder(sealed.parent)
    elif not target.exists():
        raise VersionError(f"{target}: neither it nor {sealed} exists")


def flip(model: ModelPaths, version: int) -> None:
    """Point `live` at a version by one rename of a fresh link."""
    target = model.version(version)
    if not (target / MANIFEST).is_file():
        raise VersionError(f"{target}: no such version")
    temporary = model.folder / ".live.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("versions") / str(version))
    temporary.rename(model.live)
    fsync_folder(model.folder)


def live_version(model: ModelPaths) -> int | None:
    """The version that `live` names, or None where there is none."""
    try:
        return int(model.live.readlink().name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise VersionError(
            f"{model.live}: not a link to a version ({error}); run `keeperd verify`"
        ) from error


def resolve(model: ModelPaths) -> Path:
    """The champion's folder, looked up once: read everything below the result, never through
    `live` again, or files of two versions may mix.

    Raises:
        VersionError: there is no champion yet.
    """
    version = live_version(model)
    if version is None:
        raise VersionError(f"{model.live}: no champion yet; run `keeperd init {model.folder.name}`")
    return model.version(version)
