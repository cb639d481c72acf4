"""Version folders: sealed, checked, published and pointed at."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeperd import versions
from keeperd.paths import ModelPaths
from keeperd.versions import VersionError


def sealed(folder: Path, text: str = "weights", number: int = 1) -> str:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "w").write_text(text)
    (folder / "lineage.json").write_text("{}")
    return versions.seal(folder, "m", number)


def test_a_sealed_folder_verifies_and_its_hash_stands_for_it(tmp_path: Path) -> None:
    sha = sealed(tmp_path / "v")
    versions.verify(tmp_path / "v", sha)
    assert sorted(versions.read_manifest(tmp_path / "v")["files"]) == ["lineage.json", "model/w"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda v: (v / "model" / "w").write_text("weightz"), "model/w: changed"),
        (lambda v: (v / "model" / "w").unlink(), "model/w: is missing"),
        (lambda v: (v / "model" / "new").write_text("x"), "model/new: is not in the manifest"),
        (lambda v: (v / "model" / "link").symlink_to("/etc/passwd"), "plain files only"),
        (lambda v: (v / "manifest.json").write_text("{"), "no readable manifest"),
        (lambda v: (v / "manifest.json").unlink(), "no readable manifest"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage, said: str) -> None:  # type: ignore[no-untyped-def]
    sealed(tmp_path / "v")
    damage(tmp_path / "v")
    with pytest.raises(VersionError, match=said):
        versions.verify(tmp_path / "v")


def test_a_swapped_manifest_is_noticed(tmp_path: Path) -> None:
    sha = sealed(tmp_path / "v")
    other = sealed(tmp_path / "w", "other weights")
    assert sha != other
    with pytest.raises(VersionError, match="not the one that was accepted"):
        versions.verify(tmp_path / "w", sha)


def test_publish_and_flip_may_be_repeated(tmp_path: Path) -> None:
    files = ModelPaths(tmp_path / "m")
    sealed(tmp_path / "run1", "one", 1)
    sealed(tmp_path / "run2", "two", 2)
    for _ in range(2):
        versions.publish(tmp_path / "run1", files.version(1))
        versions.flip(files, 1)
    assert versions.live_version(files) == 1
    held = versions.resolve(files)
    versions.publish(tmp_path / "run2", files.version(2))
    versions.flip(files, 2)
    assert (held / "model" / "w").read_text() == "one", "a reader stays in the folder that it opened"
    assert (versions.resolve(files) / "model" / "w").read_text() == "two"
    assert not list(files.folder.glob(".live*"))


def test_flip_refuses_a_version_that_is_not_there(tmp_path: Path) -> None:
    files = ModelPaths(tmp_path / "m")
    files.folder.mkdir()
    with pytest.raises(VersionError, match="no such version"):
        versions.flip(files, 3)
    assert versions.live_version(files) is None
    with pytest.raises(VersionError, match="keeperd init m"):
        versions.resolve(files)


def test_publish_without_source_or_target_says_so(tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="neither it nor"):
        versions.publish(tmp_path / "gone", tmp_path / "versions" / "1")
