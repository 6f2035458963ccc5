"""Decisions and settlements as messages."""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from libs.common.amount import format_amount
from libs.common.status import status_of_item
from libs.common.timestamps import fill_time
from services.metering.admission.domain import Decision, Denied, Status, Stored
from services.metering.admission.policy import DEFAULT, Entry
from services.metering.clients.identity import KeyPrincipal
from services.metering.model.units import Units, quantity_text
from services.metering.quota.rendering import facts_of, fill_statuses, render_statuses
from services.metering.usage.dimensions import LIVE, TEST
from services.metering.usage.domain import Accepted, LimitState, Outcome
from services.metering.usage.rendering import fill_balance, fill_limits, fill_usage, shorten
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import admission_pb2 as pb
from tollhouse.metering.v1 import lease_pb2, usage_pb2

_RECENT_MAX: Final = 256
_recent: OrderedDict[int, tuple[Sequence[Status], bytes]] = OrderedDict()
"""The lists of limits that were rendered last, by their identity, serialized; the earliest comes first."""
DOMAIN: Final = "metering.tollhouse"
_OPERATION_ID_MAX: Final = 255
_ID_LENGTH: Final = 36
_ENVIRONMENTS: Final = {LIVE: usage_pb2.ENVIRONMENT_LIVE, TEST: usage_pb2.ENVIRONMENT_TEST}


def render_authorization(stored: Stored, now: datetime) -> pb.Authorization:
    """Return an authorization as it is at this moment."""
    target = pb.Authorization()
    pinned = stored.pinned
    ask = pinned.ask
    target.organization_id = ask.organization_id
    target.operation_id = ask.operation_id
    target.state = pb.AuthorizationState.Value(f"AUTHORIZATION_STATE_{stored.state(now)}")
    target.model = ask.model
    target.endpoint = ask.endpoint or ""
    allowance = stored.allowance
    target.input_tokens = allowance.input_tokens
    target.max_output_tokens = allowance.max_output_tokens
    for unit, thousandths in sorted(allowance.quantities.items()):
        target.quantities.add(unit=unit, value=quantity_text(thousandths))
    target.service_tier = ask.service_tier
    target.environment = _ENVIRONMENTS[ask.environment]
    target.price_version_id = pinned.price_version_id
    _fill_amount(target.held_amount, pinned.currency_code, format_amount(allowance.amount))
    target.recorded_when_lapsed = stored.recorded_when_lapsed
    if stored.captured is not None:
        code = stored.captured.currency_code or pinned.currency_code
        _fill_amount(target.captured_amount, code, stored.captured.amount)
    fill_time(target.create_time, pinned.create_time)
    fill_time(target.expire_time, stored.expire_time)
    target.subscription_id = ask.subscription_id or ""
    principal = KeyPrincipal(ask.organization_id, ask.project_id, ask.user_id, ask.service_account_id, ask.api_key_id)
    _fill_principal(target.principal, principal)
    return target


def fill_policy(target: pb.AdmissionPolicy, organization_id: str, entry: Entry | None) -> None:
    """Write an organization's policy, or the default, where it stands."""
    policy = DEFAULT if entry is None else entry.policy
    target.organization_id = organization_id
    target.output_hold = pb.OutputHold.Value(f"OUTPUT_HOLD_{policy.output_hold}")
    target.output_tokens_cap = policy.output_tokens_cap
    if policy.fixed_amount is not None:
        _fill_amount(target.fixed_amount, policy.fixed_amount.currency_code, format_amount(policy.fixed_amount.value))
    target.lapse_charge = pb.LapseCharge.Value(f"LAPSE_CHARGE_{policy.lapse_charge}")
    target.lapse_after.FromTimedelta(policy.lapse_after)
    if entry is not None:
        target.etag = entry.etag
        fill_time(target.update_time, entry.update_time)


def fill_settle_outcome(
    target: pb.SettleOutcome,
    request: pb.SettleRequest | usage_pb2.RecordUsageRequest,
    outcome: Outcome,
    adjusted: Sequence[str],
    units: Units,
    limits: Sequence[LimitState],
) -> None:
    """Write what became of one item of a batch, where it stands."""
    target.operation_id = request.operation_id[:_OPERATION_ID_MAX]
    target.organization_id = request.organization_id[:_ID_LENGTH].lower()
    if isinstance(outcome, Exception):
        target.refused.CopyFrom(status_of_item(outcome, DOMAIN))
    else:
        fill_settled(target.settled, outcome, adjusted, units, limits)


