"""Why limits, subscriptions and billing deny calls."""

from typing import Final

from services.metering.admission.domain import Denied
from services.metering.admission.limits import message_of
from services.metering.admission.writer import Waiting
from services.metering.clients.billing import NotHeld
from services.metering.quota.calls import InForce
from services.metering.quota.decisions import Refused

# Billing's reasons for declining a hold that are passed on unchanged; any other becomes ACCOUNT_CLOSED.
_HOLD_REASONS: Final = ("INSUFFICIENT_BALANCE", "CURRENCY_MISMATCH", "ACCOUNT_CLOSED")
_FACTS: Final = (
    *("posted", "held", "available", "needed", "currency_code", "earliest_release_time"),
    "scoped_to_others",
)


def not_live(one: Waiting, found: InForce) -> Denied | None:
    """Return why a call cannot fall under the subscription that its key is bound to, or that its request names."""
    bound, named = one.principal.subscription_id, one.pinned.ask.subscription_id
    if bound and named and bound != named:
        field, subscription_id = "subscription_id", named
        message = "The key is bound to another subscription than the request names."
    elif not found.is_live:
        field, subscription_id = ("api_key" if bound else "subscription_id"), found.subscription_id
        owner = "The subscription that the key is bound to" if bound else "The subscription that the request names"
        message = f"{owner} is no live one of the organization for this user and model."
    else:
        return None
    facts = {"field": field, "subscription_id": subscription_id}
    return Denied("SUBSCRIPTION_NOT_LIVE", message, facts, one.principal)


def over_limit(one: Waiting, refused: Refused) -> Denied:
    """Return the denial of a call that a limit refuses."""
    message, limits = message_of(refused), one.statuses
    return Denied("LIMIT_EXCEEDED", message, principal=one.principal, limits=limits, refused=refused)


def denied_hold(result: NotHeld, currency_code: str) -> Denied:
    """Return why nothing may begin for which billing holds no money."""
    reason = result.reason if result.reason in _HOLD_REASONS else "ACCOUNT_CLOSED"
    facts = {name: result.facts[name] for name in _FACTS if name in result.facts}
    facts.setdefault("currency_code", currency_code)
    return Denied(reason, result.message, facts)
