"""Signing in with the ID token of a provider, and when this creates a user."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from libs.common.database import Database
from services.identity.oidc import OidcIssuer
from services.identity.provider_keys import PAUSE
from tests.identity.refusals import refused, refused_field
from tests.identity.sign_ins import PASSWORD, SignIns, events, open_sign_ins
from tests.support.callers import bearer
from tests.support.oidc import CLIENT_ID, OidcProvider, open_provider
from tollhouse.identity.v1 import organization_pb2, user_pb2
from tollhouse.identity.v1 import session_pb2 as pb

INVALID = ("UNAUTHENTICATED", "INVALID_ID_TOKEN")
NO_SIGN_UP = ("FAILED_PRECONDITION", "SIGN_UP_REFUSED")


class Site:
    """A provider, and an identity that trusts it."""

    def __init__(self, provider: OidcProvider, sign_ins: SignIns) -> None:
        self.provider = provider
        self.sign_ins = sign_ins
        self.operator = sign_ins.operator
        provider.clock = sign_ins.clock

    async def sign_in(self, id_token: str = "", nonce: str = "") -> pb.SignInWithIdTokenResponse:
        request = pb.SignInWithIdTokenRequest(id_token=id_token or self.provider.token(), nonce=nonce)
        return await self.sign_ins.sessions.SignInWithIdToken(request, timeout=20)

    async def user(self, user_id: str) -> user_pb2.User:
        request = user_pb2.GetUserRequest(user_id=user_id)
        return (await self.sign_ins.users.GetUser(request, metadata=self.operator)).user

    async def users(self) -> list[user_pb2.User]:
        return list((await self.sign_ins.users.ListUsers(user_pb2.ListUsersRequest(), metadata=self.operator)).users)

    async def create_user(self, email: str) -> user_pb2.User:
        request = user_pb2.CreateUserRequest(email=email)
        return (await self.sign_ins.users.CreateUser(request, metadata=self.operator)).user


OpenSite = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def open_site(database_urls: dict[str, str], tmp_path: Path) -> OpenSite:
    """Runs identity with the given settings of trust in the provider."""

    @asynccontextmanager
    async def opened(provider: OidcProvider | None = None, name: str = "acme", **told: bool) -> AsyncIterator[Site]:
        async with open_provider() as own:
            trusted = provider or own
            issuer = OidcIssuer.model_validate(
                {"provider": name, "issuer": trusted.issuer, "client_ids": (CLIENT_ID,), **told}
            )
            async with open_sign_ins(database_urls["identity"], tmp_path, oidc_issuers=(issuer,)) as sign_ins:
                yield Site(trusted, sign_ins)

    return opened


@pytest.fixture
async def site(open_site: OpenSite) -> AsyncIterator[Site]:
    async with open_site() as site:
        yield site


async def test_the_first_sign_in_makes_a_user_and_the_next_finds_them(site: Site, identity_database: Database) -> None:
    claims = {"name": "Ada Lovelace", "picture": "https://people.test/ada.png"}
    first = await site.sign_in(site.provider.token(claims=claims))
    again = await site.sign_in(site.provider.token(claims={"email": "other@people.test"}))
    assert (first.user_created, again.user_created) == (True, False)
    user_id = first.session.user_id
    assert again.session.user_id == user_id
    assert again.session.session_id != first.session.session_id
    assert (first.session.method, first.session.provider) == (pb.SignInMethod.SIGN_IN_METHOD_ID_TOKEN, "acme")
    user = await site.user(user_id)
    assert (user.email, user.full_name, user.picture_url) == (
        *("1001@people.test", "Ada Lovelace"),
        "https://people.test/ada.png",
    )
    assert user.active
    assert [(one.provider, one.subject) for one in user.linked_identities] == [("acme", "1001")]
    assert user.HasField("last_sign_in_time")
    assert [await site.sign_ins.is_let_in(one) for one in (first, again)] == [True, True]
    told = [event[2:] for event in await events(identity_database) if event[0] == "SignInWithIdToken"]
    sessions = [("session", one.session.session_id) for one in (first, again)]
    assert told == [("user", user_id), ("user", user_id), *sessions]


async def test_who_signs_up_has_an_organization_of_their_own(site: Site) -> None:
    signed_in = await site.sign_in()
    user = await site.user(signed_in.session.user_id)
    request = organization_pb2.ListMembersRequest(organization_id=user.personal_organization_id)
    mine = bearer(signed_in.tokens.access_token)
    members = (await site.sign_ins.organizations.ListMembers(request, metadata=mine)).members
    assert [(member.user_id, member.role) for member in members] == [
        (user.user_id, organization_pb2.MemberRole.MEMBER_ROLE_OWNER)
    ]


async def test_people_of_different_subjects_are_different_users(site: Site) -> None:
    first, second = [await site.sign_in(site.provider.token(subject)) for subject in ("1001", "1002")]
    assert first.session.user_id != second.session.user_id


async def test_two_first_sign_ins_at_once_make_one_user(site: Site) -> None:
    token = site.provider.token()
    outcomes = await asyncio.gather(*(site.sign_in(token) for _ in range(6)))
    assert len({outcome.session.user_id for outcome in outcomes}) == 1
    assert sorted(outcome.user_created for outcome in outcomes) == [False] * 5 + [True]
    assert len(await site.users()) == 1


@pytest.mark.parametrize("claims", [{"email_verified": False}, {"email_verified": None}, {"email": None}], ids=str)
async def test_nobody_signs_up_with_an_email_that_is_not_verified(site: Site, claims: dict[str, object]) -> None:
    await site.create_user("known@people.test")
    unverified = site.provider.token(claims=claims)
    assert await refused(site.sign_in(unverified)) == NO_SIGN_UP
    # Somebody who does not own the email must not learn whether it is taken.
    taken = site.provider.token(claims={"email": "known@people.test", "email_verified": False})
    assert await refused(site.sign_in(taken)) == NO_SIGN_UP
    assert len(await site.users()) == 1


async def test_an_email_that_is_taken_makes_no_second_user(site: Site) -> None:
    owner = await site.create_user("Ada@people.test")
    token = site.provider.token(claims={"email": "ada@People.test"})
    assert await refused_field(site.sign_in(token)) == ("USER_ALREADY_EXISTS", "email")
    assert [user.user_id for user in await site.users()] == [owner.user_id]
    assert list((await site.user(owner.user_id)).linked_identities) == []


async def test_where_nobody_may_sign_up_only_who_is_linked_gets_in(open_site: OpenSite) -> None:
    async with open_site(sign_up=False) as site:
        owner = await site.create_user("1001@people.test")
        for token in (site.provider.token(), site.provider.token("1002")):
            assert await refused(site.sign_in(token)) == NO_SIGN_UP
        identity = user_pb2.LinkedIdentity(provider="acme", subject="1001")
        link = user_pb2.LinkIdentityRequest(user_id=owner.user_id, linked_identity=identity)
        await site.sign_ins.users.LinkIdentity(link, metadata=site.operator)
        signed_in = await site.sign_in(site.provider.token(claims={"email": None}))
        assert (signed_in.session.user_id, signed_in.user_created) == (owner.user_id, False)


async def test_the_same_subject_of_another_provider_is_somebody_else(open_site: OpenSite) -> None:
    async with open_site() as site:
        first = await site.sign_in()
        async with open_site(name="other") as other:
            token = other.provider.token(claims={"email": "other@people.test"})
            assert (await other.sign_in(token)).session.user_id != first.session.user_id


async def test_a_verified_email_links_where_both_were_vouched_for_by_the_trusted(open_site: OpenSite) -> None:
    async with open_site(link_verified_email=True) as site:
        first = await site.sign_in()
        async with open_site(name="other", link_verified_email=True) as other:
            linked = await other.sign_in(other.provider.token("77", claims={"email": "1001@PEOPLE.test"}))
            assert (linked.session.user_id, linked.user_created) == (first.session.user_id, False)
            identities = (await other.user(first.session.user_id)).linked_identities
            assert [(one.provider, one.subject) for one in identities] == [("acme", "1001"), ("other", "77")]
            unverified = other.provider.token("78", claims={"email": "1001@people.test", "email_verified": False})
            assert await refused(other.sign_in(unverified)) == NO_SIGN_UP


@pytest.mark.parametrize(("first_trusted", "then_trusted"), [(False, True), (True, False)])
async def test_an_email_that_somebody_less_trusted_vouched_for_links_nobody(
    open_site: OpenSite, first_trusted: bool, then_trusted: bool
) -> None:
    """An attacker whose provider wrongly verifies a victim's email must not get into the victim's account."""
    async with open_site(link_verified_email=first_trusted) as site:
        first = await site.sign_in()
        async with open_site(name="other", link_verified_email=then_trusted) as other:
            token = other.provider.token("77", claims={"email": "1001@people.test"})
            assert await refused_field(other.sign_in(token)) == ("USER_ALREADY_EXISTS", "email")
            assert len((await other.user(first.session.user_id)).linked_identities) == 1


async def test_an_email_nobody_vouched_for_links_nobody(open_site: OpenSite) -> None:
    async with open_site(link_verified_email=True) as site:
        waiting = await site.create_user("1001@people.test")
        assert await refused_field(site.sign_in()) == ("USER_ALREADY_EXISTS", "email")
        assert list((await site.user(waiting.user_id)).linked_identities) == []


async def test_deactivated_and_deleted_users_are_not_let_in(site: Site) -> None:
    signed_in = await site.sign_in()
    user_id = signed_in.session.user_id
    users = site.sign_ins.users
    await users.DeactivateUser(user_pb2.DeactivateUserRequest(user_id=user_id), metadata=site.operator)
    assert await refused(site.sign_in()) == ("UNAUTHENTICATED", "SIGN_IN_REFUSED")
    assert not await site.sign_ins.is_let_in(signed_in)
    await users.ReactivateUser(user_pb2.ReactivateUserRequest(user_id=user_id), metadata=site.operator)
    signed_in = await site.sign_in()
    await users.DeleteUser(user_pb2.DeleteUserRequest(user_id=user_id), metadata=site.operator)
    assert not await site.sign_ins.is_let_in(signed_in)
    anew = await site.sign_in()
    assert anew.user_created
    assert anew.session.user_id != user_id


async def test_a_token_that_is_not_believed_is_refused_without_saying_why(site: Site) -> None:
    now_s = int(site.sign_ins.clock.now().timestamp())
    for token in (
        "garbage",
        "x" * 20_000,
        site.provider.token(claims={"aud": "somebody-else"}),
        site.provider.token(claims={"iss": "https://issuer.test"}),
        site.provider.token(claims={"exp": now_s - 60}),
        site.provider.token(claims={"nbf": now_s + 60}),
        site.provider.token(header={"kid": "unknown"}),
        site.provider.token().rpartition(".")[0] + ".",
    ):
        assert await refused(site.sign_in(token)) == INVALID
    assert await refused(site.sign_in(site.provider.token(claims={"nonce": "n-1"}), "n-2")) == INVALID
    assert (await site.sign_in(site.provider.token(claims={"nonce": "n-1"}), "n-1")).user_created


async def test_an_access_token_is_no_id_token(site: Site) -> None:
    signed_in = await site.sign_in()
    assert await refused(site.sign_in(signed_in.tokens.access_token)) == INVALID


async def test_while_the_provider_is_away_only_keys_that_are_known_let_people_in(site: Site) -> None:
    token = site.provider.token()
    await site.provider.stop()
    assert await refused(site.sign_in(token)) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
    await site.provider.start(site.provider.port)
    site.sign_ins.clock.advance(PAUSE)
    await site.sign_in(token)
    await site.provider.stop()
    assert (await site.sign_in(token)).user_created is False


async def test_a_user_links_an_identity_to_themselves_by_its_token(site: Site) -> None:
    user = await site.sign_ins.create_user()
    mine = bearer((await site.sign_ins.sign_in(user.email, PASSWORD)).tokens.access_token)
    request = user_pb2.LinkIdentityRequest(user_id=user.user_id, id_token=site.provider.token())
    await site.sign_ins.users.LinkIdentity(request, metadata=mine)
    assert (await site.sign_in()).session.user_id == user.user_id


async def test_an_installation_that_trusts_nobody_believes_no_token(
    database_urls: dict[str, str], tmp_path: Path
) -> None:
    async with (
        open_sign_ins(database_urls["identity"], tmp_path) as sign_ins,
        open_provider(sign_ins.clock) as provider,
    ):
        call = sign_ins.sessions.SignInWithIdToken(pb.SignInWithIdTokenRequest(id_token=provider.token()))
        assert await refused(call) == INVALID
        assert provider.fetches == {}
