"""Plans as messages."""

from google.protobuf.duration_pb2 import Duration

from libs.common.amount import format_amount, render_amount
from libs.common.timestamps import render_optional_time, render_time
from services.billing.plan.domain import (
    Entitlement,
    IncludedCredits,
    Interval,
    Limit,
    Money,
    Number,
    Plan,
    ProviderReference,
    Terms,
    Version,
)
from services.billing.plan.experiment_domain import Experiment, Result
from services.billing.plan.usage_charge_domain import UsageCharge
from tollhouse.billing.v1 import plan_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount


def render_plan(plan: Plan, asked: Version | None = None) -> pb.Plan:
    """Return a plan with what it has of the published, the draft and the asked version."""
    return pb.Plan(
        plan_id=plan.plan_id,
        plan_code=plan.plan_code,
        name=plan.name,
        description=plan.description,
        active=plan.active,
        sort_order=plan.sort_order,
        provider_references=map(render_reference, plan.provider_references),
        published_version=_version(plan.published),
        draft_version=_version(plan.draft),
        asked_version=_version(asked),
        archive_time=render_optional_time(plan.archive_time),
        create_time=render_time(plan.create_time),
        update_time=render_time(plan.update_time),
        etag=plan.etag,
    )


def render_experiment(experiment: Experiment) -> pb.PlanExperiment:
    """Return an experiment as a message."""
    return pb.PlanExperiment(
        experiment_id=experiment.experiment_id,
        plan_id=experiment.plan_id,
        plan_code=experiment.plan_code,
        variants=[pb.PlanVariant(plan_code=code, weight=weight) for code, weight in experiment.weights.items()],
        start_time=render_time(experiment.start_time),
        update_time=render_time(experiment.update_time),
        end_time=render_optional_time(experiment.end_time),
        etag=experiment.etag,
    )


def render_result(result: Result) -> pb.PlanVariantResult:
    """Return what became of a variant's subjects as a message."""
    return pb.PlanVariantResult(
        plan_code=result.plan_code,
        saw_count=result.saw,
        tried_count=result.tried,
        subscribed_count=result.subscribed,
        stayed_count=result.stayed,
        brought=[render_amount(currency_code, value) for currency_code, value in sorted(result.brought.items())],
    )


def render_reference(one: ProviderReference) -> pb.ProviderReference:
    """Return what a payment provider calls something, as a message."""
    return pb.ProviderReference(provider=one.provider, kind=one.kind, external_id=one.external_id)


def _version(version: Version | None) -> pb.PlanVersion | None:
    if version is None:
        return None
    return pb.PlanVersion(
        version=version.version,
        state=pb.PlanVersionState.Value(f"PLAN_VERSION_STATE_{version.state}"),
        terms=_terms(version.terms),
        create_time=render_time(version.create_time),
        publish_time=render_optional_time(version.publish_time),
        archive_time=render_optional_time(version.archive_time),
    )


def _terms(terms: Terms) -> pb.PlanTerms:
    past_due = terms.past_due
    return pb.PlanTerms(
        price=render_money(terms.price),
        billing_interval=_interval(terms.billing_interval),
        credits=map(_credits, terms.credits),
        trial=None if terms.trial is None else _interval(terms.trial),
        entitlements=map(render_entitlement, terms.entitlements),
        past_due=pb.PastDuePolicy(
            retry_after=[Duration(seconds=after_s) for after_s in past_due.retry_after_s],
            end=pb.PastDueEnd.Value(f"PAST_DUE_END_{past_due.end}"),
            fallback_plan_code=past_due.fallback_plan_code,
        ),
        metadata=terms.metadata,
        minimum=None if terms.minimum is None else render_money(terms.minimum),
        usage_charges=map(_usage_charge, terms.usage_charges),
    )


def render_money(money: Money) -> Amount:
    """Return an amount as a message."""
    return render_amount(money.currency_code, money.value)


def _usage_charge(one: UsageCharge) -> pb.UsageCharge:
    return pb.UsageCharge(
        usage_charge_code=one.usage_charge_code,
        name=one.name,
        unit=one.unit,
        models=one.models,
        mode=pb.UsageChargeMode.Value(f"USAGE_CHARGE_MODE_{one.mode}"),
        steps=[
            pb.UsageStep(
                up_to="" if step.up_to is None else format_amount(step.up_to),
                price=format_amount(step.price),
                flat=format_amount(step.flat) if step.flat else "",
            )
            for step in one.steps
        ],
        flat_fee=format_amount(one.flat_fee) if one.flat_fee else "",
        flat_fee_without_usage=one.flat_fee_without_usage,
    )


def _interval(interval: Interval) -> pb.Interval:
    return pb.Interval(unit=pb.IntervalUnit.Value(f"INTERVAL_UNIT_{interval.unit}"), count=interval.count)


def _credits(one: IncludedCredits) -> pb.IncludedCredits:
    return pb.IncludedCredits(
        amount=render_money(one.amount),
        rollover=pb.Rollover.Value(f"ROLLOVER_{one.rollover}"),
        rollover_max=None if one.rollover_max is None else render_money(one.rollover_max),
        priority=one.priority,
    )


def render_entitlement(one: Entitlement) -> pb.Entitlement:
    """Return an entitlement as a message."""
    code, value = one.entitlement_code, one.value
    if isinstance(value, bool):
        return pb.Entitlement(entitlement_code=code, enabled=value)
    if isinstance(value, Number):
        return pb.Entitlement(entitlement_code=code, number=format_amount(value.value))
    if isinstance(value, str):
        return pb.Entitlement(entitlement_code=code, text=value)
    return pb.Entitlement(entitlement_code=code, limit=_limit(value))


def _limit(limit: Limit) -> pb.EntitledLimit:
    rendered = pb.EntitledLimit(
        metric=limit.metric,
        window=pb.LimitWindow.Value(f"LIMIT_WINDOW_{limit.window}"),
        soft=limit.soft,
        currency_code=limit.currency_code,
    )
    if limit.maximum is None:
        rendered.unlimited = True
    else:
        rendered.value = format_amount(limit.maximum)
    return rendered
