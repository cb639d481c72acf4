"""Watched folders full of traps: what is taken, refused, left waiting, and why."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keeperd import intake
from keeperd.folders import Found, Opener, UnreadableError
from tests.intake_kit import Box, MemoryLedger

HIDDEN = "the secret of the house"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


# --- what is looked at ----------------------------------------------------------------------------


def test_folders_are_searched_to_the_bottom_and_in_the_order_of_paths(box: Box) -> None:
    box.put("b.txt", "second")
    box.put("a/x/y/z.txt", "first")
    box.put("c/1.txt", "third")
    box.run()
    assert box.texts() == ["first", "second", "third"]
    assert [entry["rows"] for entry in box.files.values()] == [1, 1, 1]


@pytest.mark.parametrize(
    "name", [".hidden.txt", "a.txt.tmp", "a.txt.part", "a.txt~", ".folder/a.txt", "A.TXT.PART"]
)
def test_unfinished_and_hidden_files_are_not_seen(box: Box, name: str) -> None:
    box.put(name, "not yet")
    assert box.scan().files == []
    assert box.scan().waiting == 0


def test_a_file_must_have_settled(box: Box) -> None:
    path = box.put("a.txt", "hello")
    written = path.stat().st_mtime
    assert (
        box.scan(settle_s=5, now=written + 4.9).files,
        box.scan(settle_s=5, now=written + 4.9).waiting,
    ) == ([], 1)
    assert len(box.scan(settle_s=5, now=written + 5.1).files) == 1


def test_a_time_from_the_future_does_not_keep_a_file_waiting(box: Box) -> None:
    path = box.put("a.txt", "hello")
    os.utime(path, (time.time() + 10**8, time.time() + 10**8))
    assert len(box.scan(settle_s=5, now=time.time() + 6).files) == 1


def test_a_file_being_published_by_link_and_unlink_waits(box: Box) -> None:
    path = box.put("a.txt.tmp", "hello")
    os.utime(path, (1, 1))
    os.link(path, box.drop / "a.txt")
    assert box.scan(settle_s=5, now=time.time() + 1).waiting == 1
    path.unlink()
    assert box.run(box.scan(settle_s=5, now=time.time() + 6))["rows"] == 1


def test_a_missing_folder_is_a_problem_and_no_error(box: Box) -> None:
    box.put("a.txt", "hello")
    missing = str(box.folder / "gone")
    found = intake.scan([missing, str(box.drop)], box.ledger, time.time() + 1, 0)
    assert len(found.files) == 1
    assert found.problems == [f"{missing}: No such file or directory; nothing is taken from this folder"]


def test_overlapping_folders_give_each_file_once(box: Box) -> None:
    box.put("inner/a.txt", "hello")
    found = intake.scan([str(box.drop), str(box.drop / "inner")], box.ledger, time.time() + 1, 0)
    assert len(found.files) == 1


def test_a_name_that_is_not_utf8_is_taken_and_told(box: Box) -> None:
    path = os.path.join(os.fsencode(box.drop), b"caf\xe9\n.txt")  # noqa: PTH118 - bytes
    with open(path, "wb") as file:  # noqa: PTH123 - bytes
        file.write(b"hello")
    assert box.run()["rows"] == 1
    assert list(box.files) == ["caf\\xe9\n.txt"]
    assert box.scan().files == []


# --- traps ----------------------------------------------------------------------------------------


def refused(box: Box) -> dict[str, str]:
    """File -> reason; and nothing but the harmless file was taken."""
    box.put("harmless.txt", "harmless")
    result = box.run()
    assert box.texts() == ["harmless"]
    assert result["files"]["quarantined"] == len(box.quarantine)
    assert HIDDEN not in str(box.files)
    return {name: entry["reason"] for name, entry in box.files.items() if entry["status"] == "quarantined"}


def test_links_are_refused_and_linked_folders_not_entered(box: Box) -> None:
    secrets = box.folder / "secrets"
    secrets.mkdir()
    (secrets / "passwords.txt").write_text(HIDDEN)
    (box.drop / "link.txt").symlink_to(secrets / "passwords.txt")
    (box.drop / "dangling.txt").symlink_to(box.folder / "nowhere")
    (box.drop / "folder").symlink_to(secrets)
    os.link(secrets / "passwords.txt", box.drop / "hard.txt")
    reasons = refused(box)
    assert set(reasons) == {"link.txt", "dangling.txt", "folder", "hard.txt"}
    assert all("symbolic link" in reasons[name] for name in ("link.txt", "dangling.txt", "folder"))
    assert "hard link" in reasons["hard.txt"]
    assert box.scan().files == []  # known now, and not told of again


def test_pipes_sockets_and_devices_are_refused_without_blocking(box: Box) -> None:
    os.mkfifo(box.drop / "pipe.txt")
    os.mknod(box.drop / "socket.txt", stat.S_IFSOCK | 0o666)
    names = {"pipe.txt", "socket.txt"}
    if os.geteuid() == 0:
        os.mknod(box.drop / "null.txt", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        names.add("null.txt")
    assert refused(box) == dict.fromkeys(names, "not a regular file")


def test_setuid_files_are_refused_and_open_modes_are_not(box: Box) -> None:
    box.put("setuid.txt", HIDDEN).chmod(0o4755)
    box.put("setgid.txt", HIDDEN).chmod(0o2755)
    box.put("open.txt", "harmless").chmod(0o777)
    assert set(refused(box)) == {"setuid.txt", "setgid.txt"}


def swapped(box: Box, swap: str) -> None:
    """What an attacker does between the look and the reading."""
    path, secret = box.drop / "sub" / "a.txt", box.folder / "secrets" / "a.txt"
    secret.parent.mkdir()
    secret.write_text(HIDDEN)
    if swap == "folder":
        path.parent.rename(box.folder / "moved")
        (box.drop / "sub").symlink_to(secret.parent)
        return
    path.unlink()
    if swap == "link":
        path.symlink_to(secret)
    elif swap == "pipe":
        os.mkfifo(path)
    elif swap == "hard link":
        os.link(secret, path)
    elif swap == "other file":
        path.write_text(HIDDEN)


@pytest.mark.parametrize("swap", ["link", "pipe", "hard link", "other file", "folder", "gone"])
def test_a_file_swapped_after_the_look_is_not_read(box: Box, swap: str) -> None:
    box.put("sub/a.txt", "harmless")
    found = box.scan()
    swapped(box, swap)
    result = box.run(found)
    assert result["batch"] is None
    assert result["files"]["accepted"] == 0
    assert result["files"]["waiting"] + result["files"]["quarantined"] == 1


def test_a_file_that_grows_while_it_is_read_waits(box: Box) -> None:
    path = box.put("a.txt", "hello")
    found = box.scan()
    path.write_text("hello and more")
    result = box.run(found)
    assert result["files"] == {"accepted": 0, "duplicate": 0, "quarantined": 0, "waiting": 1}
    assert result["problems"] == [f"{path}: changed while it was looked at; it waits for the next intake"]
    assert box.run()["rows"] == 1


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_opener_closes_what_it_opened(box: Box) -> None:
    for name in ("a/1.txt", "a/2.txt", "b/1.txt"):
        box.put(name, name)
    before = open_files()
    with Opener() as opener:
        for file in box.scan().files:
            os.close(opener.open(file))
        with pytest.raises(UnreadableError):
            opener.open(Found("b/1.txt", str(box.drop), "b/1.txt", size=1, mtime_ns=1, inode=1))
    assert open_files() == before


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Whom file modes apply to."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_unreadable_files_and_folders_wait_and_are_told() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0o700)
        (folder / "a.txt").write_text("hello")
        (folder / "a.txt").chmod(0o600)
        (folder / "closed").chmod(0 if os.geteuid() else 0o700)
        (folder / "a.txt").chmod(0 if os.geteuid() else 0o600)
        with ordinary_user():
            found = intake.scan([name], MemoryLedger(), time.time() + 1, 0)
        (folder / "closed").chmod(0o700)
    assert (found.files, found.waiting) == ([], 1)
    assert sorted(found.problems) == [
        f"{name}/a.txt: not readable for this user; it waits for the next intake",
        f"{name}/closed: Permission denied",
    ]


def test_looking_at_folders_needs_no_heavy_library() -> None:
    script = "import sys, keeperd.folders; print({'numpy', 'pyarrow', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
