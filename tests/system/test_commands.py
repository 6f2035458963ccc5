"""The `tollhouse` command: what it creates, what it prints, and its exit status on errors."""

import pytest

from libs.common.ids import new_id
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation


@pytest.fixture(scope="module")
def owner() -> str:
    return f"ada-{new_id()}@example.com"


@pytest.fixture(scope="module")
def organization_id(installation: Installation, owner: str) -> str:
    organization = made(installation, "organization", "create", "Acme", "--owner", owner, "--create-owner")
    assert organization["name"] == "Acme"
    return organization["organization_id"]


def test_organization_is_created_with_its_owner_listed_and_shown(
    installation: Installation, organization_id: str, owner: str
) -> None:
    (user,) = found(installation, "user", "list", "--email", owner)
    members = found(installation, "organization", "members", organization_id)
    assert [(member["user_id"], member["role"]) for member in members] == [(user["user_id"], "MEMBER_ROLE_OWNER")]
    listed = found(installation, "organization", "list", "--user", owner)
    assert organization_id in [one["organization_id"] for one in listed]
    shown = done(installation, "organization", "show", organization_id)
    assert organization_id in shown
    assert "Acme" in shown
    assert organization_id in done(installation, "organization", "list", "--user", user["user_id"])


def test_admission_policy_is_shown_and_changed(installation: Installation, organization_id: str) -> None:
    ask = ("organization", "policy", organization_id)
    assert made(installation, *ask)["output_hold"] == "OUTPUT_HOLD_MODEL_MAX"
    capped = made(installation, *ask, "--output-hold", "cap", "--cap", "500", "--lapse-charge", "input")
    assert (capped["output_tokens_cap"], capped["lapse_charge"]) == ("500", "LAPSE_CHARGE_INPUT")
    fixed = done(installation, *ask, "--amount", "0.05", "USD", "--lapse-after", "90")
    for line in ("fixed", "0.05 USD", "input", "seconds 90"):
        assert line in fixed
    back = made(installation, *ask, "--output-hold", "model-max")
    assert (back["output_tokens_cap"], back["lapse_after"]) == ("0", "90s")
    assert "fixed_amount" not in back
    assert "fixed_amount" in refused(installation, 2, *ask, "--output-hold", "fixed")


def test_deleted_organization_is_not_found(installation: Installation, owner: str) -> None:
    doomed = made(installation, "organization", "create", "Doomed", "--owner", owner)["organization_id"]
    line = refused(installation, 2, "organization", "delete", doomed)
    assert "--yes" in line
    done(installation, "organization", "delete", doomed, "--yes")
    assert doomed in refused(installation, 1, "organization", "show", doomed)


def test_user_is_created_deactivated_and_reactivated(installation: Installation) -> None:
    email = f"{new_id()}@example.com"
    user = made(installation, "user", "create", email, "--full-name", "Grace Hopper")
    assert user["full_name"] == "Grace Hopper"
    assert not made(installation, "user", "deactivate", email)["active"]
    assert made(installation, "user", "reactivate", user["user_id"])["active"]


def test_project_is_created_and_listed(installation: Installation, organization_id: str) -> None:
    project = made(installation, "project", "create", "Chat", "--organization", organization_id)
    listed = found(installation, "project", "list", "--organization", organization_id)
    assert project["project_id"] in [one["project_id"] for one in listed]


def test_service_account_is_created_listed_and_deleted(installation: Installation, organization_id: str) -> None:
    of_it = ("--organization", organization_id)
    account = made(installation, "service-account", "create", "robot", *of_it, "--role", "viewer")
    assert account["role"] == "MEMBER_ROLE_VIEWER"
    account_id = account["service_account_id"]
    assert account_id in done(installation, "service-account", "list", *of_it)
    done(installation, "service-account", "delete", account_id, *of_it, "--yes")
    assert account_id not in done(installation, "service-account", "list", *of_it)


def test_repeated_command_with_the_same_request_id_creates_one_resource(installation: Installation) -> None:
    command = ("user", "create", f"{new_id()}@example.com", "--request-id", f"test:{new_id()}")
    assert made(installation, *command)["user_id"] == made(installation, *command)["user_id"]


def test_refusal_is_one_line_with_reason_field_and_resource(
    installation: Installation, organization_id: str, owner: str
) -> None:
    twice = refused(installation, 1, "user", "create", owner.upper())
    assert "USER_ALREADY_EXISTS" in twice
    assert "field: email" in twice
    unknown = new_id()
    missing = refused(installation, 1, "organization", "show", unknown)
    assert "NOT_FOUND" in missing
    assert unknown in missing
    nobody = refused(installation, 1, "organization", "create", "Acme", "--owner", "nobody@nowhere.example")
    assert "--create-owner" in nobody


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["organization", "show", "nonsense"], "organization_id"),
        (["user", "create", "no address"], "email"),
        (["user", "deactivate", "nobody"], "neither a user's id nor an email address"),
        (["organization", "create", " ", "--owner", "0198c0de-0000-7000-8000-000000000000"], "name"),
    ],
)
def test_wrong_use_ends_with_status_2_and_names_what_is_wrong(
    installation: Installation, command: list[str], said: str
) -> None:
    assert said in refused(installation, 2, *command)


@pytest.mark.parametrize(
    "command",
    [["organization", "create", "Acme"], ["project", "create", "Chat"], ["key", "shred"], ["audit", "list", "--x"]],
)
def test_incomplete_or_unknown_command_explains_itself(installation: Installation, command: list[str]) -> None:
    finished = installation.command(*command)
    assert finished.returncode == 2
    assert "Usage: " in finished.stderr
    assert "Traceback" not in finished.stderr


def test_unreachable_service_is_reported_in_one_line(installation: Installation) -> None:
    line = refused(installation, 1, "user", "list", "--identity", "127.0.0.1:1", "--token", "none")
    assert "UNAVAILABLE" in line


def test_untrusted_token_is_refused(installation: Installation) -> None:
    assert "UNAUTHENTICATED" in refused(installation, 1, "user", "list", "--token", "none")


def test_missing_ready_file_names_the_option_to_set(installation: Installation) -> None:
    line = refused(installation, 2, "user", "list", "--ready-file", "/nowhere/ready.json")
    assert "--identity and --token" in line
