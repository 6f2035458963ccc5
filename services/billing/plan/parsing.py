"""Reads plans and changes of plans from requests. Each function adds to `violations` what annotations cannot say.

A request that annotations refuse is read as well, to find whatever else is wrong with it. So a value that is none reads
as one that is right.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Final

from google.protobuf.duration_pb2 import Duration

from libs.common.amount import SMALLEST_POSITIVE, parse_amount
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.pages import decode_page_token, foreign_token
from services.billing.plan.domain import (
    TERMS_FIELDS,
    Changes,
    Entitlement,
    IncludedCredits,
    Interval,
    IntervalUnit,
    Limit,
    LimitWindow,
    Money,
    NewPlan,
    Number,
    PastDue,
    PastDueEnd,
    Place,
    ProviderReference,
    Rollover,
    Terms,
    credits_flaws,
    entitlements_flaws,
    interval_flaws,
    past_due_flaws,
    price_flaws,
    references_flaws,
)
from services.billing.plan.experiment_domain import variants_flaws
from services.billing.plan.usage_charge_domain import UsageCharge, UsageMode, UsageStep, usage_charges_flaws
from tollhouse.billing.v1 import plan_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount

Violations = list[FieldViolation]

_UNITS: Final = {pb.IntervalUnit.Value(f"INTERVAL_UNIT_{unit}"): unit for unit in IntervalUnit}
_ROLLOVERS: Final = {pb.Rollover.Value(f"ROLLOVER_{rollover}"): rollover for rollover in Rollover}
_WINDOWS: Final = {pb.LimitWindow.Value(f"LIMIT_WINDOW_{window}"): window for window in LimitWindow}
_MODES: Final = {pb.UsageChargeMode.Value(f"USAGE_CHARGE_MODE_{mode}"): mode for mode in UsageMode}
_ENDS: Final = {pb.PastDueEnd.Value(f"PAST_DUE_END_{end}"): end for end in PastDueEnd}
_DECIMAL: Final = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?")
_PLAN_FIELDS: Final = ("name", "description", "active", "sort_order", "provider_references")
_TERMS: Final = "terms"
_PATHS: Final = frozenset({*_PLAN_FIELDS, _TERMS, *(f"{_TERMS}.{field}" for field in TERMS_FIELDS)})
_INT32: Final = range(-(2**31), 2**31)


def read_new_plan(request: pb.CreatePlanRequest) -> NewPlan:
    """Return the plan that is to be added.

    Raises:
        InvalidArgument: naming every field that cannot be so.
    """
    violations = [*_name_flaws(request.name)]
    references = read_references("provider_references", request.provider_references, violations)
    terms = _read_terms(request.terms, TERMS_FIELDS, violations)
    if violations:
        raise InvalidArgument(violations)
    return NewPlan(
        plan_code=request.plan_code,
        name=request.name,
        description=request.description,
        active=not request.inactive,
        sort_order=request.sort_order,
        provider_references=references,
        terms=Terms(**terms),  # type: ignore[arg-type]  # each field was read by its own function.
    )


def read_changes(request: pb.UpdatePlanRequest) -> Changes:
    """Return the new values of the fields that the mask names.

    Raises:
        InvalidArgument: naming every field that cannot be so, and the mask if it names another.
    """
    paths = set(request.update_mask.paths)
    violations = [*_name_flaws(request.name)] if "name" in paths else []
    if not paths or not paths <= _PATHS:
        rule = f"must name fields out of {', '.join(_PLAN_FIELDS)}, terms and terms.{{{', '.join(TERMS_FIELDS)}}}"
        violations.append(FieldViolation("update_mask", rule))
    of_plan: dict[str, object] = {path: getattr(request, path) for path in paths & {*_PLAN_FIELDS}}
    if "provider_references" in paths:
        of_plan["provider_references"] = read_references("provider_references", request.provider_references, violations)
    named = [field for field in TERMS_FIELDS if not paths.isdisjoint({_TERMS, f"{_TERMS}.{field}"})]
    of_terms = _read_terms(request.terms, named, violations)
    if violations:
        raise InvalidArgument(violations)
    return Changes(of_plan, of_terms)


def check_name(request: pb.GetPlanRequest) -> None:
    """Raise InvalidArgument unless the request names its plan by an id or by a code, and not by both."""
    if not request.plan_id and not request.plan_code:
        raise InvalidArgument([FieldViolation("plan_id", "must be given, unless plan_code is")])
    if request.plan_id and request.plan_code:
        raise InvalidArgument([FieldViolation("plan_code", "must not be given with plan_id")])


def read_weights(request: pb.SetPlanExperimentRequest) -> Mapping[str, int]:
    """Return the weights of variants by the codes of their plans. Raises InvalidArgument for a plan named twice."""
    violations = list(variants_flaws("variants", [variant.plan_code for variant in request.variants]))
    if violations:
        raise InvalidArgument(violations)
    return {variant.plan_code: variant.weight for variant in request.variants}


def read_place(token: str, fingerprint: str) -> Place | None:
    """Return the sort_order and the code after which a page begins; None for the first page.

    Raises:
        InvalidArgument: the token is not one of ours, or belongs to another query.
    """
    if not token:
        return None
    key = decode_page_token(token, fingerprint)
    if len(key) != 2 or re.fullmatch(r"-?[0-9]{1,10}", key[0], re.ASCII) is None or int(key[0]) not in _INT32:
        raise foreign_token()
    return int(key[0]), key[1]


def _name_flaws(name: str) -> Sequence[FieldViolation]:
    return [] if name.strip() else [FieldViolation("name", "must not be blank")]


def read_references(
    field: str, listed: Collection[pb.ProviderReference], violations: Violations
) -> tuple[ProviderReference, ...]:
    """Return what payment providers call something, sorted."""
    references = [ProviderReference(one.provider, one.kind, one.external_id) for one in listed]
    violations += references_flaws(field, references)
    return tuple(sorted(references))


def _read_terms(terms: pb.PlanTerms, fields: Collection[str], violations: Violations) -> dict[str, object]:
    return {field: _READERS[field](terms, f"{_TERMS}.{field}", violations) for field in fields}


def _price(terms: pb.PlanTerms, field: str, violations: Violations) -> Money:
    if not terms.HasField("price"):
        violations.append(FieldViolation(field, "is required"))
        return Money("", Decimal(0))
    price = _money(terms.price, field, violations, minimum=Decimal(0))
    violations += price_flaws(field, price)
    return price


def _minimum(terms: pb.PlanTerms, field: str, violations: Violations) -> Money | None:
    if not terms.HasField("minimum"):
        return None
    minimum = _money(terms.minimum, field, violations)
    violations += price_flaws(field, minimum)
    return minimum


def _billing_interval(terms: pb.PlanTerms, field: str, violations: Violations) -> Interval:
    if not terms.HasField("billing_interval"):
        violations.append(FieldViolation(field, "is required"))
    return _interval(terms.billing_interval, field, violations)


def _trial(terms: pb.PlanTerms, field: str, violations: Violations) -> Interval | None:
    return _interval(terms.trial, field, violations) if terms.HasField("trial") else None


def _credits(terms: pb.PlanTerms, field: str, violations: Violations) -> tuple[IncludedCredits, ...]:
    found = []
    for index, one in enumerate(terms.credits):
        place = f"{field}[{index}]"
        rollover_max = None
        if one.HasField("rollover_max"):
            rollover_max = _money(one.rollover_max, f"{place}.rollover_max", violations, minimum=Decimal(0))
        amount = _money(one.amount, f"{place}.amount", violations)
        found.append(IncludedCredits(amount, _ROLLOVERS.get(one.rollover, Rollover.NONE), rollover_max, one.priority))
    violations += credits_flaws(field, found)
    return tuple(found)


def _entitlements(terms: pb.PlanTerms, field: str, violations: Violations) -> tuple[Entitlement, ...]:
    return read_entitlements(field, terms.entitlements, violations)


def read_entitlements(
    field: str, listed: Collection[pb.Entitlement], violations: Violations
) -> tuple[Entitlement, ...]:
    """Return entitlements in their order."""
    found = tuple(map(entitlement_in, listed))
    violations += entitlements_flaws(field, found)
    return found


def _past_due(terms: pb.PlanTerms, field: str, violations: Violations) -> PastDue:
    listed = terms.past_due
    past_due = PastDue(
        tuple(
            _seconds(after, f"{field}.retry_after[{index}]", violations)
            for index, after in enumerate(listed.retry_after)
        ),
        _ENDS.get(listed.end, PastDueEnd.CANCEL),
        listed.fallback_plan_code,
    )
    violations += past_due_flaws(field, past_due)
    return past_due


def _usage_charges(terms: pb.PlanTerms, field: str, violations: Violations) -> tuple[UsageCharge, ...]:
    found = tuple(
        UsageCharge(
            one.usage_charge_code,
            one.name,
            one.unit,
            tuple(one.models),
            _MODES.get(one.mode, UsageMode.GRADUATED),
            tuple(
                UsageStep(_decimal(step.up_to) if step.up_to else None, _decimal(step.price), _decimal(step.flat))
                for step in one.steps
            ),
            _decimal(one.flat_fee),
            one.flat_fee_without_usage,
        )
        for one in terms.usage_charges
    )
    violations += usage_charges_flaws(field, found)
    return found


def _metadata(terms: pb.PlanTerms, field: str, violations: Violations) -> Mapping[str, str]:
    return dict(terms.metadata)


_READERS: Final[Mapping[str, Callable[[pb.PlanTerms, str, Violations], object]]] = {
    "price": _price,
    "billing_interval": _billing_interval,
    "credits": _credits,
    "trial": _trial,
    "entitlements": _entitlements,
    "past_due": _past_due,
    "metadata": _metadata,
    "minimum": _minimum,
    "usage_charges": _usage_charges,
}
"""By the fields of PlanTerms, what reads each. They are also the fields that a mask may name."""


def _money(amount: Amount, field: str, violations: Violations, minimum: Decimal = SMALLEST_POSITIVE) -> Money:
    return Money(amount.currency_code, parse_amount(field, amount, violations, minimum=minimum).copy_abs())


def _interval(listed: pb.Interval, field: str, violations: Violations) -> Interval:
    interval = Interval(_UNITS.get(listed.unit, IntervalUnit.DAY), listed.count)
    violations += interval_flaws(field, interval)
    return interval


def _seconds(duration: Duration, field: str, violations: Violations) -> int:
    if duration.nanos:
        violations.append(FieldViolation(field, "must be whole seconds"))
    return duration.seconds


def entitlement_in(one: pb.Entitlement) -> Entitlement:
    """Return the entitlement in a message, which keeps to its annotations."""
    return Entitlement(one.entitlement_code, _entitled(one))


def _entitled(one: pb.Entitlement) -> bool | Number | str | Limit:
    value = one.WhichOneof("value")
    if value == "number":
        return Number(_decimal(one.number))
    if value == "text":
        return one.text
    if value == "limit":
        return _limit(one.limit)
    return one.enabled


def _limit(listed: pb.EntitledLimit) -> Limit:
    return Limit(
        listed.metric,
        _WINDOWS.get(listed.window, LimitWindow.CALL),
        None if listed.unlimited else _decimal(listed.value),
        listed.soft,
        listed.currency_code,
    )


def _decimal(text: str) -> Decimal:
    """Read a decimal. A number of zero has no sign."""
    return Decimal(text) + 0 if _DECIMAL.fullmatch(text) else Decimal(0)
