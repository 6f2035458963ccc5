"""Sends events as mail: to the addresses of endpoints, and to the people whom an event itself names.

It is one more consumer of events, tried again like every other.
"""

import asyncio
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.message import EmailMessage
from typing import Final

from libs.common.clock import Clock
from libs.common.events.domain import MAIL_SCHEME, Endpoint, Event, Outcome, Reason
from libs.common.events.message import unsealed_data
from libs.common.ids import NIL
from libs.common.sealing import SealingKeys
from libs.common.settings import ServiceSettings, SmtpSecurity
from libs.common.sharding import PLATFORM

NOTIFIER_ID: Final = "ffffffff-ffff-8fff-bfff-fffffffffff0"
"""The endpoint of mail to the people whom events name. It is in no table."""
_SUBJECT_MAX: Final = 120
_LINE_MAX: Final = 500
_LINES_MAX: Final = 50
_PERMANENT: Final = 500
_ENCODED: Final = "=?"
"""How an encoded word begins (RFC 2047). `EmailMessage` decodes those in headers that it is given, so that they could
hold line breaks, and with these headers of their own."""
_SUBJECTS: Final[Mapping[str, str]] = {
    "tollhouse.invitation.created": "You are invited to {organization_name}",
    "tollhouse.api_key.expiring": "Your API key {name} expires soon",
    "tollhouse.api_key.leaked": "Your API key {name} was found in public and is revoked",
    "tollhouse.balance.low": "Your balance is low",
}


@dataclass(frozen=True, slots=True)
class MailServer:
    """A mail server, and in whose name it is spoken to."""

    host: str
    port: int
    security: SmtpSecurity
    sender: str
    user: str | None = None
    password: str | None = None
    invitation_link: str | None = None

    def __repr__(self) -> str:
        return f"MailServer(host={self.host!r}, port={self.port})"


def mail_server_of(settings: ServiceSettings) -> MailServer | None:
    """Return the mail server of the settings; None where there is none."""
    if not settings.smtp_host or not settings.smtp_from:
        return None
    path = settings.smtp_password_file
    return MailServer(
        settings.smtp_host,
        settings.smtp_port,
        settings.smtp_security,
        settings.smtp_from,
        settings.smtp_user,
        path.read_text(encoding="utf-8").rstrip("\n") if path else None,
        settings.smtp_invitation_link,
    )


def notifier(clock: Clock) -> Endpoint:
    """Return the endpoint of mail to the people whom events name."""
    now = clock.now()
    return Endpoint(
        organization_id=PLATFORM,
        endpoint_id=NOTIFIER_ID,
        url=f"{MAIL_SCHEME}:",
        types=(),
        description="",
        enabled=True,
        disabled_reason="",
        secret=None,
        previous_secret=None,
        previous_secret_expire_time=None,
        failing_since=None,
        version=0,
        create_time=now,
        update_time=now,
        delete_time=None,
    )


