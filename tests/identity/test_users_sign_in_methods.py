"""Sign-in methods of users: who may link and unlink identities and set passwords, and what is always refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Final

import pytest
from sqlalchemy import text

from libs.common.clock import SystemClock
from libs.common.database import Database
from libs.common.ids import new_id
from services.identity.api_key.secret import Peppers
from services.identity.errors import IdentityAlreadyLinked, InvalidIdToken
from services.identity.oidc import IdTokens, OidcIssuer
from services.identity.passwords import Passwords
from services.identity.provider_keys import DocumentFetcher
from services.identity.session.attempts import ProofAttempts
from services.identity.session.domain import AttemptLimits
from services.identity.user.domain import IdTokenClaim, LinkedIdentity, PasswordChange
from services.identity.user.sign_in_methods import SignInMethods
from tests.identity.people import People
from tests.identity.refusals import DENIED, NOT_FOUND, refused, refused_field, violated_fields
from tests.identity.support import Identity
from tests.support.callers import Metadata
from tests.support.oidc import CLIENT_ID, OidcProvider, open_provider
from tollhouse.identity.v1 import user_pb2 as pb

GOOD: Final = "correct horse battery"
BETTER: Final = "staple of purple wool"
LAST_WAY: Final = ("FAILED_PRECONDITION", "LAST_WAY_TO_SIGN_IN")
TOO_MANY: Final = ("RESOURCE_EXHAUSTED", "TOO_MANY_ATTEMPTS")
WRONG: Final = ("PERMISSION_DENIED", "WRONG_PASSWORD")


def _link(user_id: str, subject: str = "1001", provider: str = "google") -> pb.LinkIdentityRequest:
    identity = pb.LinkedIdentity(provider=provider, subject=subject)
    return pb.LinkIdentityRequest(user_id=user_id, linked_identity=identity)


def _unlink(user_id: str, subject: str = "1001", provider: str = "google") -> pb.UnlinkIdentityRequest:
    identity = pb.LinkedIdentity(provider=provider, subject=subject)
    return pb.UnlinkIdentityRequest(user_id=user_id, linked_identity=identity)


def _set_password(
    identity: Identity, user_id: str, new: str, *, current: str = "", metadata: Metadata | None = None
) -> Awaitable[pb.SetPasswordResponse]:
    request = pb.SetPasswordRequest(user_id=user_id, new_password=new, current_password=current)
    return identity.users.SetPassword(request, metadata=metadata or identity.metadata)


def _remove_password(identity: Identity, user_id: str) -> Awaitable[pb.SetPasswordResponse]:
    request = pb.SetPasswordRequest(user_id=user_id, remove=True)
    return identity.users.SetPassword(request, metadata=identity.metadata)


async def _hash_of(database: Database, user_id: str) -> str | None:
    async with database.transaction() as tx:
        found = await tx.execute(text("SELECT password_hash FROM identity.users WHERE user_id = :id"), {"id": user_id})
        stored: str | None = found.scalar_one()
    return stored


async def test_identity_belongs_to_one_user_alone(identity: Identity) -> None:
    first, second = await identity.create_user(), await identity.create_user()
    linked = (await identity.users.LinkIdentity(_link(first.user_id), metadata=identity.metadata)).user
    assert [(one.provider, one.subject) for one in linked.linked_identities] == [("google", "1001")]
    again = (await identity.users.LinkIdentity(_link(first.user_id), metadata=identity.metadata)).user
    assert again == linked
    taken = identity.users.LinkIdentity(_link(second.user_id), metadata=identity.metadata)
    assert await refused_field(taken) == ("IDENTITY_ALREADY_LINKED", "subject")

    elsewhere = _link(second.user_id, provider="openshift")
    assert len((await identity.users.LinkIdentity(elsewhere, metadata=identity.metadata)).user.linked_identities) == 1


async def test_identity_linked_by_many_at_once_goes_to_one(identity: Identity) -> None:
    for number in range(3):
        users = [await identity.create_user() for _ in range(4)]
        outcomes = await asyncio.gather(
            *(
                identity.users.LinkIdentity(_link(user.user_id, f"race-{number}"), metadata=identity.metadata)
                for user in users
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, pb.LinkIdentityResponse) for outcome in outcomes) == 1


async def test_user_cannot_claim_an_identity_without_proof(identity: Identity, people: People) -> None:
    ada = await people.person()
    assert await refused(identity.users.LinkIdentity(_link(ada.user_id), metadata=ada.metadata)) == DENIED
    forged = pb.LinkIdentityRequest(user_id=ada.user_id, id_token="e30.e30.c2ln")
    call = identity.users.LinkIdentity(forged, metadata=ada.metadata)
    assert (await refused(call))[0] == "UNAUTHENTICATED"


async def test_identities_are_bounded(identity: Identity) -> None:
    user = await identity.create_user()
    for number in range(20):
        await identity.users.LinkIdentity(_link(user.user_id, str(number)), metadata=identity.metadata)
    more = identity.users.LinkIdentity(_link(user.user_id, "20"), metadata=identity.metadata)
    assert await refused(more) == ("FAILED_PRECONDITION", "TOO_MANY_IDENTITIES")


@pytest.mark.own_database
async def test_last_way_to_sign_in_cannot_be_taken(identity: Identity) -> None:
    user = await identity.create_user()
    await identity.users.LinkIdentity(_link(user.user_id), metadata=identity.metadata)
    assert await refused(identity.users.UnlinkIdentity(_unlink(user.user_id), metadata=identity.metadata)) == LAST_WAY

    await _set_password(identity, user.user_id, GOOD)
    unlinked = (await identity.users.UnlinkIdentity(_unlink(user.user_id), metadata=identity.metadata)).user

    assert list(unlinked.linked_identities) == []
    assert await refused(_remove_password(identity, user.user_id)) == LAST_WAY
    # An identity that is not linked is no sign-in method, so removing it changes nothing.
    absent = identity.users.UnlinkIdentity(_unlink(user.user_id, "1002"), metadata=identity.metadata)
    assert (await absent).user == unlinked


async def test_both_last_ways_taken_at_once_leave_one(identity: Identity) -> None:
    for number in range(3):
        user = await identity.create_user()
        await identity.users.LinkIdentity(_link(user.user_id, f"both-{number}"), metadata=identity.metadata)
        await _set_password(identity, user.user_id, GOOD)
        await asyncio.gather(
            identity.users.UnlinkIdentity(_unlink(user.user_id, f"both-{number}"), metadata=identity.metadata),
            _remove_password(identity, user.user_id),
            return_exceptions=True,
        )
        request = pb.GetUserRequest(user_id=user.user_id)
        left = (await identity.users.GetUser(request, metadata=identity.metadata)).user
        assert left.has_password or left.linked_identities


async def test_password_is_stored_as_an_argon2id_hash(identity: Identity, identity_database: Database) -> None:
    user = await identity.create_user()
    answer = await _set_password(identity, user.user_id, GOOD)
    assert answer.user.has_password
    assert answer.user.HasField("password_change_time")
    stored = await _hash_of(identity_database, user.user_id)
    assert stored is not None
    assert stored.startswith("$argon2id$v=19$m=47104,t=1,p=1$")


async def test_own_password_is_changed_with_the_current_one_only(identity: Identity, people: People) -> None:
    ada = await people.person()
    await _set_password(identity, ada.user_id, GOOD, metadata=ada.metadata)
    for current in ("", BETTER, GOOD.upper()):
        call = _set_password(identity, ada.user_id, BETTER, current=current, metadata=ada.metadata)
        assert await refused(call) == WRONG

    await _set_password(identity, ada.user_id, BETTER, current=GOOD, metadata=ada.metadata)

    stale = _set_password(identity, ada.user_id, GOOD, current=GOOD, metadata=ada.metadata)
    assert await refused(stale) == WRONG


async def test_own_password_is_not_found_by_trying(identity: Identity, people: People) -> None:
    ada, other = await people.person(), await people.person()
    for person in (ada, other):
        await _set_password(identity, person.user_id, GOOD)
    ada, other = await people.sign_in(ada.user_id), await people.sign_in(other.user_id)
    outcomes = []
    for number in range(7):
        call = _set_password(identity, ada.user_id, BETTER, current=f"guess number {number}", metadata=ada.metadata)
        outcomes.append(await refused(call))
    assert outcomes == [WRONG] * 5 + [TOO_MANY] * 2
    right = _set_password(identity, ada.user_id, BETTER, current=GOOD, metadata=ada.metadata)
    assert await refused(right) == TOO_MANY
    # The limit applies neither to other users nor to operators, and a correct password resets the count.
    await _set_password(identity, ada.user_id, GOOD)
    for number in range(6):
        current, new = (GOOD, BETTER) if number % 2 == 0 else (BETTER, GOOD)
        await _set_password(identity, other.user_id, new, current=current, metadata=other.metadata)


async def test_admin_proves_their_own_password_but_sets_that_of_others(identity: Identity, people: People) -> None:
    ada, other = await people.person(), await people.person()
    promote = pb.UpdateUserRequest(user_id=ada.user_id, platform_role=pb.PLATFORM_ROLE_ADMIN)
    promote.update_mask.paths.append("platform_role")
    await identity.users.UpdateUser(promote, metadata=identity.metadata)
    for user_id in (ada.user_id, other.user_id):
        await _set_password(identity, user_id, GOOD)
    ada = await people.sign_in(ada.user_id)

    await _set_password(identity, other.user_id, BETTER, metadata=ada.metadata)

    assert await refused(_set_password(identity, ada.user_id, BETTER, metadata=ada.metadata)) == WRONG


async def test_new_password_ends_the_other_sessions(identity: Identity, people: People) -> None:
    here = await people.person()
    there = await people.sign_in(here.user_id)
    answer = await _set_password(identity, here.user_id, GOOD, metadata=here.metadata)
    assert answer.ended_session_count == 1
    request = pb.GetUserRequest(user_id=here.user_id)
    await identity.users.GetUser(request, metadata=here.metadata)
    gone = identity.users.GetUser(request, metadata=there.metadata)
    assert (await refused(gone))[0] == "UNAUTHENTICATED"

    by_operator = await _set_password(identity, here.user_id, BETTER)

    assert by_operator.ended_session_count == 1
    assert (await refused(identity.users.GetUser(request, metadata=here.metadata)))[0] == "UNAUTHENTICATED"


@pytest.mark.own_database
async def test_password_set_twice_at_once_is_one_of_the_two(identity: Identity, people: People) -> None:
    ada = await people.person()
    await _set_password(identity, ada.user_id, GOOD)
    ada = await people.sign_in(ada.user_id)
    outcomes = await asyncio.gather(
        *(
            _set_password(identity, ada.user_id, f"{BETTER} {number}", current=GOOD, metadata=ada.metadata)
            for number in range(3)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, pb.SetPasswordResponse) for outcome in outcomes) == 1


@pytest.mark.own_database
@pytest.mark.parametrize(
    "password",
    ["short", "password1234", "iloveyou!2026", "aaaaaaaaaaaaaaa", "123456789012", "x" * 129, "my ada.lovelace key"],
)
async def test_guessable_password_is_refused(identity: Identity, password: str) -> None:
    user = await identity.create_user("ada.lovelace@example.com")
    assert await violated_fields(_set_password(identity, user.user_id, password)) == {"new_password"}


@pytest.mark.parametrize(
    ("method", "request_", "fields"),
    [
        ("SetPassword", pb.SetPasswordRequest(user_id="x", new_password=GOOD), {"user_id"}),
        ("SetPassword", pb.SetPasswordRequest(user_id=new_id()), {"change"}),
        ("SetPassword", pb.SetPasswordRequest(user_id=new_id(), remove=False), {"remove"}),
        ("SetPassword", pb.SetPasswordRequest(user_id=new_id(), new_password="x" * 1025), {"new_password"}),
        ("LinkIdentity", pb.LinkIdentityRequest(user_id=new_id()), {"claim"}),
        ("LinkIdentity", _link(new_id(), provider="Google"), {"linked_identity.provider"}),
        ("LinkIdentity", _link(new_id(), subject="a\x00"), {"linked_identity.subject"}),
        ("LinkIdentity", _link(new_id(), subject="s" * 256), {"linked_identity.subject"}),
        ("UnlinkIdentity", pb.UnlinkIdentityRequest(user_id=new_id()), {"linked_identity"}),
    ],
)
async def test_malformed_request_names_the_field(
    identity: Identity,
    method: str,
    request_: pb.SetPasswordRequest | pb.LinkIdentityRequest | pb.UnlinkIdentityRequest,
    fields: set[str],
) -> None:
    assert await violated_fields(getattr(identity.users, method)(request_, metadata=identity.metadata)) == fields


async def test_nobody_has_no_ways_to_sign_in(identity: Identity) -> None:
    user_id = new_id()
    for call in (
        identity.users.LinkIdentity(_link(user_id), metadata=identity.metadata),
        identity.users.UnlinkIdentity(_unlink(user_id), metadata=identity.metadata),
        _set_password(identity, user_id, GOOD),
        _remove_password(identity, user_id),
    ):
        assert await refused(call) == NOT_FOUND


async def test_removing_a_password_that_is_not_there_changes_nothing(identity: Identity) -> None:
    user = await identity.create_user()
    assert (await _remove_password(identity, user.user_id)).user == user


async def test_passwords_are_told_of_but_never_told(identity: Identity, identity_database: Database) -> None:
    user = await identity.create_user()
    await _set_password(identity, user.user_id, GOOD)
    async with identity_database.transaction() as tx:
        found = await tx.execute(text("SELECT e::text FROM identity.audit_events e WHERE action = 'SetPassword'"))
        (event,) = found.scalars()
    assert GOOD not in event
    assert "argon2" not in event


@pytest.fixture
async def provider() -> AsyncIterator[OidcProvider]:
    async with open_provider() as running:
        yield running


@pytest.fixture
async def methods(provider: OidcProvider, identity_database: Database) -> AsyncIterator[SignInMethods]:
    clock, documents, passwords = SystemClock(), DocumentFetcher(), Passwords()
    issuer = OidcIssuer(provider="acme", issuer=provider.issuer, client_ids=(CLIENT_ID,))
    id_tokens = IdTokens((issuer,), documents.fetch, clock)
    limits = AttemptLimits(per_account=5, per_address=20)
    attempts = ProofAttempts(identity_database, clock, Peppers({1: bytes(32)}), limits)
    yield SignInMethods(identity_database, clock, passwords, id_tokens, attempts, length_min=12)
    await passwords.close()
    await documents.close()


async def test_id_token_proves_an_identity(identity: Identity, methods: SignInMethods, provider: OidcProvider) -> None:
    ada, eve = await identity.create_user(), await identity.create_user()
    claim = IdTokenClaim(provider.token("ada", {"nonce": "n-1"}), nonce="n-1")

    linked = await methods.link(ada.user_id, claim)

    assert linked.identities == (LinkedIdentity("acme", "ada"),)
    assert await methods.link(ada.user_id, claim) == linked
    with pytest.raises(IdentityAlreadyLinked):
        await methods.link(eve.user_id, claim)
    for false in (
        IdTokenClaim(provider.token("eve", {"nonce": "n-1"}), nonce="n-2"),
        IdTokenClaim(provider.token("eve", {"aud": "somebody-else"}), nonce=""),
        IdTokenClaim(provider.token("eve", {"exp": 1}), nonce=""),
    ):
        with pytest.raises(InvalidIdToken):
            await methods.link(eve.user_id, false)


def test_what_carries_a_secret_does_not_show_it() -> None:
    shown = [
        repr(PasswordChange(new_password=GOOD, current_password=BETTER)),
        repr(IdTokenClaim(GOOD, nonce="")),
        repr(Passwords(threads=1)),
    ]
    assert not any(GOOD in one or BETTER in one for one in shown)
