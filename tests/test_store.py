"""The ledger: transactions, uniqueness, schema versions, readers beside the writer."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from keeperd.store import Store, StoreError, open_readonly, views
from tests.fakes import FakeClock

NOW = FakeClock().now()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "k.db")
    store.ensure_model("m")
    with pytest.raises(RuntimeError), store.transaction():
        store.add_event(NOW, "m", "alert", "inner")
        with store.transaction():
            store.add_trigger("m", "files", "x", NOW)
        raise RuntimeError
    assert store.unplanned_events() == []
    assert store.pending_triggers("m") == []


def test_one_open_cycle_a_model(tmp_path: Path) -> None:
    store = Store(tmp_path / "k.db")
    store.ensure_model("m")
    first = store.open_cycle("m", "QUEUED", "files", "x", NOW, {})
    with pytest.raises(sqlite3.IntegrityError):
        store.open_cycle("m", "QUEUED", "files", "x", NOW, {})
    store.move_cycle(first, "SKIPPED", NOW, {}, closed=True)
    store.open_cycle("m", "QUEUED", "files", "x", NOW, {})


def test_equal_triggers_coalesce_until_taken(tmp_path: Path) -> None:
    store = Store(tmp_path / "k.db")
    store.ensure_model("m")
    one = store.add_trigger("m", "files", "a", NOW)
    assert store.add_trigger("m", "files", "b", NOW) == one
    assert store.add_trigger("m", "rollback", "c", NOW, target=2) != one
    store.take_triggers(1, [one])
    assert store.add_trigger("m", "files", "d", NOW) > one


def test_a_file_is_accepted_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "k.db")
    store.ensure_model("m")
    line = {
        "path": "/in/a", "size": 1, "mtime_ns": 2, "inode": 3, "sha256": "s", "status": "accepted",
        "reason": None, "rows": 1,
    }  # fmt: skip
    store.add_files("m", 1, "b", [line])
    with pytest.raises(sqlite3.IntegrityError):
        store.add_files("m", 1, "b", [{**line, "path": "/in/b"}])
    store.add_files("m", 1, None, [{**line, "path": "/in/b", "status": "duplicate"}])
    with open_readonly(store.path) as reading:
        known = reading.known_files("m")
        assert known.is_known("/in/a", 1, 2, 3)
        assert known.is_known("/in/b", 1, 2, 3)
        assert not known.is_known("/in/a", 1, 99, 3)
        assert known.has_content("s")
        assert not reading.known_files("other").has_content("s")


def test_a_newer_or_broken_ledger_is_refused(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="newer keeperd"):
        Store(newer)
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(StoreError, match="backup"):
        Store(broken)
    with pytest.raises(StoreError, match="no ledger"):
        open_readonly(tmp_path / "none.db")


def test_version_numbers_are_reserved_once_a_cycle(tmp_path: Path) -> None:
    store = Store(tmp_path / "k.db")
    store.ensure_model("m")
    assert [store.add_version("m", cycle, None, NOW) for cycle in (1, 1, 2, 5, 2)] == [1, 1, 2, 3, 2]


def test_threads_share_the_writer(tmp_path: Path) -> None:
    store = Store(tmp_path / "k.db")
    store.ensure_model("m")

    def work(number: int) -> None:
        for index in range(20):
            with store.transaction():
                store.add_event(NOW, "m", "step", f"{number}.{index}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({event["why"] for event in store.unplanned_events()}) == 100


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "k.db")
    store.ensure_model("m")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"), store.transaction():
        for _ in range(1000):
            store.add_event(NOW, "m", "alert", "x" * 1000)
    assert store.unplanned_events() == []
    store._db.execute("PRAGMA max_page_count=100000")
    store.add_event(NOW, "m", "alert", "room again")
    assert [event["why"] for event in store.unplanned_events()] == ["room again"]


def test_status_and_timeline_of_an_empty_model(tmp_path: Path) -> None:
    store = Store(tmp_path / "k.db")
    store.ensure_model("m")
    with open_readonly(store.path) as reading:
        (model,) = views.status(reading.db)["models"]
        assert model["needs"] == ["no champion yet: keeperd init m"]
        assert views.timeline(reading.db, "m") == []
        with pytest.raises(views.NotInLedgerError, match="keeperd status"):
            views.timeline(reading.db, "n")
        with pytest.raises(views.NotInLedgerError):
            views.story(reading.db, 7)
