"""Requests on subscriptions, read into what the use cases take."""

from datetime import datetime
from typing import Final, Protocol

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.time_zones import parse_time_zone
from libs.common.timestamps import parse_optional_time, parse_time
from libs.common.update_mask import mask_violations
from services.billing.plan.parsing import read_entitlements, read_references
from services.billing.subscription.creation import NewSubscription
from services.billing.subscription.domain import Updates, Way
from services.billing.subscription.list_store import Filter
from services.billing.subscription.plan_changes import PlanChange
from services.billing.subscription.states import State
from tollhouse.billing.v1 import subscription_pb2 as pb

_PATHS: Final = ("expire_time", "customer_reference", "references", "metadata", "collection_provider")
_STATES: Final = {pb.SubscriptionState.Value(f"SUBSCRIPTION_STATE_{state}"): state for state in State}


class WithReason(Protocol):
    """A request that must say why."""

    @property
    def reason(self) -> str: ...


def read_new_subscription(request: pb.CreateSubscriptionRequest) -> NewSubscription:
    """Return the subscription that is to be made.

    Raises:
        InvalidArgument: naming every field that cannot be so.
    """
    violations: list[FieldViolation] = []
    if request.model and not request.user_id:
        violations.append(FieldViolation("user_id", "is required with a model"))
    if not request.model and not request.plan_code:
        violations.append(FieldViolation("plan_code", "is required without a model"))
    if request.limits and (request.plan_code or not request.model):
        violations.append(FieldViolation("limits", "must be empty with a plan, and without a model"))
    limits = read_entitlements("limits", request.limits, violations)
    references = read_references("references", request.references, violations)
    zone = parse_time_zone("time_zone", request.time_zone, violations)
    times: dict[str, datetime] = {}
    if request.HasField("start_time"):
        times["start_time"] = parse_time("start_time", request.start_time, violations)
    if request.HasField("expire_time"):
        times["expire_time"] = parse_time("expire_time", request.expire_time, violations)
    if request.HasField("anchor_time"):
        times["anchor_time"] = parse_time("anchor_time", request.anchor_time, violations)
    if violations:
        raise InvalidArgument(violations)
    return NewSubscription(
        organization_id=request.organization_id.lower(),
        user_id=request.user_id.lower() or None,
        model=request.model or None,
        plan_code=request.plan_code,
        skip_trial=request.skip_trial,
        start_time=times.get("start_time"),
        expire_time=times.get("expire_time"),
        anchor_time=times.get("anchor_time"),
        time_zone=zone.key,
        limits=limits,
        customer_reference=request.customer_reference,
        collection_provider=request.collection_provider or None,
        references=references,
        metadata=dict(request.metadata) or None,
    )


def read_updates(request: pb.UpdateSubscriptionRequest) -> Updates:
    """Return the new values of the fields that the mask names.

    Raises:
        InvalidArgument: naming every field that cannot be so, and the mask if it names another.
    """
    paths = set(request.update_mask.paths)
    violations = mask_violations(paths, _PATHS)
    values: dict[str, object] = {}
    if "expire_time" in paths:
        given = request.HasField("expire_time")
        values["expire_time"] = parse_time("expire_time", request.expire_time, violations) if given else None
    if "customer_reference" in paths:
        values["customer_reference"] = request.customer_reference
    if "references" in paths:
        values["references"] = read_references("references", request.references, violations)
    if "metadata" in paths:
        values["metadata"] = dict(request.metadata)
    if "collection_provider" in paths:
        values["collection_provider"] = request.collection_provider or None
        values["collection"] = Way.SAVED_METHOD if request.collection_provider else Way.BALANCE
    if violations:
        raise InvalidArgument(violations)
    return Updates(values)


def read_plan_change(request: pb.ChangePlanRequest) -> PlanChange:
    """Return the change of plan that is asked for."""
    return PlanChange(
        organization_id=request.organization_id.lower(),
        subscription_id=request.subscription_id.lower(),
        plan_code=request.plan_code,
        at_period_end=request.timing == pb.CHANGE_TIMING_PERIOD_END,
        validate_only=request.validate_only,
        reason=request.reason,
        etag=request.etag,
    )


def read_filter(request: pb.ListSubscriptionsRequest) -> Filter:
    """Return which subscriptions are wanted. Raises InvalidArgument for a time that is none."""
    return Filter(
        user_id=request.user_id.lower() or None,
        model=request.model or None,
        plan_code=request.plan_code or None,
        state=_STATES.get(request.state),
        expire_before=parse_optional_time(
            "expire_before_time", request.expire_before_time, present=request.HasField("expire_before_time")
        ),
    )


def read_due_before(request: pb.ListDueSubscriptionsRequest) -> datetime | None:
    """Return before which time something is due; None for now. Raises InvalidArgument for a time that is none."""
    return parse_optional_time("due_before_time", request.due_before_time, present=request.HasField("due_before_time"))


def check_reason(request: WithReason) -> None:
    """Raise InvalidArgument for a reason that says nothing."""
    if not request.reason.strip():
        raise InvalidArgument([FieldViolation("reason", "must not be blank")])
