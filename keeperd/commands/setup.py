"""What every command starts from: the configuration, the ledger to read, a desk to write at."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import typer

from keeperd import config, lock
from keeperd.api import KeeperdError
from keeperd.client import Client
from keeperd.clock import SystemClock
from keeperd.desk import Desk, LedgerDesk
from keeperd.exits import of_ledger
from keeperd.paths import StatePaths
from keeperd.store import Store, open_readonly

JsonOption = typer.Option("--json", help="Print JSON, for programs.")


def find_config(given: Path | None) -> Path:
    """The configuration that counts: the one given, or the first that is there."""
    here = Path("keeperd.toml")
    if given is not None:
        return given.absolute()
    if not config.DEFAULT_PATH.exists() and here.exists():
        return here.absolute()
    return config.DEFAULT_PATH


@dataclass
class Setup:
    """What the command line was called with."""

    config_path: Path

    @cached_property
    def settings(self) -> config.Settings:
        """The configuration.

        Raises:
            ConfigError: it cannot be used.
        """
        return config.load(self.config_path)

    @property
    def paths(self) -> StatePaths:
        """The state directory."""
        return StatePaths(self.settings.state)

    def plugin_folder(self) -> Path | None:
        """The folder of dropped-in plugins; None too where there is no configuration at all."""
        return self.settings.daemon.plugins if self.config_path.exists() else None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The ledger, read-only; with and without a daemon.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        try:
            with open_readonly(self.paths.database) as ledger:
                yield ledger.db
        except sqlite3.Error as error:
            raise of_ledger(error, self.paths.database) from error

    def daemon_runs(self) -> bool:
        """True when a daemon answers on the control socket."""
        return Client(self.paths.socket).is_up()

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """The ledger, to be written; no daemon may run.

        Raises:
            HeldError: another process writes.
            KeeperdError: this user would leave files that keeperd could not use.
        """
        folder = self.paths.folder
        self.paths.create()
        owner = folder.stat().st_uid
        if os.geteuid() != owner:
            raise KeeperdError(f"{folder}: belongs to {user_name(owner)}; run as that user: {as_user(owner)}")
        with lock.hold(self.paths.lock), closing(Store(self.paths.database)) as store:
            yield store

    @contextmanager
    def desk(self) -> Iterator[Desk]:
        """Where wishes go: the daemon, or where none runs, the ledger itself.

        Raises:
            HeldError: no daemon answers, and yet another process writes.
        """
        client = Client(self.paths.socket)
        if client.is_up():
            yield client
            return
        with self.writing() as store:
            yield LedgerDesk(store, SystemClock(), self.settings)


def user_name(uid: int) -> str:
    """A user's name, or the number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def as_user(uid: int) -> str:
    """How to run a command as another user."""
    return f"runuser -u {user_name(uid)} -- keeperd ..."


def setup_of(context: typer.Context) -> Setup:
    """The setup that the callback of the whole program made."""
    found: Setup = context.find_root().obj
    return found
