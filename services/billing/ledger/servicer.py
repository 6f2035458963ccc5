"""LedgerService over gRPC: requests in, commands through the engine, answers out."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar

import grpc
from google.rpc import status_pb2

from libs.common.amount import render_amount
from libs.common.errors import InvalidArgument, Refusal
from libs.common.status import status_of_item
from libs.common.timestamps import parse_range
from services.billing.errors import TransactionNotFound
from services.billing.ledger import parsing, rendering
from services.billing.ledger.domain import Command, Decline, HoldState, Kind, Placed, Posted, Reverse
from services.billing.ledger.engine import Answer, Engine
from services.billing.ledger.history import History
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.billing.v1 import ledger_pb2_grpc as rpc

DOMAIN: Final = "billing.tollhouse"
_Context = grpc.aio.ServicerContext
_R = TypeVar("_R")


class LedgerServicer(rpc.LedgerServiceServicer):
    """Sends commands through the engine; reads come from `History`."""

    readers = parsing.READERS

    def __init__(self, engine: Engine, history: History) -> None:
        self._engine = engine
        self._history = history

    async def Debit(self, request: pb.DebitRequest, context: _Context) -> pb.DebitResponse:
        command = parsing.parse(parsing.parse_debit, request)
        response = pb.DebitResponse()
        rendering.fill_debit(response, await self._post(command))
        return _without_id(response, command)

    async def BatchDebit(self, request: pb.BatchDebitRequest, context: _Context) -> pb.BatchDebitResponse:
        answers = await self._submit_each(parsing.parse_each(parsing.parse_debit, request.requests))
        outcomes = rendering.DebitOutcomes()
        for item, answer in zip(request.requests, answers, strict=True):
            if not isinstance(answer, Posted):
                outcomes.response.outcomes.add().error.CopyFrom(_status_of(answer))
                continue
            outcomes.add(answer)
            if item.validate_only and not answer.replayed:
                outcomes.response.outcomes[-1].response.transaction.transaction_id = ""
        return outcomes.response

    async def Credit(self, request: pb.CreditRequest, context: _Context) -> pb.CreditResponse:
        command = parsing.parse(parsing.parse_credit, request)
        posted = await self._post(command)
        response = pb.CreditResponse(
            transaction=rendering.render_transaction(posted.movement),
            balance=rendering.render_balance(posted.balance),
            replayed=posted.replayed,
        )
        return _without_id(response, command)

    async def Transfer(self, request: pb.TransferRequest, context: _Context) -> pb.TransferResponse:
        command = parsing.parse(parsing.parse_transfer, request)
        posted = await self._post(command)
        destination = posted.counter_balance
        response = pb.TransferResponse(
            transaction=rendering.render_transaction(posted.movement),
            source_balance=rendering.render_balance(posted.balance),
            destination_balance=None if destination is None else rendering.render_balance(destination),
            replayed=posted.replayed,
        )
        return _without_id(response, command)

    async def CreateHold(self, request: pb.CreateHoldRequest, context: _Context) -> pb.CreateHoldResponse:
        placed = await self._place(parsing.parse(parsing.parse_place, request))
        response = pb.CreateHoldResponse()
        rendering.fill_hold_created(response, placed)
        if request.validate_only and not placed.replayed:
            response.hold.hold_id = ""
        return response

    async def BatchCreateHold(
        self, request: pb.BatchCreateHoldRequest, context: _Context
    ) -> pb.BatchCreateHoldResponse:
        answers = await self._submit_each(parsing.parse_each(parsing.parse_place, request.requests))
        response = pb.BatchCreateHoldResponse()
        for item, answer in zip(request.requests, answers, strict=True):
            outcome = response.outcomes.add()
            if not isinstance(answer, Placed):
                outcome.error.CopyFrom(_status_of(answer))
                continue
            rendering.fill_hold_created(outcome.response, answer)
            if item.validate_only and not answer.replayed:
                outcome.response.hold.hold_id = ""
        return response

    async def CaptureHold(self, request: pb.CaptureHoldRequest, context: _Context) -> pb.CaptureHoldResponse:
        response = pb.CaptureHoldResponse()
        rendering.fill_capture(response, await self._post(parsing.parse(parsing.parse_capture, request)))
        return response

    async def BatchCaptureHold(
        self, request: pb.BatchCaptureHoldRequest, context: _Context
    ) -> pb.BatchCaptureHoldResponse:
        answers = await self._submit_each(parsing.parse_each(parsing.parse_capture, request.requests))
        response = pb.BatchCaptureHoldResponse()
        for answer in answers:
            outcome = response.outcomes.add()
            if isinstance(answer, Posted):
                rendering.fill_capture(outcome.response, answer)
            else:
                outcome.error.CopyFrom(_status_of(answer))
        return response

    async def ReleaseHold(self, request: pb.ReleaseHoldRequest, context: _Context) -> pb.ReleaseHoldResponse:
        placed = await self._place(parsing.parse(parsing.parse_release, request))
        return pb.ReleaseHoldResponse(
            hold=rendering.render_hold(placed.hold),
            balance=rendering.render_balance(placed.balance),
            released_amount=rendering.render_optional_amount(placed.hold.currency_code, placed.released),
            replayed=placed.replayed,
        )

    async def ExtendHold(self, request: pb.ExtendHoldRequest, context: _Context) -> pb.ExtendHoldResponse:
        placed = await self._place(parsing.parse(parsing.parse_extend, request))
        return pb.ExtendHoldResponse(
            hold=rendering.render_hold(placed.hold), balance=rendering.render_balance(placed.balance)
        )

    async def GetHold(self, request: pb.GetHoldRequest, context: _Context) -> pb.GetHoldResponse:
        hold = await self._history.hold(request.organization_id.lower(), request.operation_id)
        return pb.GetHoldResponse(hold=rendering.render_hold(hold))

    async def ListHolds(self, request: pb.ListHoldsRequest, context: _Context) -> pb.ListHoldsResponse:
        holds, next_page_token = await self._history.holds(
            request.organization_id.lower(),
            account_id=request.account_id.lower() or None,
            state=_state_of(request.state),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListHoldsResponse(
            holds=[rendering.render_hold(hold) for hold in holds], next_page_token=next_page_token
        )

    async def ReverseTransaction(
        self, request: pb.ReverseTransactionRequest, context: _Context
    ) -> pb.ReverseTransactionResponse:
        command = parsing.parse(parsing.parse_reverse, request)
        if request.reversed_operation_id:
            key = command.organization_id, request.reversed_operation_id
            transaction_id = (await self._history.transaction_ids([key])).get(key)
            if transaction_id is None:
                raise TransactionNotFound
            command = replace(command, transaction_id=transaction_id)
        response = pb.ReverseTransactionResponse()
        rendering.fill_reversal(response, await self._post(command))
        return _without_id(response, command)

    async def BatchReverseTransaction(
        self, request: pb.BatchReverseTransactionRequest, context: _Context
    ) -> pb.BatchReverseTransactionResponse:
        parsed = await self._identified(request.requests, parsing.parse_each(parsing.parse_reverse, request.requests))
        response = pb.BatchReverseTransactionResponse()
        for command, answer in zip(parsed, await self._submit_each(parsed), strict=True):
            outcome = response.outcomes.add()
            if isinstance(command, Refusal) or not isinstance(answer, Posted):
                outcome.error.CopyFrom(_status_of(answer))
                continue
            rendering.fill_reversal(outcome.response, answer)
            _without_id(outcome.response, command)
        return response

    async def GetTransaction(self, request: pb.GetTransactionRequest, context: _Context) -> pb.GetTransactionResponse:
        parsing.require_one_transaction(request)
        movement, reversed_amount = await self._history.transaction(
            request.organization_id.lower(),
            transaction_id=request.transaction_id.lower() or None,
            operation_id=request.operation_id or None,
        )
        return pb.GetTransactionResponse(
            transaction=rendering.render_transaction(movement),
            reversed_amount=render_amount(movement.currency_code, reversed_amount),
        )

    async def ListTransactions(
        self, request: pb.ListTransactionsRequest, context: _Context
    ) -> pb.ListTransactionsResponse:
        start_time, end_time = parse_range(request)
        movements, next_page_token = await self._history.transactions(
            request.organization_id.lower(),
            account_id=request.account_id.lower() or None,
            kind=_kind_of(request.kind),
            start_time=start_time,
            end_time=end_time,
            hold_operation_id=request.hold_operation_id or None,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListTransactionsResponse(
            transactions=[rendering.render_transaction(movement) for movement in movements],
            next_page_token=next_page_token,
        )

    async def _identified(
        self, requests: Sequence[pb.ReverseTransactionRequest], parsed: Sequence[Reverse | InvalidArgument]
    ) -> list[Reverse | Refusal]:
        """Return reversals with the ids of the transactions that they name by operation ids."""
        named = {
            (command.organization_id, request.reversed_operation_id)
            for request, command in zip(requests, parsed, strict=True)
            if isinstance(command, Reverse) and request.reversed_operation_id
        }
        ids = await self._history.transaction_ids(named) if named else {}
        identified: list[Reverse | Refusal] = []
        for request, command in zip(requests, parsed, strict=True):
            if not isinstance(command, Reverse) or not request.reversed_operation_id:
                identified.append(command)
                continue
            transaction_id = ids.get((command.organization_id, request.reversed_operation_id))
            if transaction_id is None:
                identified.append(TransactionNotFound())
            else:
                identified.append(replace(command, transaction_id=transaction_id))
        return identified

    async def _submit_each(self, parsed: Sequence[Command | Refusal]) -> list[Answer]:
        """Have the well-formed commands of a batch decided; return what became of each item, in their order."""
        commands = [command for command in parsed if not isinstance(command, Refusal)]
        decided = await self._engine.submit(commands) if commands else []
        if len(commands) == len(parsed):
            return decided
        rest = iter(decided)
        return [item if isinstance(item, Refusal) else next(rest) for item in parsed]

    async def _post(self, command: Command) -> Posted:
        return await self._one(command, Posted)

    async def _place(self, command: Command) -> Placed:
        return await self._one(command, Placed)

    async def _one(self, command: Command, expected: type[_R]) -> _R:
        """Have one command decided; raise the refusal if it is refused."""
        answer = (await self._engine.submit((command,)))[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Decline):
            raise rendering.refusal_of(answer)
        assert isinstance(answer, expected), "each command has one kind of outcome"
        return answer


def _without_id(response: _R, command: Command) -> _R:
    """Clear the transaction id of a `validate_only` answer: no such transaction is stored."""
    if command.validate_only and not response.replayed:  # type: ignore[attr-defined]  # every response here has it.
        response.transaction.transaction_id = ""  # type: ignore[attr-defined]  # and this.
    return response


def _status_of(answer: Answer) -> status_pb2.Status:
    """Return what one item of a batch is refused with."""
    if isinstance(answer, Decline):
        return status_of_item(rendering.refusal_of(answer), DOMAIN)
    assert isinstance(answer, Exception), "an item has an outcome of its kind or an error"
    return status_of_item(answer, DOMAIN)


def _state_of(state: pb.HoldState.ValueType) -> HoldState | None:
    return HoldState(pb.HoldState.Name(state).removeprefix("HOLD_STATE_")) if state else None


def _kind_of(kind: pb.TransactionKind.ValueType) -> Kind | None:
    return Kind(pb.TransactionKind.Name(kind).removeprefix("TRANSACTION_KIND_")) if kind else None
