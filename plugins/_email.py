"""A message as bytes of Internet mail, for the notifiers that send mail.

Headers are made of checked addresses and keeperd's own words alone, and the bytes are parsed again
before they leave: Python up to 3.11.7 writes a header of its own where a subject holds an encoded
newline (CVE-2024-6923), and text from data must never get that far.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Annotated

from pydantic import AfterValidator

from keeperd.api import Message, NotifyError

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_{|}~-]+"
_ADDRESS = re.compile(rf"(?!.*=\?){_ATOM}(\.{_ATOM})*@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_ID = re.compile(r"[A-Za-z0-9.@_-]{1,400}")
_WORD = re.compile(r"[A-Za-z0-9 ._-]{1,64}")
_IMAGE = re.compile(r"[a-z0-9-]{1,64}")


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text) or len(text) > 254:
        raise ValueError("expected a plain address such as keeperd@example.org")
    return text


Address = Annotated[str, AfterValidator(_address)]
"""An address without a display name, ASCII only."""


def host_name() -> str:
    """This machine's name, without asking the network for it."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).strip(".-") or "localhost"


def as_bytes(message: Message, sender: str, recipients: Sequence[str]) -> bytes:
    """The whole message with CRLF line ends: text, or text and HTML with its images inside.

    Raises:
        NotifyError: the message's own fields are not what `Message` promises, or the bytes do not
            hold exactly the headers that were meant. Trying again would not help.
    """
    headers = _headers(message, sender, recipients)
    email = EmailMessage(policy=policy.SMTP)
    for name, value in headers.items():
        email[name] = value
    email.set_content(message.text, cte="quoted-printable")
    if message.html:
        _add_html(email, message)
    # Long lines instead of folds, which Python may turn into encoded words: only "To" may need one.
    data = email.as_bytes(policy=policy.SMTP.clone(max_line_length=900))
    _check(data, headers)
    return data


def _add_html(email: EmailMessage, message: Message) -> None:
    """The HTML, and its images beside it; their ids are made unlike those of every other message."""
    html = message.html
    for name in message.images:
        if not _IMAGE.fullmatch(name):
            raise NotifyError(f"the message's image {name!r} does not fit into a header", retry=False)
        html = re.sub(rf"""(["'])cid:{name}\1""", rf"\1cid:{name}.{message.id}\1", html)
    email.add_alternative(html, subtype="html", cte="quoted-printable")
    _, part = email.iter_parts()
    for name, png in message.images.items():
        cid, file = f"<{name}.{message.id}>", f"{name}.png"
        part.add_related(png, "image", "png", cid=cid, disposition="inline", filename=file)


def _headers(message: Message, sender: str, recipients: Sequence[str]) -> dict[str, str]:
    plain = message.subject.isascii() and message.subject.isprintable() and len(message.subject) <= 120
    if not plain or "=?" in message.subject:
        raise NotifyError("the subject is not one line of at most 120 ASCII characters", retry=False)
    for name, value, pattern in (
        ("id", message.id, _ID),
        ("model", message.model, _WORD),
        ("kind", message.kind, _WORD),
    ):
        if not pattern.fullmatch(value):
            raise NotifyError(f"the message's {name} {value!r} does not fit into a header", retry=False)
    return {
        "From": f"keeperd <{sender}>",
        "To": ", ".join(recipients),
        "Subject": message.subject,
        "Date": format_datetime(message.sent_at or datetime.now(UTC)),
        "Message-ID": f"<{message.id}>",
        "Auto-Submitted": "auto-generated",
        "X-Auto-Response-Suppress": "All",
        "X-Keeperd-Model": message.model,
        "X-Keeperd-Event": message.kind,
    }


def _check(data: bytes, headers: dict[str, str]) -> None:
    """Parse what would be sent and compare it with what was meant."""
    parsed = message_from_bytes(data, policy=policy.compat32)
    added = {"MIME-Version", "Content-Type", "Content-Transfer-Encoding"}
    found = {
        name: re.sub(r"\r?\n[ \t]", " ", str(value)) for name, value in parsed.items() if name not in added
    }
    if found != headers or len(parsed.keys()) != len(set(parsed.keys())):
        odd = sorted(found.items() ^ headers.items())
        raise NotifyError(f"the mail's headers are not those that were meant: {odd}", retry=False)
