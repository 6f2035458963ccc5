"""Counts and logs the outcomes of sign-ins, without naming the user."""

from typing import Final

import structlog
from opentelemetry import metrics

from services.identity.session.domain import SignInMethod

_log = structlog.get_logger("sign-in")
_sign_ins = metrics.get_meter("tollhouse").create_counter(
    "identity.sign_ins", unit="{sign-in}", description="Attempts to sign in, by method and outcome."
)

SIGNED_IN: Final = "signed_in"
REFUSED: Final = "refused"
TOO_MANY_ATTEMPTS: Final = "too_many_attempts"


def count_sign_in(method: SignInMethod, outcome: str, provider: str = "") -> None:
    """Count a sign-in attempt with its outcome."""
    _sign_ins.add(1, {"method": method.value, "outcome": outcome, "provider": provider})


def count_refusal(method: SignInMethod, reason: str, provider: str = "") -> None:
    """Count and log a refused attempt. Attempts above the limits are only counted, because they would fill the log."""
    count_sign_in(method, REFUSED, provider)
    _log.info("a sign-in was refused", method=method.value, reason=reason, provider=provider)


def log_reuse(session_id: str) -> None:
    """Log that a refresh token was presented twice: one of the two copies may be stolen."""
    _log.warning("a refresh token was presented again, and its session was ended", session_id=session_id)
