"""A customer of the demonstration whose plan allows few calls, who makes more.

Everything is created with a fixed request id, so that creating it again returns what exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final

from rich.console import Console
from rich.table import Table

from libs.cli.terminal.connection import Channels
from libs.cli.traces.funding import CURRENCY
from libs.cli.traces.population import models
from libs.common.amount import render_amount
from tollhouse.billing.v1 import plan_pb2, plan_pb2_grpc, subscription_pb2, subscription_pb2_grpc
from tollhouse.identity.v1 import organization_pb2, organization_pb2_grpc, user_pb2, user_pb2_grpc
from tollhouse.metering.v1 import admission_pb2, admission_pb2_grpc, model_pb2, quota_pb2

_NAME: Final = "Pocket Tutor"
_PREFIX: Final = "tutor"
_PLAN: Final = "demo-trial"
_ALLOWED: Final = 5
_ASKED: Final = 8
_INPUT_TOKENS: Final = 120
_OUTPUT_TOKENS: Final = 80
_TOKENS_OF_A_CALL: Final = 2_000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call that was asked for, and the limit that refused it."""

    asked_tokens: int
    is_allowed: bool
    refused_by: str = ""
    message: str = ""
    wait: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Attempts:
    """All calls in their order, and where the limit of calls stood after the last."""

    attempts: Sequence[Attempt]
    used: Decimal
    remaining: Decimal

    @property
    def problems(self) -> list[str]:
        """What does not follow from the plan: so many calls, and none with too many tokens."""
        allowed = sum(one.is_allowed for one in self.attempts)
        refusing = [one.refused_by for one in self.attempts if not one.is_allowed]
        wrong = []
        if (allowed, self.used, self.remaining) != (_ALLOWED, Decimal(_ALLOWED), Decimal(0)):
            wrong.append(f"calls of {_NAME}: {allowed} allowed, {self.used} used, {self.remaining} remaining")
        if refusing != ["tokens_per_call", *["calls_per_period"] * (_ASKED - _ALLOWED)]:
            wrong.append(f"calls of {_NAME}: refused by {', '.join(refusing)}")
        return wrong


async def call_too_often(channels: Channels) -> Attempts:
    """Subscribe the customer, and make one call with too many tokens and then more calls than the plan allows."""
    organization_id, user_id = await _make_customer(channels)
    admission = admission_pb2_grpc.AdmissionServiceStub(channels.metering)
    attempts = []
    calls: quota_pb2.LimitStatus | None = None
    for number in range(_ASKED + 1):
        output_tokens = _TOKENS_OF_A_CALL if number == 0 else _OUTPUT_TOKENS
        operation_id = f"{_PREFIX}:{number}"
        answer = await admission.Authorize(
            admission_pb2.AuthorizeRequest(
                operation_id=operation_id,
                principal=admission_pb2.Principal(organization_id=organization_id, user_id=user_id),
                model=models()[0],
                input_tokens=_INPUT_TOKENS,
                max_output_tokens=output_tokens,
            )
        )
        is_allowed = answer.decision == admission_pb2.DECISION_ALLOWED
        if is_allowed:
            await admission.Settle(
                admission_pb2.SettleRequest(
                    organization_id=organization_id,
                    operation_id=operation_id,
                    model=models()[0],
                    tokens=model_pb2.TokenCounts(input=_INPUT_TOKENS, output=_OUTPUT_TOKENS),
                )
            )
        attempts.append(_attempt(_INPUT_TOKENS + output_tokens, answer))
        calls = next((one for one in answer.limits if one.name == "calls_per_period"), calls)
    used, remaining = (Decimal(calls.used), Decimal(calls.remaining)) if calls else (Decimal(0), Decimal(0))
    return Attempts(attempts, used, remaining)


def _attempt(asked_tokens: int, answer: admission_pb2.AuthorizeResponse) -> Attempt:
    if answer.decision == admission_pb2.DECISION_ALLOWED:
        return Attempt(asked_tokens, is_allowed=True)
    refusing = answer.limits[0] if answer.limits else quota_pb2.LimitStatus()
    wait = refusing.retry_after.ToTimedelta() if refusing.HasField("retry_after") else None
    return Attempt(asked_tokens, False, refusing.name, answer.denial.message, wait)


async def _make_customer(channels: Channels) -> tuple[str, str]:
    """Create the organization and subscribe its owner; return the ids of both."""
    user = await user_pb2_grpc.UserServiceStub(channels.identity).CreateUser(
        user_pb2.CreateUserRequest(request_id=_PREFIX, email=f"owner@{_PREFIX}.example", full_name="Owner")
    )
    user_id = str(user.user.user_id)
    created = await organization_pb2_grpc.OrganizationServiceStub(channels.identity).CreateOrganization(
        organization_pb2.CreateOrganizationRequest(request_id=_PREFIX, name=_NAME, owner_user_id=user_id)
    )
    organization_id = str(created.organization.organization_id)
    await _publish(channels)
    await subscription_pb2_grpc.SubscriptionServiceStub(channels.billing).CreateSubscription(
        subscription_pb2.CreateSubscriptionRequest(
            request_id=f"{_PREFIX}:plan", organization_id=organization_id, plan_code=_PLAN
        )
    )
    return organization_id, user_id


async def _publish(channels: Channels) -> None:
    limits = {
        "calls_per_period": plan_pb2.EntitledLimit(
            metric="requests", window=plan_pb2.LIMIT_WINDOW_PERIOD, value=str(_ALLOWED)
        ),
        "tokens_per_call": plan_pb2.EntitledLimit(
            metric="total_tokens", window=plan_pb2.LIMIT_WINDOW_CALL, value=str(_TOKENS_OF_A_CALL)
        ),
    }
    terms = plan_pb2.PlanTerms(
        price=render_amount(CURRENCY, Decimal(0)),
        billing_interval=plan_pb2.Interval(unit=plan_pb2.INTERVAL_UNIT_MONTH, count=1),
        credits=[plan_pb2.IncludedCredits(amount=render_amount(CURRENCY, Decimal(1)))],
        entitlements=[plan_pb2.Entitlement(entitlement_code=code, limit=limit) for code, limit in limits.items()],
    )
    stub = plan_pb2_grpc.PlanServiceStub(channels.billing)
    created = await stub.CreatePlan(
        plan_pb2.CreatePlanRequest(request_id=f"{_PREFIX}:plan", plan_code=_PLAN, name="Trial", terms=terms)
    )
    await stub.PublishPlanVersion(plan_pb2.PublishPlanVersionRequest(plan_id=created.plan.plan_id, version=1))


def print_attempts(console: Console, attempts: Attempts) -> None:
    """Print one line for each call that was asked for."""
    table = Table(
        title=f"{_NAME}: {_ALLOWED} calls a period, {_TOKENS_OF_A_CALL:,} tokens a call", title_justify="left"
    )
    table.add_column("call", justify="right")
    table.add_column("tokens", justify="right")
    table.add_column("decision")
    table.add_column("refused by")
    table.add_column("passes again", justify="right")
    for number, one in enumerate(attempts.attempts, start=1):
        wait = f"in {one.wait.days} days" if one.wait is not None else ("" if one.is_allowed else "never")
        decision = "allowed" if one.is_allowed else "refused"
        table.add_row(str(number), f"{one.asked_tokens:,}", decision, one.refused_by, wait)
    console.print(table)
