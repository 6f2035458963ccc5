"""Finds what the next invoice of an account covers. It reads only, and writes nothing that others see."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, TypeAlias

from libs.common.clock import Clock
from libs.common.database import RawConnection, see_one_moment
from libs.common.errors import FieldViolation, InvalidArgument, Unavailable
from libs.common.shards import Shards
from services.billing import errors, invoice_errors
from services.billing.clients.usages import ChargedUsage, Usages
from services.billing.invoice import movement_store, store
from services.billing.invoice.domain import ZERO, Line, Step, credits_applied
from services.billing.invoice.gathering import Charged, Gathering, PlanPeriod, Used, belongs_to
from services.billing.ledger import grant_store
from services.billing.ledger import store as ledger_store
from services.billing.ledger.domain import Account, SettleGrants
from services.billing.ledger.engine import Engine

MOVEMENTS_MAX: Final = 200_000
"""How many movements of the account an invoice adds to what was covered; the next one goes on after them."""
_REPLACED_MAX: Final = 100
"""How many voided invoices one covers again; the next one covers further ones."""
_PAGE: Final = 500
_Told: TypeAlias = tuple[Charged, Used | None, PlanPeriod | None]
"""A movement, the usage behind it, and the period of a subscription that it is for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which invoice is wanted."""

    organization_id: str
    project_id: str | None
    currency_code: str
    """Empty for the only one there is."""
    end_time: datetime | None
    """None for the beginning of the current month of UTC."""


@dataclass(slots=True)
class Collected:
    """What the next invoice of an account has, as of one moment."""

    account: Account
    step: Step
    position: int
    replaces: tuple[tuple[str, ...], ...]
    """The voided invoices whose movements it covers again, each with those that it had replaced."""
    lines: tuple[Line, ...] = ()
    step_amount: Decimal = ZERO
    rest_from: int | None = None
    """The first movement up to the last one that belongs to a later time."""
    rest_amount: Decimal = ZERO
    balance: Decimal = ZERO
    """The account's after the last movement."""
    voided_due: Decimal = ZERO
    """What was left to pay of the voided invoices when they were issued."""
    grants_used: Mapping[str, Decimal] = field(default_factory=dict)
    """Since the account was opened, by kind."""
    grants_used_before: Mapping[str, Decimal] = field(default_factory=dict)

    grants_used_in_voided: Mapping[str, Decimal] = field(default_factory=dict)
    """Of what voided invoices have said that this one says again, by kind."""

    @property
    def subtotal(self) -> Decimal:
        return sum((line.amount for line in self.lines), ZERO)

    @property
    def credits_applied(self) -> Decimal:
        """What of the subtotal was paid from the balance."""
        return credits_applied(self.subtotal, self.balance + self.rest_amount, self.step_amount + self.voided_due)

    @property
    def credits_used(self) -> dict[str, Decimal]:
        """What was used of grants since the invoice before, and for what the voided invoices covered."""
        before, again = self.grants_used_before, self.grants_used_in_voided
        changes = {
            kind: self.grants_used.get(kind, ZERO) - before.get(kind, ZERO) + again.get(kind, ZERO)
            for kind in {*self.grants_used, *again}
        }
        return {kind: change for kind, change in sorted(changes.items()) if change > 0}


