"""Notifier "maildir": puts mail into a Maildir on this machine, for people who read it there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pydantic import Field, field_validator

from keeperd.api import Component, Context, Message, Notifier, NotifyError, Options, hookimpl
from keeperd_plugins import _email


class MaildirOptions(Options):
    """Where the mail goes."""

    path: Path = Field(description="the Maildir; made where it is missing")
    to: _email.Address = Field("root@localhost", description="address in the To header")
    sender: _email.Address = Field("keeperd@localhost", description="address in the From header")

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError("expected an absolute path")
        return path


class MaildirNotifier(Notifier[MaildirOptions]):
    """Delivers into tmp/, then by one rename into new/.

    The file is named after the message's id (the standard library's `mailbox` picks a new name at
    every delivery), so that a message that is sent again after a crash is there once.
    """

    name = "maildir"
    Options = MaildirOptions

    def send(self, message: Message, context: Context) -> str:
        """See Notifier.send."""
        data = _email.as_bytes(message, self.options.sender, [self.options.to]).replace(b"\r\n", b"\n")
        try:
            self._deliver(data, f"{hashlib.sha256(message.id.encode()).hexdigest()[:32]}.keeperd")
        except OSError as error:
            raise NotifyError(f"{self.options.path}: {error.strerror or error}") from error
        return str(self.options.path)

    def _deliver(self, data: bytes, name: str) -> None:
        folder = self.options.path
        for part in ("tmp", "new", "cur"):
            (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        # A mail program moves what it has seen to cur/, with flags after the name.
        if (folder / "new" / name).exists() or any((folder / "cur").glob(f"{name}*")):
            return
        temporary = folder / "tmp" / name
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / "new" / name)
        new = os.open(folder / "new", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(new)
        finally:
            os.close(new)


@hookimpl
def keeperd_components() -> list[type[Component[MaildirOptions]]]:
    """The components of this plugin."""
    return [MaildirNotifier]
