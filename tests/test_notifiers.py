"""Mail that really goes out: to an SMTP server on loopback that misbehaves, and into a Maildir."""

from __future__ import annotations

import json
import logging
import mailbox
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from pydantic import ValidationError

from keeperd import config, paths, report
from keeperd.api import Context, Message, NotifyError, PluginError
from keeperd.jobs import Job, hear, notify
from keeperd_plugins import _email
from keeperd_plugins.maildir_notifier import MaildirNotifier, MaildirOptions
from keeperd_plugins.smtp_notifier import SmtpNotifier, SmtpOptions, read_password
from tests import stories

ANNA, BERT, CARL = "anna@example.org", "bert@example.org", "carl@example.org"
SECRET = "correct-horse-battery"  # noqa: S105 - known to the test server alone


class Inbox:
    """An SMTP server's mind: it keeps what it gets, and refuses what it is told to."""

    def __init__(
        self, refuse: dict[str, str] | None = None, data: str = "250 OK", *, cut: bool = False
    ) -> None:
        self.refuse = refuse or {}
        self.data = data
        self.cut = cut
        self.mails: list[tuple[list[str], bytes]] = []

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append((list(envelope.rcpt_tos), envelope.original_content or envelope.content))
        if self.cut:
            server.transport.abort()
        return self.data

    def parsed(self, n: int = -1) -> EmailMessage:
        """One mail as a mail program sees it."""
        mail = message_from_bytes(self.mails[n][1], policy=policy.default)
        assert isinstance(mail, EmailMessage)
        return mail


@contextmanager
def serving(inbox: Inbox, **server: Any) -> Iterator[int]:
    """An SMTP server on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    controller = Controller(inbox, hostname="127.0.0.1", port=port, **server)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


@contextmanager
def scripted(*replies: bytes) -> Iterator[int]:
    """A server that says these things, one before anything else and one after each line, then
    nothing more; b"" closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        with listener, listener.accept()[0] as client, client.makefile("rb") as lines:
            for reply in replies:
                if not reply:
                    return
                client.sendall(reply)
                if not lines.readline():
                    return
            done.wait(60)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        done.set()
        thread.join(10)


def smtp(port: int, *to: str, **options: Any) -> SmtpNotifier:
    given = {"host": "127.0.0.1", "security": "none", "sender": "keeperd@example.org", "timeout": 10.0}
    return SmtpNotifier(SmtpOptions(port=port, to=list(to or (ANNA,)), **{**given, **options}))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    resume = tmp_path / "resume"
    resume.mkdir()
    return Context(workdir=tmp_path, resume=resume)


@pytest.fixture
def message() -> Message:
    return mail_about("promoted")


def mail_about(kind: str) -> Message:
    made = report.render(stories.story(kind), stories.event(kind), examples=False)
    return Message(
        id="481.0123456789abcdef@keeperd.box", model=made.model, kind=made.kind, subject=made.subject,
        text=made.text, html=made.html, images=made.images,
    )  # fmt: skip


# --- SMTP -------------------------------------------------------------------------------------------


def test_a_mail_arrives_whole(message: Message, context: Context) -> None:
    inbox = Inbox()
    with serving(inbox) as port:
        assert smtp(port, ANNA, BERT).send(message, context) == "127.0.0.1: 2 of 2 recipients took it"
    (recipients, _), mail = inbox.mails[0], inbox.parsed()
    assert recipients == [ANNA, BERT]
    assert mail["Subject"] == "[keeperd] tickets: version 4 is live"
    assert mail["From"] == "keeperd <keeperd@example.org>"
    assert mail["Message-ID"] == "<481.0123456789abcdef@keeperd.box>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert abs(mail["Date"].datetime - datetime.now(UTC)) < timedelta(hours=1)
    assert mail.get_content_type() == "multipart/alternative"
    text, related = mail.iter_parts()
    assert isinstance(text, EmailMessage)
    assert isinstance(related, EmailMessage)
    assert text.get_content().replace("\r\n", "\n") == message.text
    html, picture = related.iter_parts()
    assert picture.get_content() == message.images["candidate"]
    assert picture["Content-ID"] == "<candidate.481.0123456789abcdef@keeperd.box>"
    assert 'src="cid:candidate.481.0123456789abcdef@keeperd.box"' in html.get_content()
    assert picture.get_content_disposition() == "inline"


def test_a_mail_without_html_is_plain(message: Message, context: Context) -> None:
    inbox = Inbox()
    plain = Message(id="1.a@b", model="m", kind="drift", subject="s", text="one line\n")
    with serving(inbox) as port:
        smtp(port).send(plain, context)
    assert inbox.parsed().get_content_type() == "text/plain"


