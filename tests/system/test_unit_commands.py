"""`tollhouse units …`: the catalogue of units from the command line."""

from libs.common.ids import new_id
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation


def new_unit_id() -> str:
    return f"unit_{new_id().replace('-', '_')}"


def test_unit_is_created_listed_and_archived(installation: Installation) -> None:
    unit_id = new_unit_id()
    created = made(installation, "units", "create", unit_id, "--kind", "duration", "--step", "0.001", "--name", "Calls")
    assert (created["unit_id"], created["name"], created["kind"]) == (unit_id, "Calls", "UNIT_KIND_DURATION")
    assert created["step"] == "0.001"
    assert not created["archived"]

    def ids(*arguments: str) -> set[str]:
        return {unit["unit_id"] for unit in found(installation, "units", "list", "--limit", "1000", *arguments)}

    assert {unit_id, "input_tokens", "images"} <= ids()
    assert unit_id in ids("--kind", "duration", "--active-only")
    assert "images" not in ids("--kind", "duration")

    assert "archived                 yes" in done(installation, "units", "archive", unit_id)
    assert made(installation, "units", "archive", unit_id)["archived"]
    assert unit_id in ids("--kind", "duration")
    assert unit_id not in ids("--kind", "duration", "--active-only")


def test_creating_a_unit_again_with_the_same_request_id_makes_one(installation: Installation) -> None:
    unit_id = new_unit_id()
    arguments = ("units", "create", unit_id, "--kind", "token", "--counts-toward-context", "--request-id", unit_id)
    first = made(installation, *arguments)
    assert made(installation, *arguments) == first
    assert first["counts_toward_context"]
    assert "exists" in refused(installation, 1, "units", "create", unit_id, "--kind", "token")


def test_table_of_units_shows_kinds_and_says_when_there_are_more(installation: Installation) -> None:
    finished = installation.command("units", "list", "--limit", "2")
    heading, *rows = finished.stdout.splitlines()
    assert heading.split()[:5] == ["unit", "id", "name", "kind", "step"]
    assert len(rows) == 2
    assert "Give a higher --limit" in finished.stderr


def test_unit_that_cannot_be_is_refused_in_one_line(installation: Installation) -> None:
    unit_id = new_unit_id()
    assert "step" in refused(installation, 2, "units", "create", unit_id, "--kind", "token", "--step", "0.1")
    assert "unit_id" in refused(installation, 2, "units", "create", "Bad Id", "--kind", "count")
    assert "step" in refused(installation, 2, "units", "create", unit_id, "--kind", "count", "--step", "3")
    assert unit_id in refused(installation, 1, "units", "archive", unit_id)
    assert "input_tokens" in refused(installation, 1, "units", "archive", "input_tokens")
