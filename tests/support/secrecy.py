"""Checks during the whole test run that no secret appears in a log, a refusal, a table or a trace.

Keys, tokens and private keys are recognised by their format. Secrets without a format, such as passwords, are collected
from the calls: the values of every field that a proto marks `debug_redact`, as the tests send and receive them. All
output of the services is searched for secrets, and the test during which one was found fails.
"""

import logging
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import asyncpg
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from libs.common.logs import configure_logs
from libs.common.migrate import CONTEXTS

# API keys, invitations and other secrets with our prefix, tokens, JWTs, private keys as PEM and as JWK, and passwords
# in addresses of databases.
SHAPES = (
    r"th_[a-z]+_[0-9A-Za-z_-]{24,}"
    r"|eyJ[0-9A-Za-z_-]{8,}[.][0-9A-Za-z_-]+[.][0-9A-Za-z_-]+"
    r"|BEGIN [A-Z ]*PRIVATE KEY"
    r"|[\"']d[\"']: ?[\"'][0-9A-Za-z_-]{43}[\"']"
    r"|postgres(ql)?://[^ /:@]+:[^ /@]+@"
)
_SHAPE = re.compile(SHAPES)
SECRET_MIN_LENGTH = 10
_NOTED_MAX = 2_000
_FEW = 300
"""To look for so many secrets one by one is faster than to take the text apart."""
_SHOWN = 12


class SecretWatch:
    """The known secrets, and where they leaked."""

    def __init__(self) -> None:
        self.formatter: logging.Formatter | None = None
        self._noted: dict[str, None] = {}
        self._by_beginning: defaultdict[str, set[str]] = defaultdict(set)
        self._leaks: list[str] = []
        self._log: Path | None = None
        self._handler: logging.FileHandler | None = None
        self._read_to = 0

    def note(self, *secrets: str) -> None:
        """Remember secrets, except those recognised by format and those so short that any text may contain them.

        Text of few different characters, which tests send to be refused, is not a secret and is skipped.
        """
        for secret in secrets:
            if len(secret) >= SECRET_MIN_LENGTH and len(set(secret)) > 3 and not _SHAPE.search(secret):
                self._noted[secret] = None
                self._by_beginning[secret[:SECRET_MIN_LENGTH]].add(secret)
        while len(self._noted) > _NOTED_MAX:
            oldest = next(iter(self._noted))
            del self._noted[oldest]
            begun = self._by_beginning[oldest[:SECRET_MIN_LENGTH]]
            begun.discard(oldest)
            if not begun:
                del self._by_beginning[oldest[:SECRET_MIN_LENGTH]]

    def note_message(self, message: Message) -> None:
        """Remember the values of a message's fields that are marked as secret."""
        self.note(*secrets_in(message))

    def scan(self, where: str, text: str) -> None:
        """Search a piece of output for secrets."""
        found = [match.group() for match in _SHAPE.finditer(text)]
        found += self._noted_in(text)
        self._leaks += [f"{where}: {secret[:_SHOWN]}…" for secret in found]

    def _noted_in(self, text: str) -> list[str]:
        """The noted secrets in a text. Most texts hold not even the beginning of one, which is quickly found out."""
        if len(self._by_beginning) <= _FEW:
            begun = {beginning for beginning in self._by_beginning if beginning in text}
        else:
            pieces = {text[start : start + SECRET_MIN_LENGTH] for start in range(len(text) - SECRET_MIN_LENGTH + 1)}
            begun = pieces & self._by_beginning.keys()
        return [secret for beginning in begun for secret in self._by_beginning[beginning] if secret in text]

    def take_leaks(self) -> list[str]:
        """Return the leaks found since the last call, including those in the services' logs."""
        if self._log is not None:
            with self._log.open("rb") as log:
                log.seek(self._read_to)
                text = log.read()
            self._read_to += len(text)
            self.scan("the log", text.decode(errors="replace"))
        leaks, self._leaks = self._leaks, []
        return leaks

    async def scan_database(self, url: str) -> None:
        """Search every table of every context and its shards for secrets, including the audit trail."""
        connection = await asyncpg.connect(url, timeout=10, command_timeout=60)
        try:
            tables: list[str] = [row["name"] for row in await connection.fetch(_TABLES, list(CONTEXTS))]
            if not tables:
                return
            rows = await connection.fetch(" UNION ALL ".join(map(_text_of, tables)))
        finally:
            await connection.close()
        for row in rows:
            self.scan(f"the table {row['name']}", row["text"])

    def open_log(self) -> None:
        """Make the services of this process log, in production format, to a file that is searched for secrets."""
        folder = Path(tempfile.mkdtemp(prefix="tollhouse-log-"))
        root = logging.getLogger()
        before = root.handlers
        configure_logs("tests", "INFO")
        self.formatter = root.handlers[0].formatter
        self._log = folder / "services.log"
        self._handler = logging.FileHandler(self._log)
        self._handler.setFormatter(self.formatter)
        root.handlers = [*before, self._handler]

    def close_log(self) -> None:
        if self._log is None or self._handler is None:
            return
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()
        self._log.unlink()
        self._log.parent.rmdir()
        self._log = None


WATCH = SecretWatch()
"""The one of this test process."""

# Tables and partitions that hold anything: the empty ones are most, and planning to read them takes the longest.
_TABLES = """
    SELECT format('%I.%I', nspname, relname) AS name
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE regexp_replace(nspname, '_[0-9]+$', '') = ANY($1) AND relkind = 'r' AND pg_relation_size(pg_class.oid) > 0
    ORDER BY name
"""


def _text_of(table: str) -> str:
    """The rows of a table in pieces of a thousand, each row on a line."""
    return (
        f"SELECT '{table}' AS name, string_agg(row::text, E'\\n') AS text "  # noqa: S608 -- a name from the catalogue.
        f"FROM (SELECT row, (row_number() OVER () - 1) / 1000 AS piece FROM {table} AS row) AS rows GROUP BY piece"
    )


_known: dict[str, bool] = {}


def has_secrets(descriptor: Descriptor) -> bool:
    """Whether a message of this type can hold a field that is marked as secret."""
    known = _known.get(descriptor.full_name)
    if known is None:
        _known[descriptor.full_name] = False  # A provisional answer for recursive types; the final one is set below.
        known = any(
            is_secret(field) or (field.message_type is not None and has_secrets(field.message_type))
            for field in descriptor.fields
        )
        _known[descriptor.full_name] = known
    return known


def is_secret(field: FieldDescriptor) -> bool:
    """Whether a field is marked as secret. Digests are marked too, but a table may store them, so they do not count."""
    return bool(field.GetOptions().debug_redact) and field.name != "digest"


def secrets_in(message: Message) -> Iterator[str]:
    """Yield the texts in fields that are marked as secret, at any depth."""
    for field, value in message.ListFields():
        values: Iterable[object] = value if field.is_repeated and not _is_map(field) else [value]
        for one in values:
            if isinstance(one, Message):
                yield from secrets_in(one)
            elif is_secret(field) and isinstance(one, str):
                yield one


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
