"""Decides whether a request of a proxy may pass: by its key, the route, the balance, and the limits on requests."""

from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount
from services.metering.admission.callers import Callers
from services.metering.admission.domain import Denied as KeyDenied
from services.metering.admission.hints import hints_of_limits, http_status_of
from services.metering.admission.limits import message_of
from services.metering.clients.balances import Balances
from services.metering.clients.identity import KeyPrincipal
from services.metering.errors import TooManyUnknownKeys
from services.metering.external_auth.configuration import ExternalAuth
from services.metering.external_auth.domain import Asked, Denied, Passes, Route, Status
from services.metering.quota.calls import InForce
from services.metering.quota.decisions import Refused, left, retry_after_s
from services.metering.quota.domain import REQUESTS, Call
from services.metering.rate_limit.decisions import Hit
from services.metering.rate_limit.hits import Hits

_ONE: Final = Decimal(1)
_ZERO: Final = Decimal(0)
_NO_KEY: Final = Denied(Status.UNAUTHORIZED, "KEY_MISSING", "The request has no API key.")
_SEVERAL_KEYS: Final = Denied(Status.UNAUTHORIZED, "SEVERAL_KEYS", "The request has several API keys.")


class Checks:
    """Decides requests."""

    def __init__(self, configuration: ExternalAuth, callers: Callers, balances: Balances, hits: Hits) -> None:
        self.configuration = configuration
        self._callers = callers
        self._balances = balances
        self._hits = hits

    async def check(self, asked: Asked) -> Passes | Denied:
        """Decide a request. Nothing is taken of limits unless it passes and the configuration says so.

        Raises:
            Overloaded: too many requests wait already.
            Unavailable: identity, billing or the database cannot be asked.
        """
        if len(asked.keys) != 1:
            return _SEVERAL_KEYS if asked.keys else _NO_KEY
        route = asked.route
        try:
            caller = await self._callers.of_key(
                asked.keys[0],
                model=route.model,
                required_scopes=route.scopes,
                client_address=asked.client_address,
            )
        except TooManyUnknownKeys as too_many:
            # As an error it might be let pass, and whoever guesses keys would only have to guess enough.
            return _too_many_keys(too_many)
        if isinstance(caller, KeyDenied):
            return _key_denied(caller, asked)
        principal = caller.principal
        foreign = _not_of_route(route, principal)
        if foreign is not None:
            return foreign
        call = _call(principal, route)
        (in_force,) = await self._hits.in_force(principal.organization_id, [call])
        if not in_force.is_live:
            message = "The subscription that the key is bound to is no live one for this model."
            facts = {"subscription_id": call.subscription_id}
            return Denied(Status.FORBIDDEN, "SUBSCRIPTION_NOT_LIVE", message, facts)
        if self.configuration.check_balance and not principal.is_test:
            funds = await self._balances.funds_of(
                principal.organization_id, principal.project_id or "", route.currency_code
            )
            if not funds.any_left:
                message = "There is no money available for the request."
                return Denied(Status.PAYMENT_REQUIRED, "INSUFFICIENT_BALANCE", message, funds.facts)
        return await self._within_limits(principal, call, in_force)

    async def _within_limits(self, principal: KeyPrincipal, call: Call, in_force: InForce) -> Passes | Denied:
        hit, only_look = Hit(call, REQUESTS, "", _ONE), not self.configuration.count_requests
        looked = await self._hits.take_one(principal.organization_id, hit, in_force.applied, only_look=only_look)
        refused = looked.status.refused
        hints = hints_of_limits(looked.limits, refused, self._hits.now())
        return Passes(principal, in_force.subscription_id, hints) if refused is None else _over_limit(refused, hints)


def _too_many_keys(refusal: TooManyUnknownKeys) -> Denied:
    seconds = -(-(refusal.retry_after_ms or 0) // 1000)
    hints = (("retry-after", str(max(seconds, 1))),)
    return Denied(Status.TOO_MANY_REQUESTS, refusal.reason, refusal.message, refusal.facts, hints)


def _key_denied(denied: KeyDenied, asked: Asked) -> Denied:
    facts = {
        "KEY_INSUFFICIENT_SCOPE": {"scope": " ".join(asked.route.scopes)},
        "KEY_MODEL_NOT_ALLOWED": {"model": asked.route.model},
        "KEY_ADDRESS_NOT_ALLOWED": {"client_address": asked.client_address},
    }.get(denied.reason, {})
    return Denied(Status(http_status_of(denied.reason)), denied.reason, denied.message, facts)


def _not_of_route(route: Route, principal: KeyPrincipal) -> Denied | None:
    if route.organization_id not in ("", principal.organization_id):
        message = "The key is of an organization that may not use this route."
        return Denied(Status.FORBIDDEN, "ORGANIZATION_NOT_ALLOWED", message)
    if route.project_id not in ("", principal.project_id):
        message = "The key is not of the project that may use this route."
        return Denied(Status.FORBIDDEN, "PROJECT_NOT_ALLOWED", message)
    return None


def _call(principal: KeyPrincipal, route: Route) -> Call:
    return Call(
        project_id=principal.project_id or "",
        user_id=principal.user_id or "",
        service_account_id=principal.service_account_id or "",
        api_key_id=principal.api_key_id or "",
        subscription_id=principal.subscription_id or "",
        model=route.model,
        labels=route.labels,
    )


def _over_limit(refused: Refused, hints: tuple[tuple[str, str], ...]) -> Denied:
    limit = refused.take.limit
    facts = {
        "limit": limit.name,
        "metric": limit.shape.metric,
        "max": format_amount(limit.terms.maximum or _ZERO),
        "remaining": format_amount(left(limit, refused.standing) or _ZERO),
    }
    seconds = retry_after_s(refused)
    if seconds is not None:
        facts["retry_after_s"] = str(seconds)
    return Denied(Status.TOO_MANY_REQUESTS, "LIMIT_EXCEEDED", message_of(refused), facts, hints)