def fill_authorize_outcome(
    target: pb.AuthorizeOutcome, request: pb.AuthorizeRequest, outcome: Decision | Exception
) -> None:
    """Write what became of one item of a batch, where it stands."""
    target.operation_id = request.operation_id[:_OPERATION_ID_MAX]
    if isinstance(outcome, Exception):
        target.refused.CopyFrom(status_of_item(outcome, DOMAIN))
    else:
        fill_decision(target.decided, outcome)


def shorten_settled(answer: pb.BatchSettleResponse | lease_pb2.SettleLeaseResponse) -> None:
    """Leave out what callers have sent, where the answer would be too large to be sent."""
    shorten(answer, (one.settled.usage for one in answer.outcomes if one.HasField("settled")))


def fill_settled(
    response: pb.SettleResponse,
    outcome: Accepted,
    adjusted: Sequence[str],
    units: Units,
    limits: Sequence[LimitState],
) -> None:
    if adjusted:
        response.adjusted_fields.extend(adjusted)
    code = outcome.recorded.cost.currency_code if outcome.recorded.cost else ""
    if outcome.released is not None:
        _fill_amount(response.released_amount, code, outcome.released)
    if outcome.overrun is not None:
        _fill_amount(response.overrun_amount, code, outcome.overrun)
    captured = outcome.recorded.captured
    if captured is not None and captured.currency_code:
        _fill_amount(response.captured_amount, captured.currency_code, captured.amount)
    if outcome.replayed:
        response.replayed = True
    fill_usage(response.usage, outcome.recorded, units)
    if outcome.balance is not None:
        fill_balance(response.balance, outcome.balance)
    if limits:
        fill_limits(response, limits)


def fill_decision(response: pb.AuthorizeResponse, decision: Decision) -> None:
    if decision.replayed:
        response.replayed = True
    if decision.stale_key:
        response.stale_key = True
    if isinstance(decision, Denied):
        _fill_denial(response, decision)
        return
    if decision.limits:
        _fill_limits(response, decision.limits)
    pinned = decision.pinned
    response.decision = pb.DECISION_ALLOWED
    response.hold_id = decision.hold_id
    response.price_version_id = pinned.price_version_id
    response.max_output_tokens = pinned.ask.max_output_tokens
    response.environment = _ENVIRONMENTS[pinned.ask.environment]
    if pinned.ask.subscription_id:
        response.subscription_id = pinned.ask.subscription_id
    _fill_principal(response.principal, decision.principal)
    _fill_amount(response.held_amount, pinned.currency_code, format_amount(pinned.amount))
    if decision.expire_time is not None:
        fill_time(response.expire_time, decision.expire_time)


def _fill_limits(response: pb.AuthorizeResponse, limits: Sequence[Status]) -> None:
    """Write where limits stand. Calls of a batch that are under the same ones share the list: it is rendered once."""
    known, rendered = _recent.get(id(limits), (None, b""))
    if known is limits and rendered:
        response.MergeFromString(rendered)
        return
    fill_statuses(response, limits)
    _recent.pop(id(limits), None)
    # From the second call on it is worth while.
    _recent[id(limits)] = limits, pb.AuthorizeResponse(limits=response.limits).SerializeToString() if known else b""
    if len(_recent) > _RECENT_MAX:
        _recent.popitem(last=False)


def _fill_denial(response: pb.AuthorizeResponse, denied: Denied) -> None:
    response.decision = pb.DECISION_DENIED
    fill_reason(response.denial, denied)
    if denied.limits and denied.refused is None:
        _fill_limits(response, denied.limits)
    elif denied.limits:
        response.limits.extend(render_statuses(denied.limits, denied.refused))
    if denied.principal is not None:
        _fill_principal(response.principal, denied.principal)


def fill_reason(target: pb.Denial, denied: Denied) -> None:
    """Write why something may not begin, with the numbers behind it, where it stands."""
    target.reason = pb.DenialReason.Value(f"DENIAL_REASON_{denied.reason}")
    target.message = denied.message
    target.facts.update(denied.facts if denied.refused is None else facts_of(denied.refused))


def _fill_principal(message: pb.Principal, principal: KeyPrincipal) -> None:
    message.organization_id = principal.organization_id
    if principal.project_id:
        message.project_id = principal.project_id
    if principal.user_id:
        message.user_id = principal.user_id
    if principal.service_account_id:
        message.service_account_id = principal.service_account_id
    if principal.api_key_id:
        message.api_key_id = principal.api_key_id
    message.scopes.extend(principal.scopes)


def _fill_amount(amount: amount_pb2.Amount, currency_code: str, value: str) -> None:
    amount.currency_code = currency_code
    amount.value = value
