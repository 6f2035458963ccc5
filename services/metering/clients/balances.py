"""Asks billing whether an organization or a project has money, and caches the answers.

An answer is used for at most a second. Concurrent questions about the same account share one request.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import grpc

from libs.common.deadline import leave_deadline
from libs.common.errors import Overloaded, Unavailable
from libs.common.status import reason_of
from tollhouse.billing.v1 import account_pb2 as pb
from tollhouse.billing.v1 import account_pb2_grpc as rpc

_GOOD_FOR_S: Final = 1.0
_ASK_WITHIN_S: Final = 1.0
_ASK_AGAIN_AFTER_S: Final = 0.2
"""For how long after billing could not be reached it is not asked again."""
_KNOWN_MAX: Final = 50_000
_QUESTIONS_MAX: Final = 64
"""How many questions are with billing at once."""
_WAITING_MAX: Final = 20_000
_CURRENCY_REQUIRED: Final = "CURRENCY_REQUIRED"

Payer = tuple[str, str, str]
"""An organization, a project in it or empty, and a currency or empty."""


@dataclass(frozen=True, slots=True)
class Funds:
    """Whether there is money."""

    any_left: bool
    facts: Mapping[str, str] = field(default_factory=dict)
    """The currency, where there is an account. No figures: whoever has a key need not know them."""


class Balances:
    """Says whether there is money, with a cache."""

    def __init__(self, channel: grpc.aio.Channel, *, known_max: int = _KNOWN_MAX) -> None:
        self._accounts: rpc.AccountServiceStub = rpc.AccountServiceStub(channel)
        self._known_max = known_max
        self._known: OrderedDict[Payer, tuple[Funds, float]] = OrderedDict()
        self._asking: dict[Payer, asyncio.Task[Funds]] = {}
        self._questions = asyncio.Semaphore(_QUESTIONS_MAX)
        self._ask_again_s = 0.0

    async def funds_of(self, organization_id: str, project_id: str = "", currency_code: str = "") -> Funds:
        """Return whether there is money in the account that a project's usage, or the organization's, is charged to.

        Where there is no account there is none. Where there are accounts in several currencies and none is named, some
        is assumed to be left.

        Raises:
            Overloaded: too many questions wait already.
            Unavailable: billing cannot be asked.
        """
        payer = organization_id, project_id, currency_code
        known, good_until_s = self._known.get(payer, (None, 0.0))
        if known is not None and time.monotonic() < good_until_s:
            return known
        asking = self._asking.get(payer)
        if asking is None:
            if time.monotonic() < self._ask_again_s:
                raise Unavailable(dependency="billing")
            if len(self._asking) >= _WAITING_MAX:
                raise Overloaded
            asking = self._asking[payer] = asyncio.create_task(self._ask(payer), name="balance")
            asking.add_done_callback(lambda done: self._note_answered(payer, done))
        # Shielded: if this caller is cancelled, the others still get the answer.
        return await asyncio.shield(asking)

    def _note_answered(self, payer: Payer, asking: "asyncio.Task[Funds]") -> None:
        del self._asking[payer]
        if not asking.cancelled():
            asking.exception()  # Marks the exception as retrieved, also where nobody waits any more.

    async def _ask(self, payer: Payer) -> Funds:
        leave_deadline()
        organization_id, project_id, currency_code = payer
        request = pb.GetBalanceRequest(
            organization_id=organization_id, project_id=project_id, currency_code=currency_code
        )
        async with self._questions:
            asked_s = time.monotonic()
            try:
                funds = _funds(await self._accounts.GetBalance(request, timeout=_ASK_WITHIN_S))
            except grpc.aio.AioRpcError as error:
                funds = self._without_balance(error)
        self._known.pop(payer, None)
        self._known[payer] = funds, asked_s + _GOOD_FOR_S
        if len(self._known) > self._known_max:
            self._known.popitem(last=False)
        return funds

    def _without_balance(self, error: grpc.aio.AioRpcError) -> Funds:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return Funds(any_left=False)
        if reason_of(error) == _CURRENCY_REQUIRED:
            return Funds(any_left=True)
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            self._ask_again_s = time.monotonic() + _ASK_AGAIN_AFTER_S
        raise Unavailable(dependency="billing") from error


def _funds(response: pb.GetBalanceResponse) -> Funds:
    balance = response.balance
    # What is left for certain users and models may be for this one: only a hold decides that.
    any_left = Decimal(balance.available.value) > 0 or bool(balance.scoped.value and Decimal(balance.scoped.value) > 0)
    return Funds(any_left, {"currency_code": balance.available.currency_code})
