"""Notifier "smtp": sends mail through a server, over TLS."""

from __future__ import annotations

import hashlib
import json
import os
import re
import smtplib
import ssl
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from keeperd.api import Component, Context, Message, Notifier, NotifyError, Options, hookimpl
from keeperd_plugins import _email

LOCAL = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")
_ADVICE = "chmod 0400 it, or use systemd's LoadCredential="


class SmtpOptions(Options):
    """Where the mail goes."""

    host: str = Field(min_length=1, description="mail server")
    port: int = Field(587, ge=1, le=65535, description="587 for starttls, 465 for tls, 25 for none")
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description='"none" to this machine alone'
    )
    sender: _email.Address = Field(description="address that the mail comes from")
    to: list[_email.Address] = Field(min_length=1, max_length=100, description="who gets it")
    user: str | None = Field(None, description="name to log in with")
    password_file: Path | None = Field(
        None, description="file with the password, readable by its owner or group alone"
    )
    ca_file: Path | None = Field(None, description="certificates to trust instead of the system's")
    timeout: float = Field(30.0, gt=0, le=600, description="seconds that the server may be silent")

    @model_validator(mode="after")
    def _safe(self) -> SmtpOptions:
        if self.security == "none" and not LOCAL.fullmatch(self.host):
            raise ValueError('security = "none" is for localhost alone; use "starttls" or "tls"')
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file go together; give both or none")
        return self


class SmtpNotifier(Notifier[SmtpOptions]):
    """One mail to all recipients in one transaction.

    Recipients that the server has taken or refused for good are remembered in `context.resume`,
    so that a retry goes to the others alone.
    """

    name = "smtp"
    Options = SmtpOptions

    def send(self, message: Message, context: Context) -> str:
        """See Notifier.send. Everything temporary (4xx, no connection, silence, no TLS) is worth a
        retry; a refusal for good (5xx: password, sender, recipient, content) is not."""
        options = self.options
        data = _email.as_bytes(message, options.sender, options.to)
        done = _Done(context.resume, message.id)
        missing = [address for address in options.to if address not in done.taken]
        if missing:
            try:
                refused = self._transmit(data, missing)
            except smtplib.SMTPRecipientsRefused as error:
                # Nobody got it. After a 421 the recipients that were not tried any more are not in there.
                refused = {address: error.recipients.get(address, (451, b"not tried")) for address in missing}
            except smtplib.SMTPResponseException as error:
                raise NotifyError(self._say(_reply(error)), retry=_temporary(error)) from error
            except (OSError, smtplib.SMTPException) as error:
                raise NotifyError(self._say(_plain(str(error) or type(error).__name__))) from error
            done.note(missing, refused)
        return self._outcome(done)

    def _transmit(self, data: bytes, to: list[str]) -> dict[str, tuple[int, bytes]]:
        """Hand the mail over; the recipients that were refused although others were not."""
        smtp = self._connect()
        try:
            if self.options.security == "starttls":
                smtp.starttls(context=self._tls())
            self._log_in(smtp)
            refused = smtp.sendmail(self.options.sender, to, data)
            # The server has it by now: whatever goes wrong from here on must not send it again.
            with suppress(OSError, smtplib.SMTPException):
                smtp.quit()
            return refused
        finally:
            smtp.close()

    def _connect(self) -> smtplib.SMTP:
        options, name = self.options, _email.host_name()
        try:
            if options.security == "tls":
                return smtplib.SMTP_SSL(
                    options.host, options.port, name, timeout=options.timeout, context=self._tls()
                )
            return smtplib.SMTP(options.host, options.port, name, timeout=options.timeout)
        except smtplib.SMTPConnectError as error:
            raise NotifyError(self._say(_reply(error))) from error

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.options.ca_file)

    def _log_in(self, smtp: smtplib.SMTP) -> None:
        if self.options.user is None or self.options.password_file is None:
            return
        password = read_password(self.options.password_file)
        try:
            smtp.login(self.options.user, password)
        except smtplib.SMTPAuthenticationError as error:
            # Without the server's words: it has just been told the password.
            raise NotifyError(
                self._say(f"{error.smtp_code}: login refused; check user and password_file"),
                retry=_temporary(error),
            ) from None

    def _outcome(self, done: _Done) -> str:
        """What to say when nothing is left to do, or the error that tells what is."""
        to = self.options.to
        refused = [f"{address} ({done.refused[address]})" for address in to if address in done.refused]
        later = [f"{address} ({done.later[address]})" for address in to if address in done.later]
        sent = [address for address in to if address in done.sent]
        text = f"{len(sent)} of {len(to)} recipients took it"
        if refused:
            text += f"; refused for good: {', '.join(refused)}"
        if later:
            raise NotifyError(self._say(f"{text}; refused for now: {', '.join(later)}"))
        if not sent:
            raise NotifyError(self._say(text), retry=False)
        return f"{self.options.host}: {text}"

    def _say(self, what: str) -> str:
        return f"{self.options.host}:{self.options.port}: {what}"


class _Done:
    """Which recipients are dealt with, kept over retries where there is a folder for it."""

    def __init__(self, folder: Path | None, message_id: str) -> None:
        self.sent: set[str] = set()
        self.refused: dict[str, str] = {}
        self.later: dict[str, str] = {}
        digest = hashlib.sha256(message_id.encode()).hexdigest()[:32]
        self._path = folder / f"smtp-{digest}.json" if folder else None
        if self._path and self._path.exists():
            kept = json.loads(self._path.read_bytes())
            self.sent, self.refused = set(kept["sent"]), kept["refused"]

    @property
    def taken(self) -> set[str]:
        """Recipients that must not be tried again."""
        return self.sent | self.refused.keys()

    def note(self, tried: Iterable[str], refused: dict[str, tuple[int, bytes]]) -> None:
        """Remember what became of these recipients."""
        for address in tried:
            if address not in refused:
                self.sent.add(address)
                continue
            code, words = refused[address]
            kept = self.later if code < 500 else self.refused
            kept[address] = _plain(f"{code} {words.decode('ascii', 'replace')}")
        if not self._path:
            # Nobody could remember who has it already: better one missing copy than many for the others.
            if self.sent:
                self.refused |= self.later
                self.later = {}
            return
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"sent": sorted(self.sent), "refused": self.refused}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._path)


def read_password(path: Path) -> str:
    """The first line of a password file.

    Raises:
        NotifyError: it cannot be read, is empty, or can be read by others.
    """
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_mode & (stat.S_IWGRP | stat.S_IRWXO):
                raise NotifyError(f"{path}: can be read or changed by others; {_ADVICE}", retry=False)
            line = file.read(4096).decode("utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise NotifyError(f"{path}: the password cannot be read: {type(error).__name__}") from None
    if not line or not line.isascii():
        raise NotifyError(f"{path}: no password of ASCII characters in its first line", retry=False)
    return line


def _temporary(error: smtplib.SMTPResponseException) -> bool:
    return error.smtp_code < 500


def _reply(error: smtplib.SMTPResponseException) -> str:
    words = error.smtp_error
    text = words.decode("ascii", "replace") if isinstance(words, bytes) else str(words)
    return _plain(f"{error.smtp_code} {text}")


def _plain(text: str) -> str:
    """A server's words as one short line."""
    return re.sub(r"[^\x21-\x7e]+", " ", text).strip()[:200]


@hookimpl
def keeperd_components() -> list[type[Component[SmtpOptions]]]:
    """The components of this plugin."""
    return [SmtpNotifier]
