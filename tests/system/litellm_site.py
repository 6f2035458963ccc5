"""A site of LiteLLM's proxy for tests: what its callers ask, and what Tollhouse has recorded of it."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal

from libs.cli.terminal.connection import Channels
from tests.metering.support import eventually
from tests.system.installation import create_organization_and_owner
from tests.system.litellm_proxy import Answer, Proxy
from tests.system.model_provider import Upstream
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.billing.v1.ledger_pb2_grpc import LedgerServiceStub
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.identity.v1.api_key_pb2_grpc import ApiKeyServiceStub
from tollhouse.metering.v1 import admission_pb2, usage_pb2
from tollhouse.metering.v1.admission_pb2_grpc import AdmissionServiceStub
from tollhouse.metering.v1.usage_pb2_grpc import UsageServiceStub

TEXT = [{"role": "user", "content": "What does the fox say?"}]


@dataclass
class Site:
    """A proxy between callers and a provider, and the Tollhouse that meters it."""

    channels: Channels
    proxy: Proxy
    upstream: Upstream
    organization_id: str
    key: str

    async def usages(self) -> Mapping[str, usage_pb2.UsageRecord]:
        """Every usage of the organization, by operation id."""
        stub: UsageServiceStub = UsageServiceStub(self.channels.metering)
        request = usage_pb2.ListUsageRequest(organization_id=self.organization_id, page_size=1000)
        return {usage.operation_id: usage for usage in (await stub.ListUsage(request)).usages}

    async def usage(self, mark: str) -> usage_pb2.UsageRecord:
        """The one usage of the calls with a mark, as soon as it is recorded."""
        (usage,) = await self.usages_of(mark, 1)
        return usage

    async def usages_of(self, mark: str, count: int) -> list[usage_pb2.UsageRecord]:
        """The usages of the calls with a mark, which must be so many in the end."""

        async def found() -> list[usage_pb2.UsageRecord]:
            found = [usage for usage in (await self.usages()).values() if usage.labels["litellm_call_id"] == mark]
            return [usage for usage in found if usage.settlement != usage_pb2.SETTLEMENT_PENDING]

        usages = await eventually(found, lambda found: len(found) >= count)
        assert len(usages) == count
        assert {usage.settlement for usage in usages} == {usage_pb2.SETTLEMENT_SETTLED}, usages
        return usages

    async def ask(self, mark: str, **fields: object) -> Answer:
        """Ask for a chat completion under a mark."""
        return await self.post("/v1/chat/completions", mark, {"messages": TEXT, "user": mark, **fields})

    async def post(self, path: str, mark: str, body: Mapping[str, object], leave_after: bytes = b"") -> Answer:
        """Post a request whose call id, which callers may choose, is the mark."""
        body = {"model": "gpt-5", **body}
        return await self.proxy.post(path, self.key, body, f"x-litellm-call-id: {mark}", leave_after=leave_after)

    @contextmanager
    def metering_stopped(self) -> Iterator[None]:
        """Let metering answer nothing for as long as the context lasts."""
        process = self.proxy.installation.pids()["metering"]
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)

    async def states(self) -> list[admission_pb2.Authorization]:
        """What has become of the organization's authorizations."""
        stub: AdmissionServiceStub = AdmissionServiceStub(self.channels.metering)
        request = admission_pb2.ListAuthorizationsRequest(organization_id=self.organization_id, page_size=1000)
        return list((await stub.ListAuthorizations(request)).authorizations)


def quantities(usage: usage_pb2.UsageRecord) -> dict[str, int]:
    """Everything that a usage has counted, by unit."""
    classes = {f"{field.name}_tokens": number for field, number in usage.tokens.ListFields()}
    return classes | {quantity.unit: int(quantity.value) for quantity in usage.quantities}


def cost(usage: usage_pb2.UsageRecord) -> Decimal:
    return Decimal(usage.cost.value)


async def new_caller(channels: Channels) -> tuple[str, str]:
    """Return an organization with money, and a key of it."""
    organization_id, owner = await create_organization_and_owner(channels)
    amount = Amount(currency_code="USD", value="100")
    ledger: LedgerServiceStub = LedgerServiceStub(channels.billing)
    await ledger.Credit(ledger_pb2.CreditRequest(organization_id=organization_id, operation_id="in", amount=amount))
    keys: ApiKeyServiceStub = ApiKeyServiceStub(channels.identity)
    request = api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=owner, name="of a caller")
    return organization_id, (await keys.CreateApiKey(request)).secret
