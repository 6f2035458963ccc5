"""A mail server for tests: it speaks enough SMTP to take mail, and refuses as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage


@dataclass
class Mailbox:
    """What came, and the answers to RCPT TO before it takes mail."""

    port: int = 0
    mails: list[tuple[str, EmailMessage]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    """Answers to other commands than RCPT TO, by their verb; also to CONNECT."""
    delay_s: float = 0
    """How long each answer takes."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipient = ""
        writer.write(f"{self.answers.get('CONNECT', '220 mail.test ESMTP')}\r\n".encode())
        while line := (await reader.readline()).decode().strip():
            verb = line.split()[0].upper()
            answer = ({"EHLO": "250 mail.test", "QUIT": "221 bye"} | self.answers).get(verb, "250 ok")
            if verb == "RCPT":
                recipient = line.partition("<")[2].partition(">")[0]
                answer = self.refusals.pop(0) if self.refusals else "250 ok"
            if verb == "DATA":
                writer.write(b"354 go on\r\n")
                data = await reader.readuntil(b"\r\n.\r\n")
                mail = message_from_bytes(data[:-3], policy=policy.default)
                assert isinstance(mail, EmailMessage)
                self.mails.append((recipient, mail))
            await asyncio.sleep(self.delay_s)
            writer.write(f"{answer}\r\n".encode())
            await writer.drain()
            if verb == "QUIT":
                break
        writer.close()


@asynccontextmanager
async def taking_mail(mailbox: Mailbox) -> AsyncIterator[None]:
    """Run the server, on the port that it had before if it had one."""
    server = await asyncio.start_server(mailbox.handle, "127.0.0.1", mailbox.port)
    mailbox.port = server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.close()
