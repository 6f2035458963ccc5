"""A real Envoy, configured as docs/envoy.md says, lets pass and refuses what metering says."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.metering.quota.domain import Enforcement, Scope, Window
from tests.identity.support import Identity
from tests.metering.allocations.support import Limits, at_the_start_of_a_minute, total
from tests.metering.external_auth.support import bearer, funded_key
from tests.metering.support import Platform
from tests.support.clock import ShiftedClock
from tests.support.envoy import Answer, Changes, Envoy, running_envoy
from tollhouse.identity.v1 import api_key_pb2

CHAT = "/v1/chat/completions"


@contextmanager
def envoy_before(platform: Platform, changes: Changes | None = None) -> Iterator[Envoy]:
    token = dict(platform.metering.gateway)["authorization"].removeprefix("Bearer ")
    with running_envoy(platform.folder, platform.metering_port, token, changes) as envoy:
        yield envoy


def told(answer: Answer) -> dict[str, str]:
    """What the server behind Envoy is told of whose request it is."""
    pairs = [(name, value) for name, value in answer.seen if name.replace("_", "-").startswith("x-tollhouse-")]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


async def test_server_behind_is_told_whose_request_it_is_and_never_what_a_client_says_of_that(
    platform: Platform, identity: Identity, limits: Limits, clock: ShiftedClock
) -> None:
    clock.advance(at_the_start_of_a_minute(clock))
    created = await funded_key(platform, identity)
    key = created.api_key
    await limits.set(key.organization_id, "20", name="per-minute", window=Window.MINUTE)
    mine = {
        "x-tollhouse-organization-id": key.organization_id,
        "x-tollhouse-user-id": key.user_id,
        "x-tollhouse-api-key-id": key.api_key_id,
        "x-tollhouse-environment": "live",
    }
    forged = [
        ("x-tollhouse-organization-id", "somebody else"),
        ("X-Tollhouse-Organization-Id", "another"),
        ("x_tollhouse_organization_id", "with underscores"),
        ("x-tollhouse_user_id", "mixed"),
        ("x-tollhouse-project-id", "a project"),
        ("x-tollhouse-service-account-id", "a service account"),
        ("x-tollhouse-is-operator", "true"),
    ]
    with envoy_before(platform) as envoy:
        answers: list[Answer] = []
        for headers in (
            [bearer(created.secret)],
            [("Authorization", f"bEARER {created.secret}"), *forged],
            [*forged, ("X-Api-Key", created.secret)],
            [("x-api-key", created.secret), bearer(created.secret)],
            [("x-api-key", created.secret), ("authorization", "Basic dXNlcjpwYXNz")],
        ):
            answer = await envoy.get(CHAT, *headers, ("x-other", "kept"))
            assert answer.status == 200, answer
            assert told(answer) == mine
            assert ("x-other", "kept") in answer.seen
            assert created.secret not in answer.body
            answers.append(answer)
        last = answers[-1]
        assert ("authorization", "Basic dXNlcjpwYXNz") in last.seen
        assert last.headers["ratelimit-policy"] == '"per-minute";q=20;w=60'
        assert last.headers["ratelimit"].startswith('"per-minute";r=16;t=')
    assert await total(platform) == "5"


async def test_refusals_have_their_status_a_body_and_headers(
    platform: Platform, identity: Identity, limits: Limits, clock: ShiftedClock
) -> None:
    clock.advance(at_the_start_of_a_minute(clock))
    good = await funded_key(platform, identity)
    other = await funded_key(platform, identity)
    limited = await funded_key(platform, identity)
    await limits.set(limited.api_key.organization_id, "1", name="per-minute", window=Window.MINUTE)
    poor = await identity.create_key(api_key_pb2.CreateApiKeyRequest(scopes=["chat"]))
    without_scope = await identity.create_key()
    for_others = await funded_key(platform, identity, allowed_models=["claude-*"])
    from_elsewhere = await funded_key(platform, identity, allowed_addresses=["192.0.2.0/24"])
    revoked = await funded_key(platform, identity)
    await identity.revoke(revoked.api_key)
    with envoy_before(platform) as envoy:
        assert (await envoy.get(CHAT, bearer(limited.secret))).status == 200

        async def answer(*headers: tuple[str, str]) -> tuple[int, object]:
            got = await envoy.get(CHAT, *headers)
            assert got.headers["content-type"] == "application/json"
            assert set(got.document) == {"reason", "message", "facts"}
            assert got.headers.get("www-authenticate") == ("Bearer" if got.status == 401 else None)
            return got.status, got.document["reason"]

        assert await answer() == (401, "KEY_MISSING")
        assert await answer(("authorization", "Basic abc")) == (401, "KEY_MISSING")
        assert await answer(bearer("")) == (401, "KEY_MISSING")
        assert await answer(bearer("nothing")) == (401, "KEY_NOT_FOUND")
        assert await answer(bearer(good.secret), bearer(other.secret)) == (401, "KEY_NOT_FOUND")
        assert await answer(bearer(good.secret), ("x-api-key", other.secret)) == (401, "SEVERAL_KEYS")
        assert await answer(bearer(revoked.secret)) == (401, "KEY_REVOKED")
        assert await answer(bearer(poor.secret)) == (402, "INSUFFICIENT_BALANCE")
        assert await answer(bearer(without_scope.secret)) == (403, "KEY_INSUFFICIENT_SCOPE")
        assert await answer(bearer(for_others.secret)) == (403, "KEY_MODEL_NOT_ALLOWED")
        assert await answer(bearer(from_elsewhere.secret)) == (403, "KEY_ADDRESS_NOT_ALLOWED")
        assert await answer(bearer(limited.secret)) == (429, "LIMIT_EXCEEDED")
        refused = await envoy.get(CHAT, bearer(limited.secret))

    facts = refused.document["facts"]
    assert isinstance(facts, dict)
    wait = refused.headers["retry-after"]
    assert facts == {
        "limit": "per-minute",
        "metric": "requests",
        "max": "1",
        "remaining": "0",
        "retry_after_s": wait,
    }
    assert 0 < int(wait) <= 60
    assert refused.headers["ratelimit-policy"] == '"per-minute";q=1;w=60'
    assert refused.headers["ratelimit"] == f'"per-minute";r=0;t={wait}'
    assert await total(platform) == "1"


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("settings", [{"trusted_proxies": []}, {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}])
async def test_address_of_the_client_is_believed_from_trusted_proxies_alone(
    platform: Platform, identity: Identity, settings: dict[str, list[str]]
) -> None:
    near = await funded_key(platform, identity, allowed_addresses=["127.0.0.1"])
    far = await funded_key(platform, identity, allowed_addresses=["198.51.100.0/24"])
    with envoy_before(platform, Changes(use_remote_address=False)) as envoy:

        async def statuses(*forwarded: str) -> tuple[int, int]:
            headers = [("x-forwarded-for", one) for one in forwarded]
            both = [await envoy.get(CHAT, bearer(one.secret), *headers) for one in (near, far)]
            return both[0].status, both[1].status

        trusts = bool(settings["trusted_proxies"])
        assert await statuses() == (200, 403)
        assert await statuses("198.51.100.7") == ((403, 200) if trusts else (200, 403))
        assert await statuses("198.51.100.7, 10.1.2.3") == ((403, 200) if trusts else (200, 403))
        assert await statuses("198.51.100.7, 203.0.113.1") == ((403, 403) if trusts else (200, 403))
        assert await statuses("198.51.100.7", "nonsense") == (200, 403)


async def test_fifty_requests_at_once_pass_as_often_as_the_limit_says(
    platform: Platform, identity: Identity, limits: Limits, clock: ShiftedClock
) -> None:
    created = await funded_key(platform, identity)
    await limits.set(created.api_key.organization_id, "20", name="twenty", scope=Scope.API_KEY)
    await limits.set(created.api_key.organization_id, "5", name="five", enforcement=Enforcement.SHADOW)
    with envoy_before(platform) as envoy:
        answers = await asyncio.gather(*(envoy.get(CHAT, bearer(created.secret)) for _ in range(50)))
    assert Counter(answer.status for answer in answers) == {200: 20, 429: 30}
    assert await total(platform) == "40"


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("settings", [{"count_requests": True}])
async def test_fifty_requests_at_once_pass_as_often_as_the_limit_says_where_check_counts(
    platform: Platform, identity: Identity, limits: Limits
) -> None:
    created = await funded_key(platform, identity)
    await limits.set(created.api_key.organization_id, "20", name="twenty", scope=Scope.MODEL)
    with envoy_before(platform, Changes(limits_are_asked=False)) as envoy:
        answers = await asyncio.gather(*(envoy.get(CHAT, bearer(created.secret)) for _ in range(50)))
        assert Counter(answer.status for answer in answers) == {200: 20, 429: 30}
        # The limit is for calls of the model, which other routes do not name.
        assert (await envoy.get("/other", bearer(created.secret))).status == 200
    assert await total(platform) == "20"


async def test_failure_mode_decides_while_metering_is_away_or_the_route_demands_nonsense(
    platform: Platform, identity: Identity
) -> None:
    created = await funded_key(platform, identity)
    allows = Changes(failure_mode_allow=True, failure_mode_deny=False)
    with envoy_before(platform, Changes(extensions={"planet": "Mars"})) as envoy:
        assert (await envoy.get(CHAT, bearer(created.secret))).status == 503
        assert (await envoy.get("/other", bearer(created.secret))).status == 200
    with envoy_before(platform) as denying, envoy_before(platform, allows) as allowing:
        assert (await denying.get(CHAT, bearer(created.secret))).status == 200
        # No client can make a check fail, which this Envoy would let pass.
        for odd in ("nothing", "\xff\xfe", "\xed\xa0\x80", "x" * 50_000, 'a,b;c\t"'):
            assert (await allowing.get(CHAT, bearer(odd), ("x-odd", odd[:100]))).status == 401
        await platform.stop_billing()
        await asyncio.sleep(1.1)
        assert (await denying.get(CHAT, bearer(created.secret))).status == 503
        await platform.stop_metering()
        assert (await denying.get(CHAT, bearer(created.secret))).status == 503
        passed = await allowing.get(CHAT, bearer("nothing"), ("x-tollhouse-organization-id", "forged"))
        assert passed.status == 200