class Collection:
    """Finds what invoices cover."""

    def __init__(self, shards: Shards, engine: Engine, usages: Usages | None, clock: Clock) -> None:
        """`usages` is None where billing knows no metering."""
        self._shards = shards
        self._engine = engine
        self._usages = usages
        self._clock = clock

    async def collect(self, wanted: Wanted) -> Collected:
        """Return what the next invoice of an account has.

        Raises:
            AccountNotFound: the owner has no account in this unit.
            CurrencyRequired: none is named, and the owner has several.
            InvalidArgument: the end_time is in the future.
            InvoiceEndsTooEarly: an invoice covers a later time already.
            NothingToInvoice: there is no movement to cover.
            Unavailable: metering cannot be asked.
        """
        now = self._clock.now()
        end_time = month_of(now) if wanted.end_time is None else wanted.end_time
        if end_time > now:
            raise InvalidArgument([FieldViolation("end_time", "must not be in the future")])
        currency_code = await self._currency(wanted)
        settle = SettleGrants(wanted.organization_id, "", wanted.project_id, currency_code)
        await self._engine.settle_grants([settle])
        collected = await self._begin(wanted, currency_code, end_time)
        await self._gather(collected)
        if not collected.lines:
            raise invoice_errors.NothingToInvoice(end_time=end_time)
        return collected

    async def _currency(self, wanted: Wanted) -> str:
        owner_id = wanted.project_id or wanted.organization_id
        async with self._shards.of(wanted.organization_id).raw_connection() as connection:
            owned = await ledger_store.find_owned(connection, wanted.organization_id, owner_id)
        codes = sorted(account.currency_code for account in owned)
        if not codes or (wanted.currency_code and wanted.currency_code not in codes):
            raise errors.AccountNotFound
        if wanted.currency_code:
            return wanted.currency_code
        if len(codes) > 1:
            raise errors.CurrencyRequired(account_currency_codes=", ".join(codes))
        return codes[0]

    async def _begin(self, wanted: Wanted, currency_code: str, end_time: datetime) -> Collected:
        """Read the account, and where its invoices have come to, as of one moment."""
        organization_id = wanted.organization_id
        owner_id = wanted.project_id or organization_id
        async with self._shards.of(organization_id).raw_transaction() as connection:
            await see_one_moment(connection)
            owned = await ledger_store.find_owned(connection, organization_id, owner_id)
            account = next(one for one in owned if one.currency_code == currency_code)
            head = await store.find_head(connection, organization_id, account.account_id)
            free = await store.find_free(connection, organization_id, account.account_id, _REPLACED_MAX)
            step = _step(head, account, end_time)
            balance = await movement_store.balance_at(connection, organization_id, account.account_id, step.to_sequence)
            direct = [one[0] for one in free]
            return Collected(
                account,
                step,
                position=1 if head is None else head.position + 1,
                replaces=free,
                balance=balance,
                voided_due=await store.due_of(connection, organization_id, direct),
                grants_used=await _grants_used(connection, account, self._clock.now()),
                grants_used_before={} if head is None else head.grants_used,
                # Each has said what those said that it had replaced.
                grants_used_in_voided=await store.credits_used(connection, organization_id, direct),
            )

    async def _gather(self, collected: Collected) -> None:
        """Read the movements of the step, and those of voided invoices, page by page."""
        gathering = Gathering()
        async for charged, used, period in self._movements(collected, collected.step):
            moment = belongs_to(charged, used, period)
            if collected.step.covers(charged.sequence, moment):
                gathering.add(charged, used, period)
                collected.step_amount += charged.amount
            elif moment >= collected.step.to_time:
                collected.rest_amount += charged.amount
                if collected.rest_from is None:
                    collected.rest_from = charged.sequence
        for step in await self._steps_to_replace(collected):
            async for charged, used, period in self._movements(collected, step):
                if step.covers(charged.sequence, belongs_to(charged, used, period)):
                    gathering.add(charged, used, period)
        collected.lines = gathering.lines(await self._rates(collected.account.organization_id, gathering))

    async def _steps_to_replace(self, collected: Collected) -> Sequence[Step]:
        invoice_ids = [one for replaced in collected.replaces for one in replaced]
        if not invoice_ids:
            return ()
        organization_id = collected.account.organization_id
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await store.find_steps(connection, organization_id, invoice_ids)

    async def _movements(self, collected: Collected, step: Step) -> AsyncIterator[_Told]:
        """Yield the movements that may be in a step, each with what it was for."""
        account, after = collected.account, step.first_sequence - 1
        organization_id = account.organization_id
        while after < step.to_sequence:
            async with self._shards.of(organization_id).raw_connection() as connection:
                bounds = after, step.to_sequence
                page = await movement_store.page(connection, organization_id, account.account_id, bounds, _PAGE)
                unmetered = [one.operation_id for one in page if not one.is_metered]
                periods = await movement_store.periods(connection, organization_id, unmetered) if unmetered else {}
            usages = await self._usages_of(organization_id, page)
            for charged in page:
                yield charged, _used(charged, usages), periods.get(charged.operation_id)
            if len(page) < _PAGE:
                return
            after = page[-1].sequence

    async def _usages_of(self, organization_id: str, page: Sequence[Charged]) -> Mapping[str, ChargedUsage]:
        metered = [one for one in page if one.is_metered]
        if not metered:
            return {}
        if self._usages is None:
            raise Unavailable(dependency="metering")
        operation_ids = {one.operation_id for one in metered}
        operation_ids |= {one.hold_operation_id for one in metered if one.hold_operation_id is not None}
        return await self._usages.of_charges(organization_id, sorted(operation_ids))

    async def _rates(self, organization_id: str, gathering: Gathering) -> dict[tuple[str, str, str], tuple[str, ...]]:
        found: dict[tuple[str, str, str], tuple[str, ...]] = {}
        for model, price_version_id in sorted(gathering.price_versions):
            assert self._usages is not None
            rates = await self._usages.rates(organization_id, model, price_version_id)
            found |= {(price_version_id, tier, unit): texts for (tier, unit), texts in rates.items()}
        return found


def month_of(moment: datetime) -> datetime:
    """Return the beginning of a moment's month of UTC."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _step(head: store.Head | None, account: Account, end_time: datetime) -> Step:
    """Return what the next invoice adds to what was covered."""
    after = 0 if head is None else head.to_sequence
    from_time = None if head is None else head.to_time
    if from_time is not None and end_time < from_time:
        raise invoice_errors.InvoiceEndsTooEarly(end_time=end_time, covered_until_time=from_time)
    first = after + 1 if head is None or head.rest_from is None else head.rest_from
    return Step(after, from_time, min(account.sequence, after + MOVEMENTS_MAX), end_time, first)


async def _grants_used(connection: RawConnection, account: Account, now: datetime) -> dict[str, Decimal]:
    """Return what was used of an account's grants, by kind: what was granted less what expired and what is left."""
    used = await movement_store.granted_less_expired(connection, account.organization_id, account.account_id)
    if not used:
        return used
    grants = await grant_store.find_account_grants(connection, [account], now)
    for grant in grants[account.account_id].present(account.posted).grants:
        if grant.kind.value in used:
            used[grant.kind.value] -= grant.rest
    return used


def _used(charged: Charged, usages: Mapping[str, ChargedUsage]) -> Used | None:
    """Return the usage behind a charge.

    A part of a call has no usage of its own: it goes to the line of the call's, without a quantity, and is of its own
    moment. While the call goes on, the model alone is known.
    """
    if not charged.is_metered:
        return None
    own = usages.get(charged.operation_id)
    if own is not None and own.model:
        return Used(*own)
    moment = charged.create_time if own is None else own.occur_time
    whole = None if charged.hold_operation_id is None else usages.get(charged.hold_operation_id)
    if whole is not None and whole.model:
        return Used(moment, whole.model, whole.service_tier, whole.price_version_id, {})
    return Used(moment, charged.description, "", "", {})