class Mailer:
    """Sends mail."""

    def __init__(self, server: MailServer, keys: SealingKeys | None, timeout_s: float) -> None:
        self._server = server
        self._keys = keys
        self._timeout_s = timeout_s

    async def send(self, event: Event, endpoint: Endpoint) -> Outcome:
        """Try once, and return what came of it. A mail has the event's id, so that a repeat can be told.

        Raises:
            NotReadable: whom the event names cannot be decrypted.
        """
        recipient = endpoint.url.partition(":")[2]
        data = dict(event.data)
        if endpoint.endpoint_id == NOTIFIER_ID:
            data |= unsealed_data(event, endpoint, self._keys)
            recipient = str(data.pop("email", ""))
        if not recipient:
            return Outcome(True, Reason.NONE, "the event names nobody")
        if _ENCODED in recipient:
            return Outcome(False, Reason.MAIL_REFUSED, "the address cannot be written in a mail", final=True)
        recipient = _with_ascii_domain(recipient)
        return await self._send(recipient, _mail(self._server, recipient, event, data))

    async def _send(self, recipient: str, message: EmailMessage) -> Outcome:
        # Few installations send mail, and the import is a tenth of the start of a service.
        import aiosmtplib

        server = self._server
        try:
            # Its own limit is one for each command. When the attempt is over, another one may begin.
            async with asyncio.timeout(self._timeout_s):
                await aiosmtplib.send(
                    message,
                    recipients=[recipient],
                    hostname=server.host,
                    port=server.port,
                    username=server.user,
                    password=server.password,
                    use_tls=server.security is SmtpSecurity.TLS,
                    start_tls=server.security is SmtpSecurity.STARTTLS,
                    timeout=self._timeout_s,
                )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [refused.code for refused in error.recipients]
            return _refused(min(codes, default=_PERMANENT))
        except aiosmtplib.SMTPNotSupported:
            detail = "the mail server takes ASCII addresses alone (it has no SMTPUTF8)"
            return Outcome(False, Reason.MAIL_REFUSED, detail, final=True)
        except aiosmtplib.SMTPDataError as error:
            return _refused(error.code)
        except aiosmtplib.SMTPResponseException as error:
            # It refuses us, whatever we send: a wrong password or sender, or no service. Somebody will mend that.
            return _not_taken(error.code)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            return Outcome(False, Reason.MAIL_NOT_TAKEN, f"the mail server does not answer: {type(error).__name__}")
        return Outcome(True)


def _refused(code: int) -> Outcome:
    """Return what came of a mail to whose recipient, or to which itself, the server has answered with a code."""
    not_taken = _not_taken(code)
    return replace(not_taken, reason=Reason.MAIL_REFUSED, final=True) if code >= _PERMANENT else not_taken


def _not_taken(code: int) -> Outcome:
    return Outcome(False, Reason.MAIL_NOT_TAKEN, f"the mail server answers {code}")


def _with_ascii_domain(address: str) -> str:
    """Return an address whose domain is in A-labels, so that also servers without SMTPUTF8 take it."""
    local, _, domain = address.rpartition("@")
    if domain.isascii():
        return address
    import idna

    try:
        return f"{local}@{idna.encode(domain, uts46=True).decode()}"
    except idna.IDNAError:
        return address


def _mail(server: MailServer, recipient: str, event: Event, data: Mapping[str, object]) -> EmailMessage:
    message = EmailMessage()
    message["From"] = server.sender
    message["To"] = recipient
    message["Subject"] = _subject(event.type, data)
    message["Message-ID"] = f"<{event.event_id}@tollhouse.events>"
    message["Date"] = event.event_time
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(_text(server, event, data))
    return message


def _subject(event_type: str, data: Mapping[str, object]) -> str:
    template = _SUBJECTS.get(event_type, event_type)
    return _plain(template.format_map(_Values(data)), _SUBJECT_MAX).replace(_ENCODED, "= ?")


def _text(server: MailServer, event: Event, data: Mapping[str, object]) -> str:
    lines = []
    token = data.get("token")
    if token and server.invitation_link:
        lines.append(f"To accept, open {server.invitation_link.replace('{token}', str(token))}")
    elif token:
        lines.append(f"To accept, use this token: {token}")
    shown = {name: _shown(value) for name, value in data.items() if name != "token"}
    lines += [f"{name}: {_plain(text, _LINE_MAX)}" for name, text in shown.items() if text]
    if event.organization_id != NIL:
        lines.append(f"organization: {event.organization_id}")
    return "\n".join([*lines[:_LINES_MAX], f"event: {event.type} {event.event_id}", ""])


def _shown(value: object) -> str:
    """Return a value for people: amounts as `12.5 USD`, and nothing for what is not known."""
    if isinstance(value, Mapping):
        return " ".join(filter(None, map(_shown, value.values())))
    if isinstance(value, list):
        return "; ".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


class _Values(dict[str, object]):
    """Values of a template; one that is not there reads as nothing."""

    def __missing__(self, name: str) -> str:
        return ""


def _plain(text: str, length_max: int) -> str:
    """Return text that is one line, without control characters, cut to a length."""
    cleaned = "".join(" " if unicodedata.category(character)[0] == "C" else character for character in text)
    return " ".join(cleaned.split())[:length_max]
