"""AccountService over gRPC."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import grpc

from libs.common.amount import parse_amount, render_amount
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import parse_optional_time, parse_range, render_time
from libs.common.update_mask import mask_violations
from libs.common.validation import Reader
from services.billing import errors
from services.billing.account.accounts import Accounts
from services.billing.account.domain import AccountTerms, LowBalance
from services.billing.ledger.rendering import render_balance, render_kind
from tollhouse.billing.v1 import account_pb2 as pb
from tollhouse.billing.v1 import account_pb2_grpc as rpc
from tollhouse.common.v1 import amount_pb2

_Context = grpc.aio.ServicerContext
_CHANGEABLE: Final = ("overdraft_limit", "metadata", "low_balance_threshold")


def _read_opening(request: pb.OpenAccountRequest) -> Decimal:
    """Return the overdraft limit of an account to be opened."""
    violations: list[FieldViolation] = []
    limit = Decimal(0)
    if request.HasField("overdraft_limit"):
        limit = _limit("overdraft_limit", request.overdraft_limit, violations)
    if request.project_id and request.project_id.lower() == request.organization_id.lower():
        violations.append(FieldViolation("project_id", "must not be the organization's own id"))
    if violations:
        raise InvalidArgument(violations)
    return limit


def _read_change(request: pb.UpdateAccountRequest) -> tuple[Decimal | None, LowBalance | None]:
    """Return the overdraft limit and the threshold of a low balance that an update sets; None for what it does not."""
    paths = request.update_mask.paths
    violations = mask_violations(paths, _CHANGEABLE)
    limit = None
    if "overdraft_limit" in paths:
        limit = _limit("account.overdraft_limit", request.account.overdraft_limit, violations)
    low_balance = None
    if "low_balance_threshold" in paths:
        low_balance = LowBalance(None, None)
        if request.account.HasField("low_balance_threshold"):
            amount = request.account.low_balance_threshold
            low_balance = LowBalance(_limit("account.low_balance_threshold", amount, violations), amount.currency_code)
    if not request.account.account_id:
        violations.append(FieldViolation("account.account_id", "is required"))
    if violations:
        raise InvalidArgument(violations)
    return limit, low_balance


def _read_threshold(request: pb.SetLowBalanceThresholdRequest) -> LowBalance:
    """Return the threshold of a low balance that is to be set."""
    if not request.HasField("threshold"):
        return LowBalance(None, None)
    violations: list[FieldViolation] = []
    threshold = _limit("threshold", request.threshold, violations)
    if violations:
        raise InvalidArgument(violations)
    return LowBalance(threshold, request.threshold.currency_code)


def _read_balance_query(request: pb.GetBalanceRequest) -> None:
    """Check that an account is named in one way only."""
    if request.account_id and request.project_id:
        raise InvalidArgument([FieldViolation("project_id", "must be empty where account_id is set")])


class AccountServicer(rpc.AccountServiceServicer):
    """Parses and renders what `Accounts` does."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "OpenAccount": _read_opening,
            "UpdateAccount": _read_change,
            "SetLowBalanceThreshold": _read_threshold,
            "GetBalance": _read_balance_query,
        }

    async def OpenAccount(self, request: pb.OpenAccountRequest, context: _Context) -> pb.OpenAccountResponse:
        limit = _read_opening(request)
        code = request.overdraft_limit.currency_code
        if code and code != request.currency_code:
            raise errors.CurrencyMismatch(currency_code=code, account_currency_code=request.currency_code)
        account, replayed = await self._accounts.open(
            request.organization_id.lower(),
            project_id=request.project_id.lower() or None,
            currency_code=request.currency_code,
            overdraft_limit=limit,
            metadata=dict(request.metadata) or None,
            request_id=request.request_id or None,
        )
        return pb.OpenAccountResponse(account=_render(account), replayed=replayed)

    async def GetAccount(self, request: pb.GetAccountRequest, context: _Context) -> pb.GetAccountResponse:
        account = await self._accounts.get(request.organization_id.lower(), request.account_id.lower())
        return pb.GetAccountResponse(account=_render(account))

    async def ListAccounts(self, request: pb.ListAccountsRequest, context: _Context) -> pb.ListAccountsResponse:
        accounts, next_page_token = await self._accounts.page(
            request.organization_id.lower(),
            project_id=request.project_id.lower() or None,
            size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListAccountsResponse(
            accounts=[_render(account) for account in accounts], next_page_token=next_page_token
        )

    async def UpdateAccount(self, request: pb.UpdateAccountRequest, context: _Context) -> pb.UpdateAccountResponse:
        limit, low_balance = _read_change(request)
        paths = request.update_mask.paths
        account = await self._accounts.update(
            request.organization_id.lower(),
            request.account.account_id.lower(),
            etag=request.account.etag,
            overdraft_limit=limit,
            currency_code=None if limit is None else request.account.overdraft_limit.currency_code,
            metadata=dict(request.account.metadata) if "metadata" in paths else None,
            low_balance=low_balance,
        )
        return pb.UpdateAccountResponse(account=_render(account))

    async def SetLowBalanceThreshold(
        self, request: pb.SetLowBalanceThresholdRequest, context: _Context
    ) -> pb.SetLowBalanceThresholdResponse:
        account = await self._accounts.update(
            request.organization_id.lower(), request.account_id.lower(), low_balance=_read_threshold(request)
        )
        return pb.SetLowBalanceThresholdResponse(account=_render(account))

    async def CloseAccount(self, request: pb.CloseAccountRequest, context: _Context) -> pb.CloseAccountResponse:
        account = await self._accounts.close(request.organization_id.lower(), request.account_id.lower())
        return pb.CloseAccountResponse(account=_render(account))

    async def GetBalance(self, request: pb.GetBalanceRequest, context: _Context) -> pb.GetBalanceResponse:
        _read_balance_query(request)
        account, moment = await self._accounts.balance(
            request.organization_id.lower(),
            project_id=request.project_id.lower() or None,
            currency_code=request.currency_code or None,
            account_id=request.account_id.lower() or None,
            as_of_time=parse_optional_time("as_of_time", request.as_of_time, present=request.HasField("as_of_time")),
        )
        return pb.GetBalanceResponse(
            balance=render_balance(account.balance), account_id=account.account_id, as_of_time=render_time(moment)
        )

    async def GetStatement(self, request: pb.GetStatementRequest, context: _Context) -> pb.GetStatementResponse:
        start_time, end_time = parse_range(request)
        statement = await self._accounts.statement(
            request.organization_id.lower(),
            request.account_id.lower(),
            start_time=start_time,
            end_time=end_time,
            size=request.page_size,
            page_token=request.page_token,
        )
        code = statement.currency_code
        entries = [
            pb.StatementEntry(
                sequence=entry.sequence,
                transaction_id=entry.transaction_id,
                operation_id=entry.operation_id,
                kind=render_kind(entry.kind),
                amount=render_amount(code, entry.amount),
                balance_after=render_amount(code, entry.balance_after),
                description=entry.description,
                create_time=render_time(entry.create_time),
                actor=entry.actor,
            )
            for entry in statement.entries
        ]
        return pb.GetStatementResponse(
            entries=entries,
            opening_balance=render_amount(code, statement.opening_balance),
            closing_balance=render_amount(code, statement.closing_balance),
            next_page_token=statement.next_page_token,
        )


def _limit(field: str, amount: amount_pb2.Amount, violations: list[FieldViolation]) -> Decimal:
    return parse_amount(field, amount, violations, minimum=Decimal(0)).copy_abs()


def _render(account: AccountTerms) -> pb.Account:
    balance, threshold = account.balance, account.low_balance_threshold
    return pb.Account(
        account_id=account.account_id,
        organization_id=account.organization_id,
        project_id=account.project_id or "",
        currency_code=balance.currency_code,
        state=pb.ACCOUNT_STATE_CLOSED if account.closed else pb.ACCOUNT_STATE_OPEN,
        balance=render_balance(balance),
        overdraft_limit=render_amount(balance.currency_code, balance.overdraft_limit),
        etag=account.etag,
        create_time=render_time(account.create_time),
        update_time=render_time(account.update_time),
        metadata=account.metadata,
        low_balance_threshold=None if threshold is None else render_amount(balance.currency_code, threshold),
    )
