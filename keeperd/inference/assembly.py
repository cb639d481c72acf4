"""Candidate + accepted artefacts -> a version folder, with what is copied proven to be what was judged."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from keeperd import versions
from keeperd.versions import VersionError


def begin(candidate: Path, export: Path, artefacts: Mapping[str, str], target: Path) -> None:
    """Copy the candidate and the artefacts into a new folder. Bytes are copied, never linked: a hard
    link would let the run folder change a version.

    Args:
        candidate: sealed folder of the train run.
        export: folder of the artefacts.
        artefacts: names below `export` of those that are kept -> sha256 hex.
        target: does not exist yet.
    """
    for name in versions.read_manifest(candidate)["files"]:
        _copy(candidate / name, target / name)
    for name in artefacts:
        _copy(export / name, target / "onnx" / name)


def finish(candidate: Path, artefacts: Mapping[str, str], target: Path, model: str, version: int) -> str:
    """Seal the folder.

    Returns:
        sha256 hex of its manifest.

    Raises:
        VersionError: a file changed between its judging and its copying.
    """
    manifest = versions.seal(target, model, version)
    sealed = versions.read_manifest(target)["files"]
    expected = {name: entry["sha256"] for name, entry in versions.read_manifest(candidate)["files"].items()}
    expected |= {f"onnx/{name}": sha for name, sha in artefacts.items()}
    for name, sha in expected.items():
        if sealed.get(name, {}).get("sha256") != sha:
            raise VersionError(f"{candidate}: {name} changed while the version was assembled; start again")
    return manifest


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target, follow_symlinks=False)
