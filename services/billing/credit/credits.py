"""Grants and voids credits through the ledger's engine, and reads what became of them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from libs.common.clock import Clock
from libs.common.database import RawConnection, see_one_moment
from libs.common.errors import NotFound, Unavailable
from libs.common.pages import encode_page_token, id_in_token, page_size
from libs.common.shards import Shards
from services.billing import errors
from services.billing.clients.subjects import Subjects
from services.billing.credit import store
from services.billing.credit.domain import Beneficiary, Explanation, Summary, explain, summarize
from services.billing.ledger import grant_store
from services.billing.ledger import store as ledger_store
from services.billing.ledger.domain import (
    ZERO,
    Balance,
    GrantCredits,
    Granted,
    Movement,
    SettleGrants,
    SystemAccount,
    VoidGrant,
)
from services.billing.ledger.engine import Engine
from services.billing.ledger.grants import Grant, GrantState, next_due

_SCAN_MIN: Final = 500
"""A filtered page reads at least this many rows."""


class Credits:
    """The credits of one organization at a time. Another organization's grants look like missing ones."""

    def __init__(self, shards: Shards, engine: Engine, subjects: Subjects, clock: Clock) -> None:
        self._shards = shards
        self._subjects = subjects
        self._engine = engine
        self._clock = clock

    async def grant(self, command: GrantCredits) -> Granted:
        """Grant credits.

        Raises:
            NotFound: the user or the model does not exist, or the user is not of the organization.
            Unavailable: identity or metering cannot be asked.
            OperationIdReused: the operation has granted something else.
            GrantExpired: the expire_time has passed.
            CurrencyMismatch, AccountClosed, BalanceOutOfRange: as for a credit.
            TooManyGrants: the account has 1,000 grants that have not ended.
        """
        await self._require_beneficiary(command)
        granted = await self._engine.grant(command)
        (grant,) = await self._as_of_now([granted.grant])
        return replace(granted, grant=grant)

    async def _require_beneficiary(self, command: GrantCredits) -> None:
        """Make sure that the user and the model exist that the credits are for, unless they are granted already."""
        try:
            await self._subjects.require(command.organization_id, command.user_id, command.model)
        except (NotFound, Unavailable):
            key = command.organization_id, command.operation_id
            async with self._shards.of(command.organization_id).raw_connection() as connection:
                if not await grant_store.find_known_grants(connection, [key]):
                    raise

    async def void(self, organization_id: str, grant_id: str, reason: str, actor: str) -> Granted:
        """Take back what is left of a grant.

        Raises:
            GrantNotFound: the organization has no such grant.
            GrantEnded: nothing is left of it.
        """
        async with self._shards.of(organization_id).raw_connection() as connection:
            found = await store.find_grants(connection, organization_id, [grant_id])
        if not found:
            raise errors.GrantNotFound
        (grant,) = found
        if grant.state is GrantState.ENDED and grant.void_time is not None:
            settled = await self._settle(grant.organization_id, grant.project_id, grant.currency_code)
            return Granted(grant, settled, replayed=True, voided=ZERO)
        command = VoidGrant(organization_id, grant_id, grant.project_id, grant.currency_code, reason, actor)
        return await self._engine.grant(command)

    async def page(
        self,
        organization_id: str,
        *,
        project_id: str | None,
        currency_code: str | None,
        state: GrantState | None,
        whose: Beneficiary,
        size: int,
        page_token: str,
    ) -> tuple[list[Grant], str]:
        """Return a page of grants as they are now, the latest first, and the token of the next."""
        fingerprint = f"grants/{organization_id}/{project_id}/{currency_code}/{state}/{whose.user_id}/{whose.model}"
        before = id_in_token(page_token, fingerprint)
        size = page_size(size)
        filtered = any(part is not None for part in (project_id, currency_code, state)) or not whose.is_anybody
        scan = max(size, _SCAN_MIN) if filtered else size
        async with self._shards.of(organization_id).raw_connection() as connection:
            rows = await store.grants_before(connection, organization_id, before, scan)
        wanted = [
            grant
            for grant in await self._as_of_now(rows)
            if project_id in (None, grant.project_id)
            and currency_code in (None, grant.currency_code)
            and state in (None, grant.state)
            and whose.owns(grant)
        ]
        page = wanted[:size]
        last = page[-1] if len(wanted) > size else rows[-1] if len(rows) == scan else None
        return page, encode_page_token(last.grant_id, fingerprint=fingerprint) if last is not None else ""

    async def summary(
        self, organization_id: str, project_id: str | None, currency_code: str, whose: Beneficiary
    ) -> Summary:
        """Add up what became of an account's credits, or of those for a user or a model alone.

        Raises:
            AccountNotFound: the owner has no account in this unit.
            CurrencyRequired: none is named, and the owner has several.
        """
        owner_id = project_id or organization_id
        if not currency_code:
            currency_code = await self._only_currency(organization_id, owner_id)
        await self._settle(organization_id, project_id, currency_code)
        async with self._shards.of(organization_id).raw_transaction() as connection:
            await see_one_moment(connection)
            owned = await ledger_store.find_owned(connection, organization_id, owner_id)
            account = next(one for one in owned if one.currency_code == currency_code)
            grants = await grant_store.find_account_grants(connection, [account], self._clock.now())
            totals = await store.totals(connection, organization_id, account.account_id, whose)
            refill = await store.last_refill(connection, organization_id, account.account_id, whose)
        return summarize(grants[account.account_id], account.balance(), totals, whose, refill)

    async def explain(self, organization_id: str, transaction_id: str | None, operation_id: str | None) -> Explanation:
        """Say which grants a charge used.

        Raises:
            TransactionNotFound: the organization has no such transaction.
            NotACharge: it is neither a charge nor the reversal of one.
        """
        async with self._shards.of(organization_id).raw_transaction() as connection:
            await see_one_moment(connection)
            movement = await _find_movement(connection, organization_id, transaction_id, operation_id)
            if movement.system_account is not SystemAccount.REVENUE:
                raise errors.NotACharge(transaction_id=movement.transaction_id, transaction_kind=movement.kind.value)
            (account,) = await ledger_store.find_accounts(connection, organization_id, [movement.account_id])
            if account.itemized_from is not None and movement.sequence > account.itemized_from:
                uses = await store.uses_of_movement(connection, organization_id, movement.account_id, movement.sequence)
                return Explanation(movement, uses, movement.amount - sum((use.amount for use in uses), ZERO))
            before = await store.event_before(connection, organization_id, movement.account_id, movement.sequence)
            if before is None:
                return Explanation(movement, (), movement.amount)
            grants = await store.find_grants(connection, organization_id, before.rests)
        return explain(movement, before, grants)

    async def _settle(self, organization_id: str, project_id: str | None, currency_code: str) -> Balance:
        """Let the grants of an account begin and expire that are due; return its balance."""
        (balance,) = await self._engine.settle_grants([SettleGrants(organization_id, "", project_id, currency_code)])
        return balance

    async def _only_currency(self, organization_id: str, owner_id: str) -> str:
        async with self._shards.of(organization_id).raw_connection() as connection:
            owned = await ledger_store.find_owned(connection, organization_id, owner_id)
        if not owned:
            raise errors.AccountNotFound
        if len(owned) > 1:
            raise errors.CurrencyRequired(account_currency_codes=", ".join(sorted(a.currency_code for a in owned)))
        return owned[0].currency_code

    async def _as_of_now(self, grants: Sequence[Grant]) -> list[Grant]:
        """Return grants of one organization as they are now: of those that have not ended, what was used since."""
        live = [grant for grant in grants if grant.state is not GrantState.ENDED]
        if not live:
            return list(grants)
        organization_id = live[0].organization_id
        now = self._clock.now()
        owners = {(g.project_id, g.currency_code) for g in live if _is_due(g, now)}
        if owners:
            await self._engine.settle_grants(
                [SettleGrants(organization_id, "", *owner) for owner in sorted(owners, key=str)]
            )
        async with self._shards.of(organization_id).raw_transaction() as connection:
            await see_one_moment(connection)
            accounts = await ledger_store.find_accounts(connection, organization_id, {g.account_id for g in live})
            by_account = await grant_store.find_account_grants(connection, accounts, now)
            stored = await store.find_grants(connection, organization_id, [grant.grant_id for grant in live])
        current = {grant.grant_id: grant for grant in stored}
        for account in accounts:
            standing = by_account[account.account_id].present(account.posted)
            current.update((grant.grant_id, grant) for grant in standing.grants)
        return [current.get(grant.grant_id, grant) for grant in grants]


def _is_due(grant: Grant, now: datetime) -> bool:
    due = next_due([grant])
    return due is not None and due <= now


async def _find_movement(
    connection: RawConnection, organization_id: str, transaction_id: str | None, operation_id: str | None
) -> Movement:
    if transaction_id is not None:
        found = [one for one, _ in await ledger_store.find_originals(connection, [(organization_id, transaction_id)])]
    else:
        found = await ledger_store.find_movements(connection, [(organization_id, operation_id or "")])
    if not found:
        raise errors.TransactionNotFound
    return found[0]
