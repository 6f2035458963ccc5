"""Tops accounts up by themselves: a worker charges saved methods through their providers, once for each top-up.

A top-up is stored as a pending payment, together with its name in the policy, before the provider is asked under the
payment's id. A process that dies in between leaves it pending; the next round asks again under the same id, for which
the provider charges once. Providers know such an id for a day; a top-up of which nothing is known for nearly so long is
not asked for again, and the policy is off until it is set again.

What a provider has charged while the account was closed stays pending, and waits for the account. It is not asked for
again; `settling` completes it when the account is open.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Final, NoReturn

import structlog

from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.errors import FieldViolation, InvalidArgument, NotFound, Refusal
from libs.common.ids import NIL, new_id
from libs.common.shards import Shards
from services.billing import deleted_organizations
from services.billing import payment_errors as errors
from services.billing.ledger import store as ledger_store
from services.billing.payment import facts, store, top_up_store
from services.billing.payment.asking import (
    CHARGE_SAVED_METHOD,
    find_provider,
    log_if_not_applied,
    require_saved_methods,
)
from services.billing.payment.domain import (
    CENT,
    ZERO,
    Brings,
    Credits,
    Payment,
    PaymentStatus,
    PaymentType,
)
from services.billing.payment.payments import Payments
from services.billing.payment.provider import (
    Applied,
    FactStatus,
    NewCharge,
    PaymentFact,
    Provider,
    ProviderCannot,
    ProviderDeclined,
    ProviderDown,
    ProviderMisconfigured,
    RefusedFor,
)
from services.billing.payment.references import Claim, References, of_checkout
from services.billing.payment.top_up_domain import TopUpPolicy, beginnings

_log = structlog.get_logger("top-ups")
_ASKED_FOR: Final = timedelta(hours=20)
"""For how long a charge is asked for. Stripe forgets an idempotency key after 24 hours
(docs.stripe.com/api/idempotent_requests), and would charge twice then. What it has charged is known by then from its
webhooks, or from asking what changed."""
_POLICIES_MAX: Final = 200
"""How many policies are read together."""
_ACTOR: Final = "system"
_REASON_CHARS_MAX: Final = 256


class TopUps:
    """Keeps the policies, and does what they say."""

    def __init__(
        self,
        shards: Shards,
        references: References,
        payments: Payments,
        providers: Mapping[str, Provider],
        clock: Clock,
        *,
        is_test: bool,
    ) -> None:
        self._shards = shards
        self._references = references
        self._payments = payments
        self._providers = providers
        self._clock = clock
        self._is_test = is_test

    async def get(self, organization_id: str) -> TopUpPolicy:
        """Return an organization's policy. Raises NotFound."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            found = await top_up_store.find(connection, organization_id)
        if found is None:
            raise NotFound(resource_type="top-up policy", resource_name=organization_id)
        return found

    async def set(self, policy: TopUpPolicy) -> TopUpPolicy:
        """Set an organization's policy; the customer who is charged is found here.

        Raises:
            PaymentProviderCannot, PaymentProviderUnknown, NoSavedMethod: the provider cannot be charged by itself.
            InvalidArgument: it cannot charge the amount in its currency.
            NotFound: the organization was deleted.
        """
        name, provider = find_provider(self._providers, policy.provider, CHARGE_SAVED_METHOD)
        if policy.enabled:
            require_saved_methods(name, provider)
        smallest = provider.smallest(policy.currency_code)
        if policy.top_up_amount is not None and policy.top_up_amount % smallest:
            rule = f"must be a multiple of {smallest}, which {name} can charge in {policy.currency_code}"
            raise InvalidArgument([FieldViolation("top_up_amount.value", rule)])
        organization_id, now = policy.organization_id, self._clock.now()
        async with self._shards.of(organization_id).raw_transaction() as connection:
            if policy.enabled:
                await deleted_organizations.require_not_deleted(connection, organization_id)
            before = await top_up_store.lock(connection, organization_id)
            customer = await store.find_customer(connection, organization_id, name)
            if customer is None:
                raise errors.NoSavedMethod(provider=name)
            after = replace(policy, provider=name, external_customer_id=customer, actor=current_actor())
            if before is not None:
                same = replace(
                    after,
                    update_time=before.update_time,
                    actor=before.actor,
                    pending_payment_id=before.pending_payment_id,
                )
                if same == before:
                    return before
                after = replace(after, pending_payment_id=before.pending_payment_id)
            after = replace(after, update_time=now)
            await top_up_store.put(connection, after)
            await _record_change(
                connection,
                after,
                Changed("enabled", None if before is None else str(before.enabled), str(after.enabled)),
                Changed("threshold", None, f"{after.threshold.normalize():f} {after.currency_code}"),
                Changed("provider", None if before is None else before.provider, after.provider),
            )
        return after

    async def switch_off(self, organization_id: str, reason: str) -> None:
        """Switch an organization's policy off; nothing where it is off, or has none. What is pending is found out."""
        async with self._shards.of(organization_id).raw_transaction() as connection:
            policy = await top_up_store.lock(connection, organization_id)
            if policy is not None and policy.enabled:
                await self._put_off(connection, policy, reason)

    async def _put_off(self, connection: RawConnection, policy: TopUpPolicy, reason: str) -> None:
        """Switch a policy off that is on; its row is locked."""
        paused = reason[:_REASON_CHARS_MAX]
        after = replace(policy, enabled=False, paused_reason=paused, actor=_ACTOR, update_time=self._clock.now())
        await top_up_store.put(connection, after)
        await _record_change(connection, after, Changed("enabled", "True", "False"), Changed("reason", None, paused))

    def _smallest(self, policy: TopUpPolicy) -> Decimal:
        provider = self._providers.get(policy.provider)
        return CENT if provider is None else provider.smallest(policy.currency_code)

    async def run(self, every_s: float) -> NoReturn:
        """Look at all policies again and again."""
        await self._shards.visit(self.sweep, every_s=every_s)

    async def sweep(self, database: Database) -> None:
        """Look once at every policy of a shard. One that fails keeps no other from its turn."""
        after = NIL
        while True:
            async with database.raw_connection() as connection:
                page = await top_up_store.due(connection, after, _POLICIES_MAX)
            for organization_id, is_due in page:
                if is_due:
                    await self._top_up(organization_id)
            if len(page) < _POLICIES_MAX:
                return
            after = page[-1][0]

    async def _top_up(self, organization_id: str) -> None:
        try:
            policy, payment = await self._begin(organization_id)
            if policy is not None and payment is not None:
                await self._charge(policy, payment)
        except Refusal as refusal:
            _log.warning("not topped up", organization_id=organization_id, reason=refusal.reason)

    async def _begin(self, organization_id: str) -> tuple[TopUpPolicy | None, Payment | None]:
        """Return the pending top-up of a policy, or a new one where it is due and allowed."""
        now = self._clock.now()
        claim = Claim(organization_id, new_id())
        async with self._shards.of(organization_id).raw_transaction() as connection:
            policy = await top_up_store.lock(connection, organization_id)
            if policy is not None and policy.pending_payment_id is not None:
                return policy, await store.find(connection, organization_id, policy.pending_payment_id)
            owned = await ledger_store.find_owned(connection, organization_id, organization_id)
            account = next((one for one in owned if policy and one.currency_code == policy.currency_code), None)
            available = ZERO if account is None else account.available
            amount = ZERO if policy is None else policy.missing(available, self._smallest(policy))
            if policy is None or not amount or (account is not None and account.closed):
                return None, None
            taken_back = await top_up_store.find_taken_back(connection, organization_id, policy.update_time)
            if taken_back is not None:
                await self._put_off(connection, policy, _why_off(*taken_back))
                return None, None
            if not policy.allows(*await top_up_store.count(connection, organization_id, *beginnings(now))):
                return None, None
            await self._references.claim([of_checkout(claim.payment_id)], claim, now)
            payment = _pending(policy, claim, amount, is_test=self._is_test)
            payment = replace(payment, create_time=now, update_time=now)
            await store.put(connection, payment)
            # Its update time stays: refunds are looked for since people have set it.
            policy = replace(policy, pending_payment_id=claim.payment_id)
            await top_up_store.put(connection, policy)
        return policy, replace(payment, revision=1)

    async def _charge(self, policy: TopUpPolicy, payment: Payment) -> None:
        """Have the provider charge a pending top-up, once however often it is asked, and apply what it says."""
        if payment.waits_for_account:
            # Done again in each round, since a process may have died before it was done.
            await self.switch_off(payment.organization_id, _why_not(payment, "the account that it is for is closed"))
            return
        if payment.base is FactStatus.PENDING:
            fact = await self._asked(policy, payment)
            if fact is None:
                return
            applied = await self._payments.apply(fact)
            if log_if_not_applied(payment, fact, applied):
                await self._not_applied(payment, applied)
                return
        found = await self._find(payment)
        if found.base is FactStatus.PENDING:
            return
        reason = "" if found.base is FactStatus.COMPLETED else found.failure or "the provider declined"
        await self._end(payment, reason)

    async def _end(self, payment: Payment, reason: str) -> None:
        """Note that a top-up is not pending any more; with a reason the policy is off."""
        async with self._shards.of(payment.organization_id).raw_transaction() as connection:
            current = await top_up_store.lock(connection, payment.organization_id)
            if current is not None and current.pending_payment_id == payment.payment_id:
                enabled = current.enabled and not reason
                paused = (reason or current.paused_reason)[:_REASON_CHARS_MAX]
                update_time = self._clock.now() if reason else current.update_time
                after = replace(current, pending_payment_id=None, enabled=enabled, paused_reason=paused)
                await top_up_store.put(connection, replace(after, update_time=update_time))

    async def _not_applied(self, payment: Payment, applied: Applied) -> None:
        """Switch the policy off whose top-up was charged and could not be applied. The payment stays pending.

        It waits for an account that is closed. What was charged otherwise than it was asked for is left to people.
        """
        reason = _why_not(payment, applied.detail)
        if applied.reason is RefusedFor.ACCOUNT_CLOSED:
            await self.switch_off(payment.organization_id, reason)
        else:
            await self._end(payment, reason)

    async def _asked(self, policy: TopUpPolicy, payment: Payment) -> PaymentFact | None:
        """Return what the provider says of a charge; None where it is not known, and is to be asked again."""
        provider = self._providers.get(policy.provider)
        charge = NewCharge(
            payment.payment_id,
            policy.external_customer_id,
            payment.amount,
            payment.currency_code,
            payment.description,
            payment.is_test,
        )
        try:
            if self._clock.now() - payment.create_time >= _ASKED_FOR:
                raise ProviderDeclined(f"{policy.provider} did not say for too long whether it has charged")
            if provider is None:
                raise ProviderCannot(f"{policy.provider} is not set up")
            return await provider.charge_saved(charge)
        except (ProviderDeclined, ProviderCannot) as error:
            return facts.declined(payment, str(error), self._clock.now())
        except (ProviderDown, ProviderMisconfigured) as error:
            _log.warning("provider not charged", provider=policy.provider, cause=type(error).__name__)
            return None

    async def _find(self, payment: Payment) -> Payment:
        async with self._shards.of(payment.organization_id).raw_connection() as connection:
            found = await store.find(connection, payment.organization_id, payment.payment_id)
        assert found is not None, "payments are never deleted"
        return found


