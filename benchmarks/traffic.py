"""The requests of every measure, and the checks of the responses.

A call's number determines its operation id, account and amount, so every run is the same and the totals can be computed
beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf.message import Message

from benchmarks.load import Exchange, LoadError, Script, Step
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.common.v1 import amount_pb2
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, usage_pb2

CURRENCY = "USD"
DEBIT_VALUE = "0.0125"
MODELS = ("bench-small", "bench-medium", "bench-large", "bench-vision", "bench-code")
PROXY_DOMAIN = "bench"

_LEDGER = "/tollhouse.billing.v1.LedgerService"
_API_KEYS = "/tollhouse.identity.v1.ApiKeyService"
_USAGE = "/tollhouse.metering.v1.UsageService"
_ADMISSION = "/tollhouse.metering.v1.AdmissionService"


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization and one of its API keys."""

    organization_id: str
    api_key_id: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Echo:
    """The first step of another script, sent to the echo server."""

    of: Script

    def steps(self) -> tuple[Step, ...]:
        first = self.of.steps()[0]
        return (Step(first.path, type(self.of.requests(0, 1)[0][0])),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [exchange[:1] for exchange in self.of.requests(first, count)]

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        if list(replies) != list(requests):
            raise LoadError("the echo server changed a message")

    def method(self) -> tuple[str, str]:
        """Returns the message type and path, as the echo server's arguments."""
        step = self.steps()[0]
        return str(step.reply.DESCRIPTOR.full_name), step.path


@dataclass(frozen=True, slots=True)
class Debits:
    """Single debits, by organizations in turn."""

    organization_ids: tuple[str, ...]
    prefix: str

    def steps(self) -> tuple[Step, ...]:
        return (Step(f"{_LEDGER}/Debit", ledger_pb2.DebitResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [(self.request(number),) for number in range(first, first + count)]

    def request(self, number: int) -> ledger_pb2.DebitRequest:
        return ledger_pb2.DebitRequest(
            organization_id=self.organization_ids[number % len(self.organization_ids)],
            operation_id=f"{self.prefix}-{number}",
            amount=amount_pb2.Amount(currency_code=CURRENCY, value=DEBIT_VALUE),
        )

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (request,), (reply,) in zip(requests, replies, strict=True):
            check_debit(request, reply)


@dataclass(frozen=True, slots=True)
class DebitBatches:
    """Batches of debits on one organization's account."""

    debits: Debits
    size: int

    def steps(self) -> tuple[Step, ...]:
        return (Step(f"{_LEDGER}/BatchDebit", ledger_pb2.BatchDebitResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [(self._request(number),) for number in range(first, first + count)]

    def _request(self, number: int) -> ledger_pb2.BatchDebitRequest:
        items = range(number * self.size, (number + 1) * self.size)
        return ledger_pb2.BatchDebitRequest(requests=[self.debits.request(item) for item in items])

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (request,), (reply,) in zip(requests, replies, strict=True):
            if not (
                isinstance(request, ledger_pb2.BatchDebitRequest) and isinstance(reply, ledger_pb2.BatchDebitResponse)
            ):
                raise _unexpected(reply)
            for debit, outcome in zip(request.requests, reply.outcomes, strict=True):
                check_debit(debit, outcome.response)


@dataclass(frozen=True, slots=True)
class KeyChecks:
    """VerifyApiKey with API keys in turn."""

    tenants: tuple[Tenant, ...]

    def steps(self) -> tuple[Step, ...]:
        return (Step(f"{_API_KEYS}/VerifyApiKey", api_key_pb2.VerifyApiKeyResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [
            (api_key_pb2.VerifyApiKeyRequest(key=self._tenant(number).key, model=MODELS[0]),)
            for number in range(first, first + count)
        ]

    def _tenant(self, number: int) -> Tenant:
        return self.tenants[number % len(self.tenants)]

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        owners = {tenant.key: tenant for tenant in self.tenants}
        for (request,), (reply,) in zip(requests, replies, strict=True):
            if not (
                isinstance(request, api_key_pb2.VerifyApiKeyRequest)
                and isinstance(reply, api_key_pb2.VerifyApiKeyResponse)
                and reply.code == api_key_pb2.VERIFY_API_KEY_CODE_VALID
                and reply.api_key_id == owners[request.key].api_key_id
                and reply.principal.organization_id == owners[request.key].organization_id
            ):
                raise _unexpected(reply)


@dataclass(frozen=True, slots=True)
class UsageRecords:
    """Usage recorded one call at a time, by tenants and models in turn."""

    tenants: tuple[Tenant, ...]
    prefix: str

    def steps(self) -> tuple[Step, ...]:
        return (Step(f"{_USAGE}/RecordUsage", usage_pb2.RecordUsageResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [(self.request(number),) for number in range(first, first + count)]

    def request(self, number: int) -> usage_pb2.RecordUsageRequest:
        tenant = self.tenants[number % len(self.tenants)]
        return usage_pb2.RecordUsageRequest(
            operation_id=f"{self.prefix}-{number}",
            organization_id=tenant.organization_id,
            api_key_id=tenant.api_key_id,
            model=model_of(number, len(self.tenants)),
            tokens=tokens_of(number),
            latency_ms=850,
            status_code=200,
            endpoint="/v1/chat/completions",
        )

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (request,), (reply,) in zip(requests, replies, strict=True):
            check_usage(request, reply)


@dataclass(frozen=True, slots=True)
class UsageBatches:
    """Usage recorded in batches."""

    records: UsageRecords
    size: int

    def steps(self) -> tuple[Step, ...]:
        return (Step(f"{_USAGE}/BatchRecordUsage", usage_pb2.BatchRecordUsageResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [(self._request(number),) for number in range(first, first + count)]

    def _request(self, number: int) -> usage_pb2.BatchRecordUsageRequest:
        items = range(number * self.size, (number + 1) * self.size)
        return usage_pb2.BatchRecordUsageRequest(usages=[self.records.request(item) for item in items])

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (request,), (reply,) in zip(requests, replies, strict=True):
            if not (
                isinstance(request, usage_pb2.BatchRecordUsageRequest)
                and isinstance(reply, usage_pb2.BatchRecordUsageResponse)
            ):
                raise _unexpected(reply)
            for usage, outcome in zip(request.usages, reply.outcomes, strict=True):
                check_usage(usage, outcome.recorded)


@dataclass(frozen=True, slots=True)
class StreamedUsage:
    """Usage sent on a stream, some calls in each message; with a size of 1 as single calls."""

    records: UsageRecords
    size: int

    def steps(self) -> tuple[Step, ...]:
        return (Step(f"{_USAGE}/StreamUsage", usage_pb2.StreamUsageResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [(self._request(number),) for number in range(first, first + count)]

    def _request(self, number: int) -> usage_pb2.StreamUsageRequest:
        items = [self.records.request(item) for item in range(number * self.size, (number + 1) * self.size)]
        if self.size == 1:
            return usage_pb2.StreamUsageRequest(usage=items[0])
        return usage_pb2.StreamUsageRequest(usages=items)

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (request,), (reply,) in zip(requests, replies, strict=True):
            if not (
                isinstance(request, usage_pb2.StreamUsageRequest) and isinstance(reply, usage_pb2.StreamUsageResponse)
            ):
                raise _unexpected(reply)
            sent = {usage.operation_id: usage for usage in request.usages or [request.usage]}
            for outcome in reply.outcomes:
                check_usage(sent.pop(outcome.operation_id), outcome.recorded)
            if sent:
                raise _unexpected(reply)


@dataclass(frozen=True, slots=True)
class MeteredCalls:
    """Pairs of `Authorize` with the API key and `Settle`."""

    tenants: tuple[Tenant, ...]
    prefix: str

    def steps(self) -> tuple[Step, ...]:
        return (
            Step(f"{_ADMISSION}/Authorize", admission_pb2.AuthorizeResponse),
            Step(f"{_ADMISSION}/Settle", admission_pb2.SettleResponse),
        )

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [self.pair(number) for number in range(first, first + count)]

    def pair(self, number: int) -> tuple[admission_pb2.AuthorizeRequest, admission_pb2.SettleRequest]:
        tenant = self.tenants[number % len(self.tenants)]
        tokens, model = tokens_of(number), model_of(number, len(self.tenants))
        authorize = admission_pb2.AuthorizeRequest(
            operation_id=f"{self.prefix}-{number}",
            api_key=tenant.key,
            model=model,
            input_tokens=tokens.input,
            max_output_tokens=tokens.output * 2,
            endpoint="/v1/chat/completions",
        )
        settle = admission_pb2.SettleRequest(
            operation_id=authorize.operation_id,
            organization_id=tenant.organization_id,
            api_key_id=tenant.api_key_id,
            model=model,
            tokens=tokens,
            latency_ms=850,
            status_code=200,
            endpoint="/v1/chat/completions",
        )
        return authorize, settle

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for authorized, settled in replies:
            check_pair(authorized, settled)


@dataclass(frozen=True, slots=True)
class MeteredBatches:
    """Pairs of `BatchAuthorize` and `BatchSettle` of the same calls."""

    metered: MeteredCalls
    size: int

    def steps(self) -> tuple[Step, ...]:
        return (
            Step(f"{_ADMISSION}/BatchAuthorize", admission_pb2.BatchAuthorizeResponse),
            Step(f"{_ADMISSION}/BatchSettle", admission_pb2.BatchSettleResponse),
        )

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [self._pair(number) for number in range(first, first + count)]

    def _pair(self, number: int) -> Exchange:
        pairs = [self.metered.pair(item) for item in range(number * self.size, (number + 1) * self.size)]
        return (
            admission_pb2.BatchAuthorizeRequest(requests=[authorize for authorize, _ in pairs]),
            admission_pb2.BatchSettleRequest(requests=[settle for _, settle in pairs]),
        )

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for authorized, settled in replies:
            if not (
                isinstance(authorized, admission_pb2.BatchAuthorizeResponse)
                and isinstance(settled, admission_pb2.BatchSettleResponse)
                and len(authorized.outcomes) == len(settled.outcomes) == self.size
            ):
                raise _unexpected(settled)
            for decision, settlement in zip(authorized.outcomes, settled.outcomes, strict=True):
                check_pair(decision.decided, settlement.settled)


def check_pair(authorized: Message, settled: Message) -> None:
    """Raises LoadError unless the call was allowed, and settled now."""
    if not (
        isinstance(authorized, admission_pb2.AuthorizeResponse)
        and authorized.decision == admission_pb2.DECISION_ALLOWED
        and isinstance(settled, admission_pb2.SettleResponse)
        and settled.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
        and not settled.replayed
    ):
        raise _unexpected(settled)


@dataclass(frozen=True, slots=True)
class ProxyRequests:
    """ShouldRateLimit, as Envoy asks it: one descriptor with an organization and a key, by tenants in turn."""

    tenants: tuple[Tenant, ...]

    def steps(self) -> tuple[Step, ...]:
        return (Step("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", rls_pb2.RateLimitResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [(self._request(number),) for number in range(first, first + count)]

    def _request(self, number: int) -> rls_pb2.RateLimitRequest:
        tenant = self.tenants[number % len(self.tenants)]
        request = rls_pb2.RateLimitRequest(domain=PROXY_DOMAIN)
        descriptor = request.descriptors.add()
        descriptor.entries.add(key="organization", value=tenant.organization_id)
        descriptor.entries.add(key="key", value=tenant.api_key_id)
        return request

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (reply,) in replies:
            if not (
                isinstance(reply, rls_pb2.RateLimitResponse)
                and reply.overall_code == rls_pb2.RateLimitResponse.OK
                and [status.current_limit.name for status in reply.statuses] == ["limit-0"]
            ):
                raise _unexpected(reply)


def model_of(number: int, tenants: int) -> str:
    """Returns the model of a call; each tenant uses each model in turn."""
    return MODELS[(number // tenants) % len(MODELS)]


def tokens_of(number: int) -> model_pb2.TokenCounts:
    """Returns token counts of a usual size; every call has a cost above zero."""
    return model_pb2.TokenCounts(input=400 + number * 37 % 3600, output=50 + number * 13 % 450)


def check_debit(request: Message, reply: Message) -> None:
    """Raises LoadError unless the debit was posted in full and is not a replay."""
    if not (
        isinstance(request, ledger_pb2.DebitRequest)
        and isinstance(reply, ledger_pb2.DebitResponse)
        and reply.transaction.operation_id == request.operation_id
        and reply.posted_amount.value == request.amount.value
        and not reply.replayed
    ):
        raise _unexpected(reply)


def check_usage(request: Message, reply: Message) -> None:
    """Raises LoadError unless the usage was recorded, priced and charged and is not a replay."""
    if not (
        isinstance(request, usage_pb2.RecordUsageRequest)
        and isinstance(reply, usage_pb2.RecordUsageResponse)
        and reply.usage.operation_id == request.operation_id
        and reply.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
        and not reply.replayed
    ):
        raise _unexpected(reply)


def _unexpected(reply: Message) -> LoadError:
    return LoadError(f"unexpected response: {type(reply).__name__} {reply}")