def test_a_refused_connection_is_worth_a_retry(message: Message, context: Context) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(NotifyError, match="refused") as caught:
            smtp(closed.getsockname()[1]).send(message, context)
    assert caught.value.retry


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([b"421 too busy\r\n"], "421 too busy"),
        ([b""], "closed"),
        ([b"220 hi\r\n", b"250 hi\r\n", b"451 later\r\n", b"250 ok\r\n"], "451 later"),
        ([b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"421 shutting down\r\n"], "421 shutting down"),
        ([b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"451 disk full\r\n"], "451 disk full"),
        ([b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b""], "closed"),
        ([b"220 hi \x1b[2J\xff\r\n", b"250 hi\r\n", b"450 \x1b[31m\x00later\r\n", b""], "450 [31m later"),
    ],
)
def test_what_may_pass_is_worth_a_retry(
    replies: list[bytes], words: str, message: Message, context: Context
) -> None:
    with scripted(*replies) as port, pytest.raises(NotifyError) as caught:
        smtp(port).send(message, context)
    assert caught.value.retry
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("said", range(6))
def test_a_server_that_falls_silent_is_left(said: int, message: Message, context: Context) -> None:
    replies = [b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"][:said]
    with scripted(*replies) as port, pytest.raises(NotifyError, match="timed out") as caught:
        smtp(port, timeout=0.3).send(message, context)
    assert caught.value.retry


def test_silence_after_the_mail_was_taken_is_no_failure(message: Message, context: Context) -> None:
    """Else the same mail would be sent again and again."""

    class Silent(Inbox):
        async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
            server.transport.abort()
            return "221 Bye"

    inbox = Silent()
    with serving(inbox) as port:
        assert smtp(port).send(message, context) == "127.0.0.1: 1 of 1 recipients took it"


@pytest.mark.parametrize("data", ["552 too large", "554 looks like spam"])
def test_a_mail_refused_for_good_is_not_tried_again(data: str, message: Message, context: Context) -> None:
    with serving(Inbox(data=data)) as port, pytest.raises(NotifyError, match=data) as caught:
        smtp(port).send(message, context)
    assert not caught.value.retry


def test_a_connection_cut_after_the_mail_is_worth_a_retry(message: Message, context: Context) -> None:
    inbox = Inbox(cut=True)
    with serving(inbox) as port:
        with pytest.raises(NotifyError) as caught:
            smtp(port).send(message, context)
        assert caught.value.retry
        inbox.cut = False
        smtp(port).send(message, context)
    assert inbox.parsed(0)["Message-ID"] == inbox.parsed(1)["Message-ID"], "the reader sees that it is a copy"


def test_one_refused_recipient_does_not_keep_the_others_from_it(message: Message, context: Context) -> None:
    inbox = Inbox({BERT: "550 no such user"})
    with serving(inbox) as port:
        told = smtp(port, ANNA, BERT, CARL).send(message, context)
    assert told == f"127.0.0.1: 2 of 3 recipients took it; refused for good: {BERT} (550 no such user)"
    assert [recipients for recipients, _ in inbox.mails] == [[ANNA, CARL]]


def test_a_retry_goes_only_to_those_who_lack_it(message: Message, context: Context) -> None:
    inbox = Inbox({BERT: "550 no such user", CARL: "451 greylisted"})
    with serving(inbox) as port:
        for _ in range(2):
            with pytest.raises(NotifyError, match=r"refused for now: carl.*451 greylisted") as caught:
                smtp(port, ANNA, BERT, CARL).send(message, context)
            assert caught.value.retry
        del inbox.refuse[CARL]
        told = smtp(port, ANNA, BERT, CARL).send(message, context)
        assert told.startswith("127.0.0.1: 2 of 3")
        assert smtp(port, ANNA, BERT, CARL).send(message, context) == told
    assert [recipients for recipients, _ in inbox.mails] == [[ANNA], [CARL]]


def test_without_a_memory_nobody_gets_it_twice(message: Message, tmp_path: Path) -> None:
    inbox = Inbox({CARL: "451 greylisted"})
    with serving(inbox) as port:
        told = smtp(port, ANNA, CARL).send(message, Context(workdir=tmp_path))
    assert "1 of 2" in told
    assert "451 greylisted" in told


def test_nobody_got_it_after_a_421_among_the_recipients(message: Message, context: Context) -> None:
    ok = b"250 ok\r\n"
    with (
        scripted(b"220 hi\r\n", ok, ok, ok, b"421 bye\r\n") as port,
        pytest.raises(NotifyError, match="0 of 3") as caught,
    ):
        smtp(port, ANNA, BERT, CARL).send(message, context)
    assert caught.value.retry


@pytest.mark.parametrize(("reply", "retry"), [("550 no such user", False), ("450 later", True)])
def test_all_recipients_refused(reply: str, retry: bool, message: Message, context: Context) -> None:
    with serving(Inbox({ANNA: reply})) as port, pytest.raises(NotifyError, match=reply) as caught:
        smtp(port).send(message, context)
    assert caught.value.retry is retry


# --- TLS and passwords ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*certificate)
    return made


def password_file(tmp_path: Path, text: str = SECRET + "\n", mode: int = 0o400) -> Path:
    path = tmp_path / "password"
    path.write_text(text)
    path.chmod(mode)
    return path


def check_login(server: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> AuthResult:
    good = (login.login, login.password) == (b"keeperd", SECRET.encode())
    return AuthResult(success=good, handled=False)


def test_starttls_with_a_password(
    certificate: tuple[Path, Path], message: Message, context: Context, tmp_path: Path
) -> None:
    inbox = Inbox()
    secured = {"tls_context": tls(certificate), "require_starttls": True, "auth_required": True}
    with serving(inbox, authenticator=check_login, **secured) as port:
        notifier = smtp(
            port,
            security="starttls",
            ca_file=certificate[0],
            user="keeperd",
            password_file=password_file(tmp_path),
        )
        assert "1 of 1" in notifier.send(message, context)
    assert len(inbox.mails) == 1


def test_tls_from_the_start(certificate: tuple[Path, Path], message: Message, context: Context) -> None:
    inbox = Inbox()
    with serving(inbox, ssl_context=tls(certificate)) as port:
        assert "1 of 1" in smtp(port, security="tls", ca_file=certificate[0]).send(message, context)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_nobody_vouches_for(
    security: str, certificate: tuple[Path, Path], message: Message, context: Context
) -> None:
    inbox = Inbox()
    secured = {"tls_context" if security == "starttls" else "ssl_context": tls(certificate)}
    with serving(inbox, **secured) as port, pytest.raises(NotifyError, match="certificate") as caught:
        smtp(port, security=security).send(message, context)
    assert caught.value.retry
    assert inbox.mails == []


def test_a_server_without_starttls_gets_nothing(message: Message, context: Context, tmp_path: Path) -> None:
    """Somebody in between may have stripped it."""
    inbox = Inbox()
    with serving(inbox) as port, pytest.raises(NotifyError, match="STARTTLS"):
        notifier = smtp(port, security="starttls", user="keeperd", password_file=password_file(tmp_path))
        notifier.send(message, context)
    assert inbox.mails == []


def test_a_wrong_password_is_told_without_it(
    certificate: tuple[Path, Path], message: Message, context: Context, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    wrong = password_file(tmp_path, "wrong-horse\n")
    with (
        serving(Inbox(), authenticator=check_login, tls_context=tls(certificate)) as port,
        caplog.at_level(logging.DEBUG, "keeperd"),
        pytest.raises(NotifyError, match="535: login refused") as caught,
    ):
        notifier = smtp(
            port, security="starttls", ca_file=certificate[0], user="keeperd", password_file=wrong
        )
        notifier.send(message, context)
    assert not caught.value.retry
    assert "wrong-horse" not in str(caught.value) + caplog.text + "".join(capfd.readouterr()) + repr(
        notifier.options
    )
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_password_files_that_are_closed_to_others(mode: int, tmp_path: Path) -> None:
    assert read_password(password_file(tmp_path, mode=mode)) == SECRET


@pytest.mark.parametrize("mode", [0o444, 0o604, 0o660, 0o666, 0o602, 0o777])
def test_password_files_that_others_may_read_or_write_are_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(NotifyError, match="by others") as caught:
        read_password(password_file(tmp_path, mode=mode))
    assert not caught.value.retry
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n", "pässwörd\n", "\udcff"])
def test_password_files_without_a_password(text: str, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o400)
    with pytest.raises(NotifyError, match="password") as caught:
        read_password(path)
    assert "ssw" not in str(caught.value).replace("password", "")


def test_a_missing_password_file(tmp_path: Path) -> None:
    with pytest.raises(NotifyError, match="cannot be read"):
        read_password(tmp_path / "none")


@pytest.mark.parametrize(
    "options",
    [
        {"security": "none", "host": "mail.example.org"},
        {"security": "none", "host": "127.0.0.1.example.org"},
        {"sender": "x@example.org\r\nBcc: y@example.org"},
        {"sender": "keeperd"},
        {"sender": "=?UTF-8?Q?x?=@example.org"},
        {"to": []},
        {"to": ["Anna <anna@example.org>"]},
        {"to": ["anna@example.org, bert@example.org"]},
        {"to": ["änna@example.org"]},
        {"user": "keeperd"},
        {"password_file": "/run/credentials/x"},
        {"password": "secret"},
        {"timeout": 0},
    ],
)
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    given = {"host": "localhost", "security": "starttls", "sender": "keeperd@example.org", "to": [ANNA]}
    SmtpOptions.model_validate(given)
    with pytest.raises(ValidationError):
        SmtpOptions.model_validate({**given, **options})


# --- headers ----------------------------------------------------------------------------------------

EVIL = (
    "=?UTF-8?Q?=0A?=Bcc: everyone@example.org",
    "x\r\nBcc: everyone@example.org",
    "x\nBcc: everyone@example.org",
    "x\rBcc: everyone@example.org",
    "x\0y",
    "x\u2028Bcc: everyone@example.org",
    "x" * 10_000,
    "",
)


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("field", ["subject", "model", "kind", "id"])
def test_a_message_that_breaks_its_promise_is_not_sent(evil: str, field: str) -> None:
    good = {"id": "1.a@b", "model": "tickets", "kind": "drift", "subject": "fine", "text": "body"}
    if field == "subject" and not evil:
        return
    with pytest.raises(NotifyError) as caught:
        _email.as_bytes(Message(**{**good, field: evil}), "keeperd@example.org", [ANNA])  # type: ignore[arg-type]
    assert not caught.value.retry


@pytest.mark.parametrize("evil", EVIL)
def test_evil_text_from_data_stays_out_of_the_headers(evil: str) -> None:
    event = stories.event("failed", why=evil, model=evil)
    made = report.render(stories.story("failed"), event, examples=True)
    data = _email.as_bytes(made, "keeperd@example.org", [ANNA])
    head = data.partition(b"\r\n\r\n")[0]
    names = re.findall(rb"(?m)^([A-Za-z-]+):", head)
    assert sorted(names) == sorted(
        [
            *(b"From", b"To", b"Subject", b"Date", b"Message-ID", b"Auto-Submitted"),
            *(b"X-Auto-Response-Suppress", b"X-Keeperd-Model", b"X-Keeperd-Event"),
            *(b"MIME-Version", b"Content-Type"),
        ]
    )
    assert b"\n" not in head.replace(b"\r\n", b"")
    assert all(len(line) <= 998 for line in data.split(b"\r\n"))


def test_many_recipients_and_a_long_id_fold_and_unfold() -> None:
    to = [f"person-number-{n}@department-of-redundancy.example.org" for n in range(100)]
    assert len(", ".join(to)) > 998
    long = Message(
        id="1." + "a" * 190 + "@keeperd.box", model="m" * 64, kind="k" * 64, subject="x" * 120, text="t"
    )
    mail = message_from_bytes(_email.as_bytes(long, "keeperd@example.org", to), policy=policy.default)
    assert [str(one.addr_spec) for one in mail["To"].addresses] == to
    assert mail["Subject"] == "x" * 120


def test_a_body_cannot_forge_a_part(context: Context) -> None:
    inbox = Inbox()
    body = "\n.\nMAIL FROM:<x@y>\n--===============\nContent-Type: text/html\n\nFrom here\n"
    with serving(inbox) as port:
        smtp(port).send(Message(id="1.a@b", model="m", kind="drift", subject="s", text=body), context)
    assert len(inbox.mails) == 1
    assert inbox.parsed().get_content().replace("\r\n", "\n") == body


# --- Maildir ----------------------------------------------------------------------------------------


def maildir(path: Path) -> MaildirNotifier:
    return MaildirNotifier(MaildirOptions(path=path))


def test_a_maildir_gets_one_readable_mail(message: Message, context: Context, tmp_path: Path) -> None:
    path = tmp_path / "home" / "Maildir"
    assert maildir(path).send(message, context) == str(path)
    box = mailbox.Maildir(path, factory=None, create=False)
    (mail,) = box
    assert mail["Subject"] == "[keeperd] tickets: version 4 is live"
    assert [part.get_content_type() for part in mail.walk()][-1] == "image/png"
    (file,) = (path / "new").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (path / "new").stat().st_mode & 0o077 == 0
    assert list((path / "tmp").iterdir()) == []
    assert b"\r\n" not in file.read_bytes()


def test_the_same_message_is_there_once(message: Message, context: Context, tmp_path: Path) -> None:
    maildir(tmp_path / "M").send(message, context)
    maildir(tmp_path / "M").send(message, context)
    (new,) = (tmp_path / "M" / "new").iterdir()
    new.rename(tmp_path / "M" / "cur" / f"{new.name}:2,S")
    maildir(tmp_path / "M").send(message, context)
    assert len(mailbox.Maildir(tmp_path / "M")) == 1
    other = Message(id="482.b@keeperd.box", model="m", kind="drift", subject="s", text="t")
    maildir(tmp_path / "M").send(other, context)
    assert len(mailbox.Maildir(tmp_path / "M")) == 2


def test_a_delivery_that_was_cut_short_is_made_good(
    message: Message, context: Context, tmp_path: Path
) -> None:
    maildir(tmp_path / "M").send(message, context)
    (new,) = (tmp_path / "M" / "new").iterdir()
    whole = new.read_bytes()
    new.rename(tmp_path / "M" / "tmp" / new.name)
    (tmp_path / "M" / "tmp" / new.name).write_bytes(whole[:100])
    maildir(tmp_path / "M").send(message, context)
    assert len(new.read_bytes()) == len(whole)
    assert list((tmp_path / "M" / "tmp").iterdir()) == []


def test_a_maildir_that_cannot_be_written(message: Message, context: Context, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NotifyError, match="file") as caught:
        maildir(tmp_path / "file" / "M").send(message, context)
    assert caught.value.retry
    with pytest.raises(ValidationError):
        MaildirOptions(path=Path("relative"))


# --- the jobs ---------------------------------------------------------------------------------------


def job(kind: str, tmp_path: Path, inputs: dict[str, Any], folder: Path | None = None) -> Job:
    def load(kind: str, name: str) -> Any:
        raise AssertionError("a notifier is loaded with its own options")

    return Job(
        kind=kind,
        model="tickets",
        folder=tmp_path / "run",
        state=paths.StatePaths(tmp_path),
        settings=config.Model(base=Path("/base"), watch=[Path("/watch")]),
        inputs=inputs,
        context=Context(workdir=tmp_path),
        load=load,
        plugin_folder=folder,
    )


def test_the_notify_job_renders_and_sends(tmp_path: Path) -> None:
    inputs = {
        "notifier": "home",
        "plugin": "maildir",
        "options": {"path": str(tmp_path / "M")},
        "examples": False,
        "message_id": "481.0123@keeperd.box",
        "event": stories.event("rolled back", times=1, first_at="2026-11-22T02:14:07+00:00"),
        "story": stories.story("rolled back"),
    }
    assert notify.run(job("notify", tmp_path, json.loads(json.dumps(inputs)))) == {
        "sent": str(tmp_path / "M")
    }
    (mail,) = mailbox.Maildir(tmp_path / "M", factory=None)
    assert mail["Message-ID"] == "<481.0123@keeperd.box>"
    assert mail["X-Keeperd-Event"] == "rolled back"
    with pytest.raises(PluginError, match="path"):
        notify.run(job("notify", tmp_path, {**inputs, "options": {"path": "relative"}}))


def test_the_event_log_keeps_every_event(tmp_path: Path) -> None:
    for number, why in ((1, "first"), (2, "line\nbreak \u202e <3>")):
        row = stories.event("drift", id=number, why=why)
        assert hear.run(job("hear", tmp_path, {"plugin": "event-log", "event": row})) == {"heard": number}
    lines = (tmp_path / "plugins" / "event-log" / "events.jsonl").read_text(encoding="ascii").splitlines()
    told = [json.loads(line) for line in lines]
    assert [(one["id"], one["why"]) for one in told] == [(1, "first"), (2, "line\nbreak \u202e <3>")]
    assert told[0]["at"] == "2026-11-22T02:14:07.120000+00:00"


def test_a_hook_may_be_dropped_in(tmp_path: Path) -> None:
    folder = tmp_path / "dropped"
    folder.mkdir(mode=0o755)
    plugin = folder / "hook_my-ears.py"
    plugin.write_text(
        "from keeperd.api import hookimpl\n"
        "@hookimpl\n"
        "def keeperd_on_event(event, context):\n"
        "    (context.workdir / 'heard').write_text(event.kind)\n"
    )
    plugin.chmod(0o644)
    hear.run(
        job("hear", tmp_path, {"plugin": "my-ears", "event": stories.event("alert", cycle=None)}, folder)
    )
    assert (tmp_path / "plugins" / "my-ears" / "heard").read_text() == "alert"


@pytest.mark.parametrize("name", ["../event-log", "nothing", ""])
def test_a_hook_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError):
        hear.run(job("hear", tmp_path, {"plugin": name, "event": stories.event("alert")}))
    assert not (tmp_path / "plugins").exists()
