"""Credentials that must be refused: forged, expired, for another audience, or of a user or key that was stopped."""

import asyncio
import base64
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from libs.cli.installation.data_folder import AUDIENCES, SERVICE_NAMES, DataFolder
from libs.common.authentication import TOKEN_MAX_LENGTH, TOKEN_TYPE, SigningKey, mint_token
from libs.common.clock import SystemClock
from libs.common.ids import new_id
from services.identity.api_key.secret import new_secret
from tests.system.authorization.people import People, Person
from tests.system.authorization.world import World

_HOUR = timedelta(hours=1)
_EXPIRY = timedelta(seconds=1.5)


async def bad_credentials(data: DataFolder, world: World) -> dict[str, str]:
    """Return one credential of each kind, by what is wrong with it."""
    return {**forged(data, world), **await stopped(world)}


def forged(data: DataFolder, world: World) -> dict[str, str]:
    """Credentials that were never issued, have expired, or are used where they are not valid."""
    operator, session = (SigningKey.read(data.signing_key_file(name)) for name in ("operator", "session"))
    services = {name: SigningKey.read(data.signing_key_file(name)) for name in SERVICE_NAMES}
    impostor = SigningKey.generate(issuer=operator.issuer, subject="operator:cli")
    unknown = SigningKey.generate(issuer="stranger", subject="operator:cli")
    owner = f"user:{world.callers[0].user_id}"
    good = mint(operator)
    return {
        "nothing": "",
        "garbage": "garbage",
        "three segments of garbage": "a.b.c",
        "wrong audience": mint(operator, audiences=["treasury.tollhouse"]),
        "expired": mint(operator, lifetime=-_HOUR),
        "unknown issuer": mint(unknown),
        "another's signature": mint(impostor),
        "another's subject": mint(services["gateway"], subject="service:metering"),
        "a service as operator": mint(services["gateway"], subject="operator:gateway"),
        "a service as user": mint(services["identity"], subject=owner, session_id=new_id()),
        "sessions' key as operator": mint(session, subject="operator:cli"),
        "no algorithm": _unsigned(good, {"alg": "none", "typ": TOKEN_TYPE, "kid": operator.issuer}),
        "signed with the public key": _signed_with_public_key(operator),
        "cut short": good[:-5],
        "too long": mint(operator, subject="operator:" + "x" * TOKEN_MAX_LENGTH),
        "a user without session": mint(session, subject=owner),
        "a user of an unknown session": mint(session, subject=owner, session_id=new_id()),
        "an expired session's token": mint(session, subject=owner, session_id=new_id(), lifetime=-_HOUR),
        "a malformed key": "th_live_garbage",
        "an unknown key": new_secret(live=True),
        "an altered key": _altered(next(caller.token for caller in world.callers if caller.name == "key of owner")),
    }


async def stopped(world: World) -> dict[str, str]:
    """Credentials that were valid until their user, key or session was stopped."""
    people, organization_id = world.people, world.places["own project"].organization_id
    signed_out, deactivated, removed = [await people.person(organization_id, "admin") for _ in range(3)]
    secrets = {
        "the key of somebody deactivated": await _key(people, organization_id, deactivated),
        "the key of somebody removed": await _key(people, organization_id, removed),
        "a disabled key": await _key(people, organization_id, signed_out),
        "a revoked key": await _key(people, organization_id, signed_out),
        "an expired key": await _key(people, organization_id, signed_out, expire_in=_EXPIRY),
    }
    expired = asyncio.create_task(asyncio.sleep(_EXPIRY.total_seconds()))
    await people.disable_key(organization_id, secrets["a disabled key"][0])
    await people.revoke_key(organization_id, secrets["a revoked key"][0])
    await people.sign_out(signed_out)
    await people.deactivate(deactivated.user_id)
    await people.leave(organization_id, removed.user_id)
    lost_id = await people.organization(removed.user_id)
    secrets["the key of a deleted organization"] = await _key(people, lost_id, removed)
    await world.furniture.delete_organization(lost_id)
    await expired
    tokens = {"signed out": signed_out.token, "deactivated": deactivated.token}
    return tokens | {name: secret for name, (_, secret) in secrets.items()}


async def _key(
    people: People, organization_id: str, person: Person, expire_in: timedelta | None = None
) -> tuple[str, str]:
    return await people.key(organization_id, expire_in=expire_in, user_id=person.user_id)


def mint(
    key: SigningKey,
    *,
    audiences: list[str] | None = None,
    lifetime: timedelta = _HOUR,
    subject: str | None = None,
    session_id: str = "",
) -> str:
    """Sign a token as its issuer would."""
    return mint_token(
        key,
        audiences=audiences or AUDIENCES,
        lifetime=lifetime,
        clock=SystemClock(),
        subject=subject,
        more_claims={"sid": session_id} if session_id else None,
    )


def _altered(secret: str) -> str:
    """A secret of the same format with a wrong checksum."""
    return secret[:20] + ("b" if secret[20] == "a" else "a") + secret[21:]


def _segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _unsigned(token: str, header: Mapping[str, str]) -> str:
    return f"{_segment(json.dumps(header).encode())}.{token.split('.')[1]}."


def _signed_with_public_key(operator: SigningKey) -> str:
    """A token signed by HMAC with the public key as the shared secret."""
    now = int(datetime.now(UTC).timestamp())
    claims = {"iss": operator.issuer, "sub": operator.subject, "aud": AUDIENCES, "iat": now, "exp": now + 600}
    head = {"alg": "HS256", "typ": TOKEN_TYPE, "kid": operator.key["kid"]}
    signed = f"{_segment(json.dumps(head).encode())}.{_segment(json.dumps(claims).encode())}"
    public = base64.urlsafe_b64decode(str(operator.key["x"]) + "=")
    return f"{signed}.{_segment(hmac.digest(public, signed.encode(), 'sha256'))}"
