"""Sessions after the sign-in: token refresh, detection of stolen tokens, sign-out, listing and public keys."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf import json_format
from joserfc import jwt
from joserfc.jwk import KeySet

from libs.common.authentication import SigningKey, TrustBundle
from libs.common.database import Database
from libs.common.ids import new_id
from tests.identity.refusals import NOT_FOUND, refused, violated_fields
from tests.identity.sign_ins import SignIns, ends_of, events, open_sign_ins
from tests.support.callers import bearer
from tollhouse.identity.v1 import session_pb2 as pb

REFUSED = ("UNAUTHENTICATED", "INVALID_REFRESH_TOKEN")


@pytest.fixture
async def site(database_urls: dict[str, str], tmp_path: Path) -> AsyncIterator[SignIns]:
    async with open_sign_ins(database_urls["identity"], tmp_path) as site:
        yield site


@pytest.fixture
async def signed_in(site: SignIns) -> pb.SignInWithPasswordResponse:
    return await site.sign_in((await site.create_user()).email)


async def test_each_refresh_token_gives_the_next_pair(site: SignIns, signed_in: pb.SignInWithPasswordResponse) -> None:
    token, seen = signed_in.tokens.refresh_token, {signed_in.tokens.refresh_token}
    for _ in range(5):
        site.clock.advance(timedelta(days=1))
        refreshed = await site.refresh(token)
        assert refreshed.session.session_id == signed_in.session.session_id
        assert refreshed.session.last_refresh_time.ToDatetime(site.clock.now().tzinfo) == site.clock.now()
        assert refreshed.session.expire_time == signed_in.session.expire_time
        assert not refreshed.replayed
        token = refreshed.tokens.refresh_token
        assert token not in seen
        seen.add(token)
        assert await _is_let_in(site, refreshed)


async def test_a_used_refresh_token_ends_the_session_for_thief_and_owner(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse, identity_database: Database
) -> None:
    other = await site.sign_in((await site.create_user()).email)
    refreshed = await site.refresh(signed_in.tokens.refresh_token)
    assert await refused(site.refresh(signed_in.tokens.refresh_token)) == REFUSED
    assert await ends_of(identity_database, signed_in.session.session_id) == "refresh_token_reused"
    assert not await _is_let_in(site, refreshed)
    assert await refused(site.refresh(refreshed.tokens.refresh_token)) == REFUSED
    assert await site.is_let_in(other)
    told = [event for event in await events(identity_database) if event[0] == "RefreshSession"]
    assert told == [("RefreshSession", "anonymous", "session", signed_in.session.session_id)]


async def test_a_lost_answer_is_given_again_to_a_repeat(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse, identity_database: Database
) -> None:
    token = signed_in.tokens.refresh_token
    first = await site.refresh(token, "exchange-1")
    site.clock.advance(timedelta(hours=1))
    again = await site.refresh(token, "exchange-1")
    assert again.tokens.refresh_token == first.tokens.refresh_token
    assert (first.replayed, again.replayed) == (False, True)
    assert await _is_let_in(site, again)
    following = await site.refresh(again.tokens.refresh_token, "exchange-1")
    assert following.tokens.refresh_token not in (token, again.tokens.refresh_token)
    assert await ends_of(identity_database, signed_in.session.session_id) is None


@pytest.mark.parametrize("later", ["", "exchange-2"])
@pytest.mark.parametrize("earlier", ["", "exchange-1"])
async def test_a_used_token_under_another_request_id_is_theft(
    site: SignIns,
    signed_in: pb.SignInWithPasswordResponse,
    identity_database: Database,
    earlier: str,
    later: str,
) -> None:
    await site.refresh(signed_in.tokens.refresh_token, earlier)
    assert await refused(site.refresh(signed_in.tokens.refresh_token, later)) == REFUSED
    assert await ends_of(identity_database, signed_in.session.session_id) == "refresh_token_reused"


async def test_a_repeat_after_the_next_token_was_used_is_theft(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse, identity_database: Database
) -> None:
    first = await site.refresh(signed_in.tokens.refresh_token, "exchange-1")
    await site.refresh(first.tokens.refresh_token, "exchange-2")
    assert await refused(site.refresh(signed_in.tokens.refresh_token, "exchange-1")) == REFUSED
    assert await ends_of(identity_database, signed_in.session.session_id) == "refresh_token_reused"


@pytest.mark.usefixtures("patient_locks")
async def test_of_two_exchanges_at_once_one_wins_and_the_other_is_theft(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse, identity_database: Database
) -> None:
    outcomes = await _exchange_at_once(site, signed_in, identity_database, request_id="")
    won = [outcome for outcome in outcomes if isinstance(outcome, pb.RefreshSessionResponse)]
    assert len(won) == 1
    assert await ends_of(identity_database, signed_in.session.session_id) == "refresh_token_reused"
    assert not await _is_let_in(site, won[0])


@pytest.mark.usefixtures("patient_locks")
async def test_equal_exchanges_at_once_give_one_token(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse, identity_database: Database
) -> None:
    outcomes = await _exchange_at_once(site, signed_in, identity_database, request_id="exchange-1")
    answers = [outcome for outcome in outcomes if isinstance(outcome, pb.RefreshSessionResponse)]
    assert len({answer.tokens.refresh_token for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False, True, True]
    assert await ends_of(identity_database, signed_in.session.session_id) is None


async def test_a_repeat_gives_the_same_token_under_a_new_pepper(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse, database_urls: dict[str, str], tmp_path: Path
) -> None:
    first = await site.refresh(signed_in.tokens.refresh_token, "exchange-1")
    pepper_file = tmp_path / "more.json"
    pepper_file.write_text(json.dumps({"1": "11" * 32, "2": "22" * 32}))
    folder = tmp_path / "newer"
    folder.mkdir()
    async with open_sign_ins(database_urls["identity"], folder, peppers=pepper_file) as newer:
        again = await newer.refresh(signed_in.tokens.refresh_token, "exchange-1")
        assert again.tokens.refresh_token == first.tokens.refresh_token
        assert (await newer.refresh(again.tokens.refresh_token, "exchange-2")).replayed is False


async def test_a_session_is_over_after_its_time_however_much_it_is_used(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse
) -> None:
    site.clock.advance(timedelta(days=30, minutes=-5))
    refreshed = await site.refresh(signed_in.tokens.refresh_token)
    assert refreshed.tokens.access_token_expire_time == signed_in.session.expire_time
    site.clock.advance(timedelta(minutes=5))
    assert await refused(site.refresh(refreshed.tokens.refresh_token)) == REFUSED
    assert not await _is_let_in(site, refreshed)
    assert await site.listed(signed_in.session.user_id) == []


@pytest.mark.parametrize(
    "token", ["x", "th_refresh_", "th_live_" + "0" * 49, "th_refresh_" + "0" * 49, "\N{SNOWMAN}" * 60, "eyJ.eyJ.x"]
)
async def test_what_is_no_refresh_token_is_refused(site: SignIns, token: str) -> None:
    assert await refused(site.refresh(token)) == REFUSED


async def test_one_session_ends_without_the_others(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse, identity_database: Database
) -> None:
    user = await site.create_user()
    first, second = [await site.sign_in(user.email) for _ in range(2)]
    for session_id, ended in (
        (first.session.session_id, 1),
        (first.session.session_id, 0),
        (signed_in.session.session_id, 0),
        (new_id(), 0),
    ):
        request = pb.SignOutRequest(user_id=user.user_id, session_id=session_id)
        assert (await site.sessions.SignOut(request, metadata=site.operator)).ended_sessions == ended
    assert [await site.is_let_in(one) for one in (first, second, signed_in)] == [False, True, True]
    assert await refused(site.refresh(first.tokens.refresh_token)) == REFUSED
    assert await ends_of(identity_database, first.session.session_id) == "signed_out"
    told = [event for event in await events(identity_database) if event[0] == "SignOut"]
    assert told == [("SignOut", "operator:alice", "session", first.session.session_id)]


async def test_all_sessions_end_at_once(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse, identity_database: Database
) -> None:
    user = await site.create_user()
    begun = [await site.sign_in(user.email) for _ in range(3)]
    request = pb.SignOutRequest(user_id=user.user_id, all_sessions=True)
    mine = bearer(begun[1].tokens.access_token)
    assert (await site.sessions.SignOut(request, metadata=mine)).ended_sessions == 3
    assert (await site.sessions.SignOut(request, metadata=site.operator)).ended_sessions == 0
    assert [await site.is_let_in(one) for one in begun] == [False] * 3
    assert await site.is_let_in(signed_in)
    told = [event for event in await events(identity_database) if event[0] == "SignOut"]
    assert told == [("SignOut", f"user:{user.user_id}", "user", user.user_id)]


async def test_a_sign_out_names_one_session_or_all(site: SignIns) -> None:
    user_id = new_id()
    both = pb.SignOutRequest(user_id=user_id, session_id=new_id(), all_sessions=True)
    for request in (pb.SignOutRequest(user_id=user_id), both):
        assert await violated_fields(site.sessions.SignOut(request, metadata=site.operator)) == {"session_id"}
    request = pb.SignOutRequest(user_id="x", session_id="y")
    assert await violated_fields(site.sessions.SignOut(request, metadata=site.operator)) == {"user_id", "session_id"}


async def test_users_see_and_end_their_own_sessions_alone(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse
) -> None:
    mine = bearer(signed_in.tokens.access_token)
    other = await site.sign_in((await site.create_user()).email)
    for user_id in (other.session.user_id, new_id()):
        listing = site.sessions.ListSessions(pb.ListSessionsRequest(user_id=user_id), metadata=mine)
        assert await refused(listing) == NOT_FOUND
        signing_out = pb.SignOutRequest(user_id=user_id, session_id=other.session.session_id)
        assert await refused(site.sessions.SignOut(signing_out, metadata=mine)) == NOT_FOUND
    assert await site.is_let_in(other)


async def test_the_list_shows_what_goes_on_newest_first_and_which_is_the_callers(site: SignIns) -> None:
    user = await site.create_user()
    begun = [await site.sign_in(user.email) for _ in range(4)]
    ids = [one.session.session_id for one in begun]
    ending = pb.SignOutRequest(user_id=user.user_id, session_id=ids[1])
    await site.sessions.SignOut(ending, metadata=site.operator)
    mine = bearer(begun[2].tokens.access_token)
    listed = (await site.sessions.ListSessions(pb.ListSessionsRequest(user_id=user.user_id), metadata=mine)).sessions
    assert [(one.session_id, one.current) for one in listed] == [(ids[3], False), (ids[2], True), (ids[0], False)]
    assert listed[0].method == pb.SignInMethod.SIGN_IN_METHOD_PASSWORD


async def test_sessions_are_listed_in_pages_of_one_user(site: SignIns) -> None:
    user, other = await site.create_user(), await site.create_user()
    ids = [(await site.sign_in(user.email)).session.session_id for _ in range(5)]
    request, seen = pb.ListSessionsRequest(user_id=user.user_id, page_size=2), []
    for expected in (2, 2, 1):
        page = await site.sessions.ListSessions(request, metadata=site.operator)
        assert len(page.sessions) == expected
        seen += [session.session_id for session in page.sessions]
        foreign = pb.ListSessionsRequest(user_id=other.user_id, page_token=page.next_page_token)
        if page.next_page_token:
            listing = site.sessions.ListSessions(foreign, metadata=site.operator)
            assert await violated_fields(listing) == {"page_token"}
        request.page_token = page.next_page_token
    assert request.page_token == ""
    assert seen == ids[::-1]


async def test_the_published_keys_alone_verify_an_access_token(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse
) -> None:
    # What a REST gateway would send.
    published = json_format.MessageToJson(await site.sessions.GetJwks(pb.GetJwksRequest()))
    key_set = KeySet.import_key_set(json.loads(published))
    token = jwt.decode(signed_in.tokens.access_token, key_set, algorithms=["Ed25519"])
    now_s = int(site.clock.now().timestamp())
    claims = dict(token.claims)
    assert len(claims.pop("jti")) == 36
    assert claims == {
        "iss": "sessions.test",
        "sub": f"user:{signed_in.session.user_id}",
        "sid": signed_in.session.session_id,
        "aud": ["identity.tollhouse", "billing.tollhouse", "metering.tollhouse"],
        "iat": now_s,
        "exp": now_s + 900,
    }
    assert token.header["typ"] == "caller+jwt"
    assert all(set(key) == {"kty", "crv", "x", "kid", "use", "alg"} for key in json.loads(published)["keys"])


async def test_a_key_that_replaces_another_leaves_its_tokens_good(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse, database_urls: dict[str, str], tmp_path: Path
) -> None:
    older = site.callers.session_key
    newer = SigningKey.generate(issuer=older.issuer, subject=older.subject)
    newer.key["kid"] = "sessions-2"
    key_file, bundle_file = tmp_path / "sessions-2.json", tmp_path / "trust-2.json"
    newer.write(key_file)
    bundle = TrustBundle.model_validate_json(site.callers.bundle_file.read_bytes())
    for issuer in bundle.issuers:
        issuer.keys.extend(newer.trusted().keys if issuer.issuer == older.issuer else [])
    bundle_file.write_text(bundle.model_dump_json())
    folder = tmp_path / "rotated"
    folder.mkdir()
    files = {"session_key_file": key_file, "trust_bundle_file": bundle_file}
    async with open_sign_ins(database_urls["identity"], folder, **files) as rotated:
        refreshed = await rotated.refresh(signed_in.tokens.refresh_token)
        keys = (await rotated.sessions.GetJwks(pb.GetJwksRequest())).keys
        assert {key.kid for key in keys} == {"sessions.test", "sessions-2"}
        assert await rotated.is_let_in(signed_in)
        assert await _is_let_in(rotated, refreshed)
    assert not await _is_let_in(site, refreshed)


async def test_a_key_that_is_added_to_the_trust_bundle_is_published_without_a_restart(
    database_urls: dict[str, str], tmp_path: Path
) -> None:
    async with open_sign_ins(database_urls["identity"], tmp_path) as site:
        older, path = site.callers.session_key, site.callers.bundle_file
        newer = SigningKey.generate(issuer=older.issuer, subject=older.subject)
        newer.key["kid"] = "sessions-3"
        bundle = TrustBundle.model_validate_json(path.read_bytes())
        for issuer in bundle.issuers:
            issuer.keys.extend(newer.trusted().keys if issuer.issuer == older.issuer else [])
        path.with_suffix(".new").write_text(bundle.model_dump_json())
        path.with_suffix(".new").replace(path)

        published: set[str] = set()
        for _ in range(400):
            if len(published) == 2:
                break
            await asyncio.sleep(0.05)
            published = {key.kid for key in (await site.sessions.GetJwks(pb.GetJwksRequest())).keys}
        assert published == {older.key["kid"], newer.key["kid"]}


async def _is_let_in(site: SignIns, refreshed: pb.RefreshSessionResponse) -> bool:
    return await site.is_let_in(pb.SignInWithPasswordResponse(session=refreshed.session, tokens=refreshed.tokens))


async def _exchange_at_once(
    site: SignIns, signed_in: pb.SignInWithPasswordResponse, database: Database, *, request_id: str
) -> list[pb.RefreshSessionResponse | BaseException]:
    """Exchange one token three times, in transactions that have all begun before the first can end."""
    token = signed_in.tokens.refresh_token
    async with database.raw_transaction() as holder, database.raw_connection() as watcher:
        await holder.execute(
            "SELECT FROM sessions WHERE session_id = $1 FOR NO KEY UPDATE", signed_in.session.session_id
        )
        exchanges = asyncio.gather(*(site.refresh(token, request_id) for _ in range(3)), return_exceptions=True)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        # Postgres has no notification for a session that begins to wait, so the test polls.
        while await watcher.fetchval(waiting) < 3 and not exchanges.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return await exchanges
