"""All commands share the same connection options, and every option has a help text."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from libs.cli.__main__ import make_app
from libs.cli.installation.environment import repository
from tests.system.commands import done, refused
from tests.system.installation import Installation

LOCATION = {"--data-dir", "--ready-file", "--identity", "--billing", "--metering", "--token"}
# Commands that call no running service: they start something themselves, or read the data folder.
OF_THEIR_OWN = {
    "up": {"--data-dir", "--database-url", "--ready-file"},
    "serve": set(),
    "migrate": {"--data-dir", "--database-url", "--json"},
    "shards": {"--data-dir", "--database-url", "--json"},
    "token": {"--data-dir", "--json"},
    **{f"gateway {name}": {"--data-dir", "--json"} for name in ("create", "list", "rotate", "revoke", "delete")},
    "demo": {"--data-dir"},
}


def commands(group: TyperGroup, path: str = "") -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{path}{name} ")
        else:
            assert isinstance(command, TyperCommand)
            yield f"{path}{name}", command


ROOT = typer.main.get_command(make_app())
assert isinstance(ROOT, TyperGroup)
COMMANDS = dict(commands(ROOT))


def options_of(command: TyperCommand) -> dict[str, str]:
    """Every option with its help text."""
    found = {}
    for parameter in command.params:
        for name in parameter.opts:
            if name.startswith("--"):
                found[name] = str(getattr(parameter, "help", ""))
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_finds_the_installation_by_the_same_options(name: str) -> None:
    expected = OF_THEIR_OWN.get(name, LOCATION | {"--json"})
    found = set(options_of(COMMANDS[name]))
    assert found & (LOCATION | {"--json", "--database-url"}) == expected


def test_option_of_several_commands_has_the_same_meaning_in_each() -> None:
    shared = {"--data-dir", "--identity", "--billing", "--metering", "--token", "--json", "--database-url", "--limit"}
    meanings: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        for option, text in options_of(command).items():
            meanings.setdefault(option, set()).add(text)
    assert {option: texts for option, texts in meanings.items() if option in shared and len(texts) > 1} == {}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_describes_every_command_and_option(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    silent = [one.name for one in command.params if one.name != "help" and not getattr(one, "help", "")]
    assert silent == []


def test_data_folder_option_uses_the_ready_file_in_it(installation: Installation, tmp_path: Path) -> None:
    """An option on the command line takes precedence over the environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TOLLHOUSE_")}

    def listed(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "libs.cli", "user", "list", "--limit", "1", "--json", *arguments],
            cwd=repository(),
            env=environment | extra,
            capture_output=True,
            text=True,
            check=False,
        )

    data_dir, nowhere = str(installation.data_dir), str(tmp_path / "nowhere")
    assert listed("--data-dir", data_dir).returncode == 0
    assert listed("--data-dir", data_dir, TOLLHOUSE_READY_FILE=nowhere).returncode == 0
    assert listed("--data-dir", nowhere, "--ready-file", str(installation.ready_file)).returncode == 0
    assert listed(TOLLHOUSE_DATA_DIR=data_dir).returncode == 0
    assert listed(TOLLHOUSE_DATA_DIR=nowhere, TOLLHOUSE_READY_FILE=str(installation.ready_file)).returncode == 0
    missing = listed("--data-dir", nowhere, TOLLHOUSE_READY_FILE=str(installation.ready_file))
    assert missing.returncode == 2
    assert f"{nowhere}/ready.json cannot be read" in missing.stderr


def test_verify_takes_the_data_folder_and_prints_json(installation: Installation) -> None:
    verdict = json.loads(done(installation, "verify", "--data-dir", str(installation.data_dir), "--json"))
    assert verdict["violations"] == 0


def test_token_is_printed_as_json(installation: Installation) -> None:
    document = json.loads(
        done(installation, "token", "--data-dir", str(installation.data_dir), "--audience", "billing", "--json")
    )
    assert document["audiences"] == ["billing.tollhouse"]
    assert document["token"].count(".") == 2


def test_migration_status_lists_every_migration_and_changes_nothing(installation: Installation, tmp_path: Path) -> None:
    applied = done(installation, "migrate", "--status", "--data-dir", str(installation.data_dir))
    assert "metering   applied  0001_initial" in applied
    assert "pending" not in applied
    empty = tmp_path / "empty"
    before = json.loads(done(installation, "migrate", "billing", "--status", "--json", "--data-dir", str(empty)))
    assert before["billing"]["applied"] == []
    assert "0001_initial" in before["billing"]["pending"]
    assert not empty.exists()


def test_migration_status_reports_an_unreachable_database_in_one_line(installation: Installation) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    assert "cannot be reached" in refused(installation, 1, "migrate", "--status", "--database-url", url)
