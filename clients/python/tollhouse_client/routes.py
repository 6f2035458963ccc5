"""The RPCs whose calls travel together: the one for a single call, the one for many, and how their messages relate.

A batch request is one repeated field with number 1, so it is written by putting the messages one after another, each
with its length: they are serialized once, and nothing is copied into a second message.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeAlias, TypeVar, cast

from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from tollhouse.billing.v1 import ledger_pb2
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, usage_pb2
from tollhouse_client.errors import Internal, TollhouseError, error_of

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)
Outcome: TypeAlias = Answer | TollhouseError

BATCH_BYTES_MAX: Final = 3_000_000
"""Bytes of a batch at most; a message of more travels alone. The services take 4 MiB."""
_FIELD_ONE: Final = b"\x0a"
_SHORT: Final = [_FIELD_ONE + bytes((length,)) for length in range(128)]


class _Outcomes(Protocol):
    """What a batch answers: one outcome for each request, in their order."""

    @property
    def outcomes(self) -> Sequence[Message]: ...


@dataclass(frozen=True, slots=True)
class Batched:
    """The RPC for many calls."""

    path: str
    items_max: int
    answer: type[Message]
    answered: str
    """The field of an outcome that holds the answer of a single call."""
    refused: str
    """The field of an outcome that holds the status of a call that failed."""


@dataclass(frozen=True, slots=True)
class Route(Generic[Request, Answer]):
    """One kind of call."""

    context: str
    path: str
    answer: type[Answer]
    batched: Batched | None
    has_operation: bool = True
    """Whether its requests have an operation_id, the order of whose calls is kept."""

    def operation_id_of(self, request: Request) -> str:
        """Return the operation_id of a request; empty where it has none."""
        if not self.has_operation:
            return ""
        operation_id: str = request.operation_id  # type: ignore[attr-defined]  # which these messages have
        return operation_id

    def read(self, data: bytes) -> Outcome[Answer]:
        """Read the answer to a single call."""
        try:
            return self.answer.FromString(data)
        except DecodeError:
            return malformed(self.path)

    def read_batch(self, data: bytes, count: int) -> "list[Outcome[Answer]]":
        """Read the outcomes of a batch of `count` calls."""
        batched = self.batched
        assert batched is not None
        try:
            outcomes: Sequence[Message] = cast(_Outcomes, batched.answer.FromString(data)).outcomes
        except DecodeError:
            outcomes = ()
        if len(outcomes) != count:
            return [malformed(batched.path) for _ in range(count)]
        answered, refused = batched.answered, batched.refused
        read: list[Outcome[Answer]] = []
        for outcome in outcomes:
            if outcome.HasField(answered):
                read.append(getattr(outcome, answered))
            elif outcome.HasField(refused):
                status: status_pb2.Status = getattr(outcome, refused)
                read.append(error_of(status))
            else:
                read.append(malformed(batched.path))
        return read


def malformed(path: str) -> TollhouseError:
    """Return what a call fails with whose answer makes no sense. It may have been carried out."""
    return Internal(f"The answer of {path} cannot be read.", reason="CLIENT_MALFORMED_ANSWER")


def batch_of(messages: Iterable[bytes]) -> bytes:
    """Write a message that has these as its repeated field 1."""
    parts: list[bytes] = []
    add = parts.append
    for message in messages:
        length = len(message)
        add(_SHORT[length] if length < 128 else _FIELD_ONE + _varint(length))
        add(message)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


_ADMISSION: Final = "/tollhouse.metering.v1.AdmissionService/"
_USAGE: Final = "/tollhouse.metering.v1.UsageService/"
_LEDGER: Final = "/tollhouse.billing.v1.LedgerService/"
_API_KEYS: Final = "/tollhouse.identity.v1.ApiKeyService/"

AUTHORIZE: Final[Route[admission_pb2.AuthorizeRequest, admission_pb2.AuthorizeResponse]] = Route(
    "metering",
    f"{_ADMISSION}Authorize",
    admission_pb2.AuthorizeResponse,
    Batched(f"{_ADMISSION}BatchAuthorize", 200, admission_pb2.BatchAuthorizeResponse, "decided", "refused"),
)
SETTLE: Final[Route[admission_pb2.SettleRequest, admission_pb2.SettleResponse]] = Route(
    "metering",
    f"{_ADMISSION}Settle",
    admission_pb2.SettleResponse,
    Batched(f"{_ADMISSION}BatchSettle", 200, admission_pb2.BatchSettleResponse, "settled", "refused"),
)
RECORD_USAGE: Final[Route[usage_pb2.RecordUsageRequest, usage_pb2.RecordUsageResponse]] = Route(
    "metering",
    f"{_USAGE}RecordUsage",
    usage_pb2.RecordUsageResponse,
    Batched(f"{_USAGE}BatchRecordUsage", 500, usage_pb2.BatchRecordUsageResponse, "recorded", "refused"),
)
DEBIT: Final[Route[ledger_pb2.DebitRequest, ledger_pb2.DebitResponse]] = Route(
    "billing",
    f"{_LEDGER}Debit",
    ledger_pb2.DebitResponse,
    Batched(f"{_LEDGER}BatchDebit", 200, ledger_pb2.BatchDebitResponse, "response", "error"),
)
VERIFY_API_KEY: Final[Route[api_key_pb2.VerifyApiKeyRequest, api_key_pb2.VerifyApiKeyResponse]] = Route(
    "identity",
    f"{_API_KEYS}VerifyApiKey",
    api_key_pb2.VerifyApiKeyResponse,
    Batched(f"{_API_KEYS}BatchVerifyApiKeys", 200, api_key_pb2.BatchVerifyApiKeysResponse, "decided", "refused"),
    has_operation=False,
)
