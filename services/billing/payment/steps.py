"""Stores payments together with what they move: each step is one transaction of the ledger.

A payment that is stored as completed has its award in the same transaction. Where more follows, such as a refund that
was told of together with the payment, each further step is a transaction of its own, which changes the payment's sums
with the movements. A process that dies between two steps leaves a payment that is not settled; whoever applies a fact
to it again goes on from there, and so does `settling`.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, TypeAlias

from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.errors import OperationIdReused
from libs.common.events.outbox import announce
from libs.common.shards import Shards
from services.billing import errors, next_steps, payment_errors
from services.billing.ledger import store as ledger_store
from services.billing.ledger.domain import (
    Also,
    Credit,
    GiveBack,
    GrantCredits,
    Granted,
    Kind,
    Outcome,
    Posted,
    Returned,
    Source,
    SystemAccount,
    TakeBack,
)
from services.billing.ledger.engine import Engine
from services.billing.ledger.grants import GrantKind
from services.billing.payment import store
from services.billing.payment.announcements import events_of
from services.billing.payment.domain import (
    ZERO,
    Award,
    Brings,
    Give,
    Payment,
    PaymentType,
    Step,
    Take,
    next_step,
)
from services.billing.payment.movements import Moved, MovementKind, after

Extra: TypeAlias = Callable[[RawConnection, Payment], Awaitable[None]]
"""Writes more in the transaction that stores a payment. It may run again, in another transaction."""
_STEP: Final = next_steps.StepKind.PAYMENT
_ROWS_OF_STEP: Final = 1_000
"""The rows of a step are numbered from its number times this."""


class Steps:
    """Stores payments, and does what follows from what was said of them."""

    def __init__(self, shards: Shards, engine: Engine, clock: Clock, *, into_debt: bool) -> None:
        """`into_debt` says what becomes of what was used of a refunded payment: a debt, or it is written off."""
        self._shards = shards
        self._engine = engine
        self._clock = clock
        self._into_debt = into_debt

    async def require_open(self, organization_id: str, currency_code: str) -> None:
        """Check that an account can take what is to be paid for. One that does not exist is opened then.

        Raises:
            AccountClosed: it is closed.
        """
        async with self._shards.of(organization_id).raw_connection() as connection:
            owned = await ledger_store.find_owned(connection, organization_id, organization_id)
        for account in owned:
            if account.currency_code == currency_code and account.closed:
                raise errors.AccountClosed(account_id=account.account_id)

    async def store(self, payment: Payment, extra: Extra | None = None) -> Payment:
        """Store a payment as it was changed, and do all that follows from it; return it as it is then.

        `extra` is run with the first transaction.

        Raises:
            PaymentChanged: somebody else has changed it since it was read, or stored it. Read it again.
            AccountClosed, TooManyGrants, BalanceOutOfRange: the account does not take it; nothing is stored.
        """
        while True:
            payment = await self._do(payment, next_step(payment), extra)
            if next_step(payment) is None:
                return payment
            extra = None

    async def keep(self, payment: Payment, extra: Extra | None = None) -> Payment:
        """Store a payment as it was changed, and do nothing yet of what follows from it.

        Raises:
            PaymentChanged: as `store` does.
        """
        return await self._do(payment, None, extra)

    async def _do(self, payment: Payment, step: Step | None, extra: Extra | None) -> Payment:
        now = self._clock.now()
        payment = replace(payment, update_time=now)
        stored: list[Payment] = []
        context = contextvars.copy_context()

        async def write(connection: RawConnection, moved: tuple[Moved, ...], grant_id: str | None) -> None:
            done = payment if step is None else after(payment, moved, grant_id)
            if not await store.put(connection, done):
                raise payment_errors.PaymentChanged(payment_id=payment.payment_id)
            if moved:
                await store.add_moved(connection, done, moved, payment.steps * _ROWS_OF_STEP + 1, now)
            if done.awarded and not payment.awarded and done.type is PaymentType.SUBSCRIPTION:
                await next_steps.add(connection, done.organization_id, _STEP, done.payment_id, now)
            events = events_of(done)
            if events:
                await announce(connection, events, now)
            done = replace(
                done,
                revision=done.revision + 1,
                stored_status=done.status,
                stored_refunded=done.refunded_amount,
            )
            if extra is not None:
                # The ledger's batch runs in the context of another call; what is written here is of this one.
                await asyncio.get_running_loop().create_task(_run(extra, connection, done), context=context)
            stored[:] = [done]

        if step is None or (isinstance(step, Give) and not step.money and not step.credits):
            moved = () if step is None else (Moved(MovementKind.REINSTATED, step.reinstated),)
            async with self._shards.of(payment.organization_id).raw_transaction() as connection:
                await write(connection, moved, None)
            return stored[0]

        async def also(connection: RawConnection, outcome: Outcome) -> None:
            await write(connection, *_moved(step, outcome))

        command = await self._command(payment, step, also, now)
        (answer,) = await self._engine.submit([command])
        if isinstance(answer, OperationIdReused):
            # Another process has done this step a moment before, so at another time.
            raise payment_errors.PaymentChanged(payment_id=payment.payment_id)
        if isinstance(answer, Exception):
            raise answer
        if not stored or not isinstance(answer, Posted | Granted | Returned) or answer.replayed:
            # Another process has done this step, or ours has, in a transaction of which the end was not known.
            raise payment_errors.PaymentChanged(payment_id=payment.payment_id)
        return stored[0]

    async def _command(
        self, payment: Payment, step: Step, also: Also, now: datetime
    ) -> Credit | GrantCredits | TakeBack | GiveBack:
        operation_id = f"payment/{payment.payment_id}/{payment.steps}"
        assert payment.credits is not None
        match step:
            case Award() if payment.brings is Brings.MONEY:
                return _credit(payment, operation_id, also)
            case Award():
                return _grant(payment, operation_id, payment.credits.amount, also, now)
            case Take():
                async with self._shards.of(payment.organization_id).raw_connection() as connection:
                    sources = await store.find_sources(connection, payment.organization_id, payment.payment_id)
                return self._take_back(payment, operation_id, step.amount, sources, also)
            case Give():
                grant = _grant(payment, operation_id, step.credits, None, now) if step.credits else None
                is_money = payment.brings is Brings.MONEY
                return GiveBack(
                    organization_id=payment.organization_id,
                    operation_id=operation_id,
                    currency_code=payment.credits.currency_code,
                    money=step.money,
                    money_from=SystemAccount.PAYMENTS if is_money else SystemAccount.GRANTS,
                    grant=grant,
                    description=f"payment {payment.payment_id}: given back",
                    actor=payment.actor,
                    also=also,
                )

    def _take_back(
        self, payment: Payment, operation_id: str, amount: Decimal, sources: tuple[Source, ...], also: Also
    ) -> TakeBack:
        assert payment.credits is not None
        return TakeBack(
            organization_id=payment.organization_id,
            operation_id=operation_id,
            currency_code=payment.credits.currency_code,
            amount=amount,
            sources=sources,
            into_debt=self._into_debt,
            description=f"payment {payment.payment_id}: {'disputed' if payment.disputed else 'refunded'}",
            actor=payment.actor,
            also=also,
        )


async def _run(extra: Extra, connection: RawConnection, payment: Payment) -> None:
    await extra(connection, payment)


def _credit(payment: Payment, operation_id: str, also: Also) -> Credit:
    assert payment.credits is not None
    return Credit(
        organization_id=payment.organization_id,
        operation_id=operation_id,
        project_id=None,
        currency_code=payment.credits.currency_code,
        amount=payment.credits.amount,
        source=SystemAccount.PAYMENTS,
        description=payment.description,
        metadata={"payment_id": payment.payment_id},
        actor=payment.actor,
        opens_account=True,
        also=also,
    )


def _grant(payment: Payment, operation_id: str, amount: Decimal, also: Also | None, now: datetime) -> GrantCredits:
    """Return the command that grants credits of a payment. They expire as those did that it brought first."""
    credits_ = payment.credits
    assert credits_ is not None
    expire_time = credits_.expire_time
    if expire_time is None and credits_.expire_after_days:
        expire_time = (payment.processed_time or now) + timedelta(days=credits_.expire_after_days)
    # Where they have expired, they begin and expire at once, so that both are on record.
    effective_time = now if expire_time is None else min(now, expire_time - timedelta(microseconds=1))
    return GrantCredits(
        organization_id=payment.organization_id,
        operation_id=operation_id,
        project_id=None,
        currency_code=credits_.currency_code,
        amount=amount,
        kind=GrantKind.PURCHASED,
        priority=credits_.priority,
        effective_time=effective_time,
        expire_time=expire_time,
        source_reference=f"payment/{payment.payment_id}",
        description=payment.description,
        metadata=None,
        actor=payment.actor,
        opens_account=True,
        may_be_over=True,
        also=also,
    )


def _moved(step: Step, outcome: Outcome) -> tuple[tuple[Moved, ...], str | None]:
    """Return what a command has moved, and the grant that it made."""
    match step, outcome:
        case Award(), Posted(movement=movement):
            return (Moved(MovementKind.AWARDED_MONEY, movement.amount, movement.operation_id),), None
        case Award(), Granted(grant=grant):
            awarded = Moved(
                MovementKind.AWARDED_CREDITS, grant.amount, grant.grant_id, grant.operation_id, grant.grant_id
            )
            return (awarded,), grant.grant_id
        case Take(), Returned(movements=movements):
            taken = [
                Moved(
                    MovementKind.TAKEN_CREDITS if one.kind is Kind.VOID else MovementKind.TAKEN_MONEY,
                    one.amount,
                    one.operation_id,
                )
                for one in movements
            ]
            rest = step.amount - sum((one.amount for one in taken), ZERO)
            return (*taken, *([Moved(MovementKind.WRITTEN_OFF, rest)] if rest else [])), None
        case Give(), Returned(movements=movements, grant=given):
            back = [Moved(MovementKind.GIVEN_MONEY, one.amount, one.operation_id) for one in movements]
            if given is not None:
                back.append(
                    Moved(MovementKind.GIVEN_CREDITS, given.amount, given.grant_id, given.operation_id, given.grant_id)
                )
            if step.reinstated:
                back.append(Moved(MovementKind.REINSTATED, step.reinstated))
            return tuple(back), None
    raise TypeError(step, outcome)
