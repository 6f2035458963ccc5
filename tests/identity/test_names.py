"""Names: internationalised email addresses, usernames in the form that OAuth gives, and long names."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.identity.email_address import folded_email
from services.identity.text import has_harmful, without_harmful
from tests.identity.people import People
from tests.identity.refusals import refused, refused_field, violated_fields
from tests.identity.sign_ins import PASSWORD, SignIns, open_sign_ins
from tests.identity.support import Identity
from tollhouse.identity.v1 import api_key_pb2, organization_pb2, project_pb2, service_account_pb2, user_pb2

SAME = [
    ("ada@exämple.test", "ADA@EXÄMPLE.test"),
    ("ada@exämple.test", "ada@xn--exmple-cua.test"),
    ("ada@exämple.test", "ada@exa\u0308mple.test"),
    ("é@acme.test", "E\u0301@Acme.test"),
    ("ada@例え.テスト", "ada@例え。テスト"),
    ("用户@例え.テスト", "用户@xn--r8jz45g.xn--zckzah"),
]
NO_ADDRESSES = [
    *(
        "ada",
        "@acme.test",
        "ada@",
        "ada@@acme.test",
        "a@b@acme.test",
        "a\uff20b@acme.test",
        "a b@acme.test",
        " a@acme.test",
    ),
    *("ada@-acme.test", "ada@acme-.test", "ada@acme..test", "ada@ac me.test", "ada@ä_b.test", "ada@\u200d.test"),
    *("a\x00@acme.test", "a\u202eb@acme.test", "a\u2028b@acme.test", 'a"b@acme.test', "a<b>@acme.test"),
    *(
        f"ada@{'x' * 64}.test",
        f"ada@{'ä' * 250}",
        f"{'a' * 246}@acme.test",
        "ada@xn--\N{SNOWMAN}.test",
        "\ud800@acme.test",
    ),
]


@pytest.fixture
async def sign_ins(database_urls: dict[str, str], tmp_path: Path) -> AsyncIterator[SignIns]:
    async with open_sign_ins(database_urls["identity"], tmp_path) as running:
        yield running


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_address_are_the_same(one: str, other: str) -> None:
    assert folded_email(one) is not None
    assert folded_email(one) == folded_email(other)


@pytest.mark.parametrize("text", NO_ADDRESSES, ids=ascii)
def test_what_is_no_address_has_no_folded_form(text: str) -> None:
    assert folded_email(text) is None


def test_ascii_addresses_are_folded_as_they_always_were() -> None:
    assert folded_email("Ada.Lovelace+Tag@ACME.Test") == "ada.lovelace+tag@acme.test"


def test_names_keep_joiners_and_lose_what_is_harmful() -> None:
    sinhala = "\u0dc1\u0dca\u200d\u0dbb\u0dd3"
    assert without_harmful(f"{sinhala}\x00\u202e\ud800\u2066\x9f\n!") == f"{sinhala}!"
    assert not has_harmful(f"{sinhala} \u200c\u200f\N{FACE WITH TEARS OF JOY}")


async def test_internationalised_address_is_stored_as_given_and_found_in_every_spelling(identity: Identity) -> None:
    user = await identity.create_user("Ada@Exämple.test")
    assert user.email == "Ada@Exämple.test"
    for spelling in ("ada@exämple.test", "ada@xn--exmple-cua.test", "ADA@EXA\u0308MPLE.TEST"):
        found = await identity.users.ListUsers(user_pb2.ListUsersRequest(email=spelling), metadata=identity.metadata)
        assert [one.user_id for one in found.users] == [user.user_id]
        assert await refused_field(identity.create_user(spelling)) == ("USER_ALREADY_EXISTS", "email")
    nobody = await identity.users.ListUsers(user_pb2.ListUsersRequest(email="no address"), metadata=identity.metadata)
    assert not nobody.users


@pytest.mark.parametrize("email", [text for text in NO_ADDRESSES if "\ud800" not in text], ids=ascii)
async def test_what_is_no_address_is_refused_by_name(identity: Identity, email: str) -> None:
    organization_id, owner = await identity.create_organization()
    update = user_pb2.UpdateUserRequest(user_id=owner, update_mask=FieldMask(paths=["email"]), email=email)
    invitation = organization_pb2.CreateInvitationRequest(
        organization_id=organization_id, email=email, role=organization_pb2.MEMBER_ROLE_MEMBER
    )
    assert await violated_fields(identity.create_user(email)) == {"email"}
    assert await violated_fields(identity.users.UpdateUser(update, metadata=identity.metadata)) == {"email"}
    assert await violated_fields(identity.organizations.CreateInvitation(invitation, metadata=identity.metadata)) == {
        "email"
    }


async def test_invitation_of_one_spelling_is_accepted_with_another(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    request = organization_pb2.CreateInvitationRequest(
        organization_id=organization_id, email="eve@exämple.test", role=organization_pb2.MEMBER_ROLE_MEMBER
    )
    token = (await identity.organizations.CreateInvitation(request, metadata=identity.metadata)).token
    request.email = "eve@XN--exmple-cua.test"
    assert await refused(identity.organizations.CreateInvitation(request, metadata=identity.metadata)) == (
        "ALREADY_EXISTS",
        "INVITATION_ALREADY_EXISTS",
    )
    eve = await people.person()
    update = user_pb2.UpdateUserRequest(
        user_id=eve.user_id, update_mask=FieldMask(paths=["email"]), email="Eve@xn--exmple-cua.test"
    )
    await identity.users.UpdateUser(update, metadata=identity.metadata)
    accepted = await identity.organizations.AcceptInvitation(
        organization_pb2.AcceptInvitationRequest(token=token), metadata=eve.metadata
    )
    assert accepted.member.user_id == eve.user_id


async def test_people_sign_in_with_usernames_as_oauth_gives_them(sign_ins: SignIns) -> None:
    for username in ("kube:admin", "system:serviceaccount:x:y", "ada@acme.test", "b64:YS9i", "_x", "user" * 63 + "usr"):
        user = await sign_ins.create_user(username=username)
        assert user.username == username
        assert (await sign_ins.sign_in(username.upper())).session.user_id == user.user_id


async def test_address_taken_for_a_username_never_receives_its_owners_sign_ins(sign_ins: SignIns) -> None:
    mallory = await sign_ins.create_user(username="grace@xn--exmple-cua.test", password="mallorys-own-password-1")
    new = user_pb2.CreateUserRequest(email="grace@exämple.test")
    grace = (await sign_ins.users.CreateUser(new, metadata=sign_ins.operator)).user
    request = user_pb2.SetPasswordRequest(user_id=grace.user_id, new_password=PASSWORD)
    await sign_ins.users.SetPassword(request, metadata=sign_ins.operator)

    assert (await sign_ins.sign_in("Grace@exämple.test")).session.user_id == grace.user_id
    assert (await refused(sign_ins.sign_in("grace@xn--exmple-cua.test", "mallorys-own-password-1")))[
        0
    ] == "UNAUTHENTICATED"

    await sign_ins.users.DeactivateUser(
        user_pb2.DeactivateUserRequest(user_id=grace.user_id), metadata=sign_ins.operator
    )
    assert (await refused(sign_ins.sign_in("grace@xn--exmple-cua.test", "mallorys-own-password-1")))[
        0
    ] == "UNAUTHENTICATED"
    assert (await sign_ins.sign_in(mallory.email, "mallorys-own-password-1")).session.user_id == mallory.user_id


async def test_whatever_the_seeds_columns_hold_is_taken(identity: Identity) -> None:
    """Accepts the column lengths of users, organizations, projects, API keys and identities in S0 and S1."""
    email, long = f"{'mail' * 61}m@acme.test", "name" * 63 + "nam"
    assert len(email) == 255
    identity_of = user_pb2.LinkedIdentity(provider="p" * 100, subject="s" * 255)
    metadata = identity.metadata
    new = user_pb2.CreateUserRequest(email=email, username=long, full_name=long, picture_url=f"https://a/{long}")
    user = (await identity.users.CreateUser(new, metadata=metadata)).user
    assert (len(user.email), user.username, user.full_name) == (255, long, long)
    link = user_pb2.LinkIdentityRequest(user_id=user.user_id, linked_identity=identity_of)
    assert list((await identity.users.LinkIdentity(link, metadata=metadata)).user.linked_identities) == [identity_of]
    organization = organization_pb2.CreateOrganizationRequest(name=long, owner_user_id=user.user_id)
    made = (await identity.organizations.CreateOrganization(organization, metadata=metadata)).organization
    assert made.name == long
    project = project_pb2.CreateProjectRequest(organization_id=made.organization_id, name=long)
    assert (await identity.projects.CreateProject(project, metadata=metadata)).project.name == long
    account = service_account_pb2.CreateServiceAccountRequest(
        organization_id=made.organization_id, name=long, role=organization_pb2.MEMBER_ROLE_MEMBER
    )
    robot = (await identity.service_accounts.CreateServiceAccount(account, metadata=metadata)).service_account
    assert robot.name == long
    key = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=made.organization_id,
            user_id=user.user_id,
            name=long,
            external_id=long,
            allowed_models=["@cf/meta/llama-3.1-8b-instruct", "~anthropic/claude-x", "models/gemini=1", "m" * 256],
        )
    )
    assert (key.api_key.name, key.api_key.external_id) == (long, long)
    assert await identity.code(key.secret, model="~anthropic/claude-x") == "VALID"
    assert await identity.code(key.secret, model="m" * 256) == "VALID"
    assert await identity.code(key.secret, model="m" * 255) == "MODEL_NOT_ALLOWED"
