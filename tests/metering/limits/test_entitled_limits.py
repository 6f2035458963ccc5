"""What entitlements make of limits: for whom they count, and in which window."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from services.metering.clients.entitlements import Entitlement, Entitlements
from services.metering.clients.entitlements import Limit as EntitledLimit
from services.metering.quota.decisions import place_of
from services.metering.quota.domain import Applied, Call, Enforcement, Limit, Scope, Shape, Terms, Window, in_force
from services.metering.quota.entitled import entitled_limits
from services.metering.quota.windows import ALWAYS

ORG = "0198c0de-0000-7000-8000-000000000001"
ADA = "0198c0de-0000-7000-8000-000000000002"
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
PERIOD = datetime(2026, 11, 10, 23, tzinfo=UTC), datetime(2026, 12, 10, 23, tzinfo=UTC)


def value(
    metric: str = "requests", window: str = "MINUTE", maximum: int | None = 5, *, soft: bool = False
) -> EntitledLimit:
    return EntitledLimit(metric, window, None if maximum is None else Decimal(maximum), soft, "")


def applied(
    source: str, of: EntitledLimit | None = None, subscription: str = "sub-1", *, user: str = "", model: str = ""
) -> Applied:
    one = Entitlement(of or value(), source, subscription or None, user, model)
    found = Entitlements(
        {"a_limit": one, "a_feature": Entitlement(True, source, None)}, PERIOD, None, {"sub-1": PERIOD}
    )
    (limit,) = entitled_limits(ORG, ADA, found)
    return limit


@pytest.mark.parametrize(
    ("source", "override", "scope", "subject"),
    [
        ("ORGANIZATION_PLAN", {}, Scope.ORGANIZATION, ""),
        ("PLATFORM_DEFAULT", {}, Scope.ORGANIZATION, ""),
        ("USER_PLAN", {}, Scope.USER, ADA),
        ("MODEL_SUBSCRIPTION", {}, Scope.SUBSCRIPTION, "sub-1"),
        ("OVERRIDE", {}, Scope.ORGANIZATION, ""),
        ("OVERRIDE", {"model": "gpt-4o"}, Scope.MODEL, "gpt-4o"),
        ("OVERRIDE", {"user": ADA}, Scope.USER, ADA),
        ("OVERRIDE", {"user": ADA, "model": "gpt-4o"}, Scope.USER, f"{ADA} gpt-4o"),
    ],
)
def test_entitlement_counts_for_whoever_it_was_given_to(
    source: str, override: dict[str, str], scope: Scope, subject: str
) -> None:
    limit, counted_for = applied(source, user=override.get("user", ""), model=override.get("model", ""))
    assert (limit.shape.scope, counted_for) == (scope, subject)
    assert limit.is_entitled


def test_change_of_plan_keeps_what_was_used_unless_the_limit_has_no_end() -> None:
    small, large = applied("USER_PLAN"), applied("USER_PLAN", value(maximum=50), subscription="sub-2")
    assert small.limit.limit_id == large.limit.limit_id
    assert (small.limit.terms.maximum, large.limit.terms.maximum) == (Decimal(5), Decimal(50))
    ever = value(window="LIFETIME")
    assert applied("USER_PLAN", ever).limit.limit_id != applied("USER_PLAN", ever, subscription="sub-2").limit.limit_id


def test_period_is_the_one_of_the_subscription_that_gave_it() -> None:
    limit, subject = applied("USER_PLAN", value(window="PERIOD"))
    assert place_of(limit, subject, NOON).counter.span == PERIOD
    nobody, _ = applied("PLATFORM_DEFAULT", value(window="PERIOD"), subscription="")
    assert nobody.period == PERIOD, "the nearest subscription's, where none gave it"
    one = Entitlement(value(window="PERIOD"), "PLATFORM_DEFAULT", None)
    (without,) = entitled_limits(ORG, "", Entitlements({"a_limit": one}, None, None))
    month = place_of(without.limit, "", NOON).counter.span
    assert month == (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


def test_period_that_billing_has_not_renewed_yet_still_counts() -> None:
    limit, subject = applied("USER_PLAN", value(window="PERIOD"))
    assert place_of(limit, subject, PERIOD[1] + timedelta(seconds=3)).counter.span == PERIOD
    assert place_of(limit, subject, PERIOD[0] - timedelta(seconds=3)).counter.span.end == PERIOD[0]


def test_concurrent_calls_have_no_window_and_soft_limits_refuse_nothing() -> None:
    limit, _ = applied("USER_PLAN", value("concurrent_calls", "CALL", soft=True))
    assert limit.shape.window is Window.NONE
    assert limit.terms.enforcement is Enforcement.SOFT
    assert place_of(limit, "", NOON).counter.span == (ALWAYS, None)


def test_entitled_limits_hold_beside_those_that_were_set_unless_a_narrower_one_replaces_them() -> None:
    def limit_of_key(*, replaces: bool) -> Limit:
        shape = Shape("requests", "", Window.MINUTE, False, "", 0, Scope.API_KEY, "", "")
        return Limit("id", "per-key", shape, Terms(Decimal(3), replaces=replaces))

    plan = applied("ORGANIZATION_PLAN")
    call = Call(user_id=ADA, api_key_id="key")
    names = {
        replaces: [one.limit.name for one in in_force([limit_of_key(replaces=replaces)], call, [plan])]
        for replaces in (False, True)
    }
    assert names == {False: ["per-key", "a_limit"], True: ["per-key"]}
