"""A look at the configured identity providers before the service starts: can their tokens ever be believed?

A provider that answers with what can never work (another issuer's discovery document, keys of which none can be used)
is a mistake in the settings, and the service refuses to start. One that cannot be reached, or answers with no document
at all, may be back soon: that is logged, and its keys are fetched when somebody signs in.
"""

import asyncio
from collections.abc import Sequence

import structlog

from services.identity.oidc import OidcIssuer
from services.identity.provider_keys import (
    FETCH_WITHIN_S,
    Fetch,
    UnusableAnswer,
    UnusableProvider,
    fetch_provider_keys,
)

_log = structlog.get_logger("provider check")


async def provider_problems(issuers: Sequence[OidcIssuer], fetch: Fetch) -> list[str]:
    """Return, for each provider that can never work as it is configured, what is wrong and what to do."""
    found = await asyncio.gather(*(_problem(issuer, fetch) for issuer in issuers))
    return [
        f"the OIDC provider `{issuer.provider}`: {problem}"
        for issuer, problem in zip(issuers, found, strict=True)
        if problem is not None
    ]


async def _problem(issuer: OidcIssuer, fetch: Fetch) -> str | None:
    try:
        async with asyncio.timeout(FETCH_WITHIN_S):
            keys = await fetch_provider_keys(issuer.issuer, fetch)
    except UnusableProvider as error:
        return str(error)
    except (UnusableAnswer, TimeoutError) as error:
        _log.warning(
            "an identity provider could not be reached; it is tried again at the first sign-in",
            provider=issuer.provider,
            issuer=issuer.issuer,
            why=str(error) or type(error).__name__,
        )
        return None
    if not any(key.fits(algorithm) for key in keys for algorithm in issuer.algorithms):
        return (
            f"none of its keys is for one of the algorithms {', '.join(issuer.algorithms)};"
            " name those it signs with in `algorithms`"
        )
    return None
