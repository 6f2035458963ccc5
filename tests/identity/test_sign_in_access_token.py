"""Signing in with the access token of an OpenShift cluster."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.identity.openshift import OpenShiftCluster
from tests.identity.refusals import refused, refused_field, violated_fields
from tests.identity.sign_ins import SignIns, open_sign_ins
from tests.identity.support import PEPPERS, identity_settings
from tests.support.callers import Callers, bearer
from tests.support.oidc import open_provider, response
from tests.support.openshift import USER_PATH, OpenShiftApi, open_cluster, user
from tollhouse.identity.v1 import session_pb2 as pb
from tollhouse.identity.v1 import user_pb2

TOKEN = "sha256~of-an-access-token-that-nobody-may-see"
AWAY = ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
NOT_ACCEPTED = ("UNAUTHENTICATED", "INVALID_ACCESS_TOKEN")


class Site:
    """A cluster, and an identity that trusts it."""

    def __init__(self, cluster: OpenShiftApi, sign_ins: SignIns) -> None:
        self.cluster = cluster
        self.sign_ins = sign_ins
        cluster.users[TOKEN] = user("ada", "6a0b-uid", "Ada Lovelace")

    async def sign_in(self, token: str = TOKEN, provider: str = "cluster") -> pb.SignInWithAccessTokenResponse:
        request = pb.SignInWithAccessTokenRequest(provider=provider, access_token=token)
        return await self.sign_ins.sessions.SignInWithAccessToken(
            request, metadata=self.sign_ins.callers.service("gateway"), timeout=20
        )

    async def user(self, user_id: str) -> user_pb2.User:
        request = user_pb2.GetUserRequest(user_id=user_id)
        return (await self.sign_ins.users.GetUser(request, metadata=self.sign_ins.operator)).user

    async def link(self, user_id: str, uid: str) -> None:
        identity = user_pb2.LinkedIdentity(provider="cluster", subject=uid)
        request = user_pb2.LinkIdentityRequest(user_id=user_id, linked_identity=identity)
        await self.sign_ins.users.LinkIdentity(request, metadata=self.sign_ins.operator)


OpenSite = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def open_site(database_urls: dict[str, str], tmp_path: Path) -> OpenSite:
    """Runs identity with the given settings of trust in the cluster."""

    @asynccontextmanager
    async def opened(**told: object) -> AsyncIterator[Site]:
        async with open_cluster() as api:
            cluster = OpenShiftCluster.model_validate({"provider": "cluster", "api": api.address, **told})
            async with open_sign_ins(database_urls["identity"], tmp_path, openshift_clusters=(cluster,)) as sign_ins:
                yield Site(api, sign_ins)

    return opened


@pytest.fixture
async def site(open_site: OpenSite) -> AsyncIterator[Site]:
    async with open_site() as site:
        yield site


async def test_a_linked_user_signs_in_with_the_token_of_their_cluster(site: Site) -> None:
    known = await site.sign_ins.create_user()
    await site.link(known.user_id, "6a0b-uid")
    signed_in = await site.sign_in()
    assert (signed_in.session.user_id, signed_in.user_created) == (known.user_id, False)
    assert signed_in.session.method == pb.SignInMethod.SIGN_IN_METHOD_ACCESS_TOKEN
    assert signed_in.session.provider == "cluster"
    me = user_pb2.GetUserRequest(user_id=known.user_id)
    mine = await site.sign_ins.users.GetUser(me, metadata=bearer(signed_in.tokens.access_token))
    assert mine.user.user_id == known.user_id
    assert site.cluster.asked == [USER_PATH]


async def test_whoever_is_renamed_in_the_cluster_stays_the_same_user(open_site: OpenSite) -> None:
    async with open_site(sign_up_email_domain="cluster.test") as site:
        first = await site.sign_in()
        site.cluster.users["renamed"] = user("ada.king", "6a0b-uid")
        again = await site.sign_in("renamed")
        assert (again.session.user_id, again.user_created) == (first.session.user_id, False)
        site.cluster.users["other"] = user("ada", "another-uid")
        assert await refused_field(site.sign_in("other")) in (
            ("USER_ALREADY_EXISTS", "email"),
            ("USER_ALREADY_EXISTS", "username"),
        )


async def test_where_people_sign_up_their_name_becomes_username_and_unverified_email(open_site: OpenSite) -> None:
    async with open_site(sign_up_email_domain="cluster.test") as site:
        site.cluster.users["by email"] = None
        site.cluster.users["mail"] = user("grace@acme.test", "7-uid")
        for token, email, username in ((TOKEN, "ada@cluster.test", "ada"), ("mail", *["grace@acme.test"] * 2)):
            signed_in = await site.sign_in(token)
            assert signed_in.user_created
            made = await site.user(signed_in.session.user_id)
            assert (made.email, made.username) == (email, username)
            assert not made.HasField("email_verify_time")
        assert (await site.user((await site.sign_in()).session.user_id)).full_name == "Ada Lovelace"


async def test_nobody_signs_up_unless_the_settings_say_so(site: Site) -> None:
    assert await refused(site.sign_in()) == ("FAILED_PRECONDITION", "SIGN_UP_REFUSED")


async def test_two_first_sign_ins_at_once_make_one_user(open_site: OpenSite) -> None:
    async with open_site(sign_up_email_domain="cluster.test") as site:
        outcomes = await asyncio.gather(*(site.sign_in() for _ in range(4)))
        assert len({outcome.session.user_id for outcome in outcomes}) == 1
        assert sum(outcome.user_created for outcome in outcomes) == 1


async def test_an_email_of_the_cluster_takes_nobody_elses_account(open_site: OpenSite) -> None:
    async with open_site(sign_up_email_domain="cluster.test") as site:
        known = await site.sign_ins.create_user()
        site.cluster.users["mail"] = user(known.email, "7-uid")
        assert await refused_field(site.sign_in("mail")) == ("USER_ALREADY_EXISTS", "email")
        assert list((await site.user(known.user_id)).linked_identities) == []


async def test_a_token_the_cluster_does_not_accept_is_refused(site: Site) -> None:
    assert await refused(site.sign_in("sha256~unknown-to-the-cluster")) == NOT_ACCEPTED
    site.cluster.answer = response({"kind": "Status", "code": 403}, status="403 Forbidden")
    assert await refused(site.sign_in()) == NOT_ACCEPTED


async def test_who_has_no_uid_is_no_person(site: Site) -> None:
    for name, uid in (("kube:admin", ""), ("system:serviceaccount:x:y", ""), ("", "uid"), ("a", "u" * 256)):
        site.cluster.users["nobody"] = user(name, uid)
        assert await refused(site.sign_in("nobody")) == NOT_ACCEPTED


@pytest.mark.parametrize(
    "answer",
    [
        *(response({}), response([]), response({"kind": "Status"}), response({"kind": "User", "metadata": 7})),
        *(response({}, status="404 Not Found"), response({}, status="500 Internal Server Error")),
        *(b"HTTP/1.1 200 OK\r\n\r\n<html>", b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, b"\x00" * 1_000),
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 600_000 + b"{}",
    ],
    ids=range(10),
)
async def test_a_cluster_that_answers_something_else_cannot_be_asked(site: Site, answer: bytes) -> None:
    site.cluster.answer = answer
    assert await refused(site.sign_in()) == AWAY


async def test_a_cluster_that_is_slow_or_down_holds_nobody_up(site: Site) -> None:
    site.cluster.hold = asyncio.Event()
    assert await refused(site.sign_in()) == AWAY
    site.cluster.hold.set()
    await site.cluster.stop()
    assert await refused(site.sign_in()) == AWAY


async def test_only_the_configured_address_is_ever_asked(site: Site) -> None:
    async with open_provider() as elsewhere:
        location = f"Location: {elsewhere.issuer}{USER_PATH}\r\n"
        site.cluster.answer = response({}, status="302 Found", headers=location)
        assert await refused(site.sign_in()) == AWAY
        assert elsewhere.fetches == {}
    for provider in ("unknown", "127.0.0.1"):
        assert await refused(site.sign_in(provider=provider)) == ("FAILED_PRECONDITION", "PROVIDER_NOT_CONFIGURED")
    for provider in ("http://127.0.0.1", "../cluster", ""):
        assert await violated_fields(site.sign_in(provider=provider)) == {"provider"}
    for token in ("", "two words", "a\r\nHost: evil.test", "x" * 4_097, "\N{SNOWMAN}"):
        assert await violated_fields(site.sign_in(token)) == {"access_token"}
    assert site.cluster.asked == [USER_PATH]


async def test_only_services_and_operators_present_access_tokens(site: Site) -> None:
    request = pb.SignInWithAccessTokenRequest(provider="cluster", access_token=TOKEN)
    person = await site.sign_ins.create_user()
    session = await site.sign_ins.sign_in(person.email)
    for metadata in ((), bearer(session.tokens.access_token)):
        call = site.sign_ins.sessions.SignInWithAccessToken(request, metadata=metadata)
        assert (await refused(call))[0] in ("UNAUTHENTICATED", "PERMISSION_DENIED")
    assert site.cluster.asked == []


async def test_a_deactivated_user_is_not_let_in(site: Site) -> None:
    known = await site.sign_ins.create_user()
    await site.link(known.user_id, "6a0b-uid")
    request = user_pb2.DeactivateUserRequest(user_id=known.user_id)
    await site.sign_ins.users.DeactivateUser(request, metadata=site.sign_ins.operator)
    assert await refused(site.sign_in()) == ("UNAUTHENTICATED", "SIGN_IN_REFUSED")


@pytest.mark.parametrize(
    "told",
    [
        *({"api": "http://api.cluster.test"}, {"api": "file:///etc/passwd"}, {"api": "https://a:b@api.cluster.test"}),
        *({"provider": "Open Shift"}, {"ca_file": "/nowhere"}, {"sign_up_email_domain": "a b"}, {"secret": "x"}),
    ],
    ids=str,
)
def test_clusters_that_could_not_be_trusted_are_refused_at_the_start(told: dict[str, object]) -> None:
    good: dict[str, object] = {"provider": "cluster", "api": "https://api.cluster.test:6443"}
    assert OpenShiftCluster.model_validate(good).sign_up is False
    with pytest.raises(ValidationError):
        OpenShiftCluster.model_validate(good | told)


def test_clusters_come_from_the_environment_and_are_told_apart(
    callers: Callers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = {"provider": "openshift", "api": "https://api.cluster.test:6443", "sign_up_email_domain": "cluster.test"}
    issuer = {"provider": "openshift", "issuer": "https://accounts.test", "client_ids": ["a"]}
    monkeypatch.setenv("TOLLHOUSE_IDENTITY_OPENSHIFT_CLUSTERS", json.dumps([cluster]))
    [told] = identity_settings(callers, "postgresql://u@h/d", tmp_path, PEPPERS).openshift_clusters
    assert (told.provider, told.sign_up) == ("openshift", True)
    for variable, text in (
        ("OPENSHIFT_CLUSTERS", json.dumps([cluster, cluster])),
        ("OPENSHIFT_CLUSTERS", "{"),
        ("OPENSHIFT_CLUSTERS", json.dumps([cluster | {"api": "http://api.cluster.test"}])),
        ("OIDC_ISSUERS", json.dumps([issuer])),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(f"TOLLHOUSE_IDENTITY_{variable}", text)
            with pytest.raises(ValidationError):
                identity_settings(callers, "postgresql://u@h/d", tmp_path, PEPPERS)