async def _record_change(connection: RawConnection, policy: TopUpPolicy, *changed: Changed) -> None:
    """Write the audit event of a policy as it was changed."""
    await record_event(
        connection,
        now=policy.update_time,
        organization_id=policy.organization_id,
        resource_type="top_up_policy",
        resource_id=policy.organization_id,
        changed=changed,
    )


def _why_off(payment_id: str, status: PaymentStatus) -> str:
    return f"top-up {payment_id} {'is disputed' if status is PaymentStatus.DISPUTED else 'was refunded'}"


def _why_not(payment: Payment, detail: str) -> str:
    return f"top-up {payment.payment_id} was charged, and could not be applied: {detail}"


def _pending(policy: TopUpPolicy, claim: Claim, value: Decimal, *, is_test: bool) -> Payment:
    return Payment(
        organization_id=policy.organization_id,
        payment_id=claim.payment_id,
        type=PaymentType.TOP_UP,
        provider=policy.provider,
        amount=value,
        currency_code=policy.currency_code,
        brings=Brings.MONEY,
        credits=Credits(policy.currency_code, value),
        is_test=is_test,
        actor=_ACTOR,
        create_time=policy.update_time,
        update_time=policy.update_time,
        said={},
        external_customer_id=f"{policy.provider}/{policy.external_customer_id}",
        operation_id=f"{top_up_store.AUTOMATIC}{claim.payment_id}",
        description="Automatic top-up",
    )
