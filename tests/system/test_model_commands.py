"""`tollhouse models import`: imports a price list from a file."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from libs.common.ids import new_id
from tests.system.commands import done, refused
from tests.system.installation import Installation


def entry(**fields: object) -> dict[str, object]:
    return {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06} | fields


def written(path: Path, entries: Mapping[str, object]) -> str:
    path.write_text(json.dumps(entries))
    return str(path)


def imported(installation: Installation, *arguments: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(done(installation, "models", "import", *arguments, "--json"))
    return document


def counts(document: dict[str, object]) -> list[object]:
    return [document[name] for name in ("imported", "unchanged", "skipped")]


def test_price_list_larger_than_one_message_is_imported_and_repeating_it_changes_nothing(
    installation: Installation, tmp_path: Path
) -> None:
    acme = new_id()
    entries = {f"{acme}/{number}": entry(source="x" * 1_500) for number in range(3_000)}
    path = written(tmp_path / "prices.json", entries)
    assert Path(path).stat().st_size > 4_500_000

    assert counts(imported(installation, path, "--dry-run")) == [3_000, 0, 0]
    assert counts(imported(installation, path)) == [3_000, 0, 0]
    assert counts(imported(installation, path)) == [0, 3_000, 0]
    assert "0 imported, 3,000 unchanged, 0 skipped" in done(installation, "models", "import", path)


def test_what_was_skipped_and_left_out_is_printed(installation: Installation, tmp_path: Path) -> None:
    name = new_id()
    odd = {f"{name}/nul": entry(mode="\0"), f"{name}/dream": entry(output_cost_per_dream=1), f"{name} x": entry()}
    few = done(installation, "models", "import", written(tmp_path / "few.json", odd))
    assert "has a text with U+0000" in few
    assert "output_cost_per_dream" in few
    assert "0 imported, 0 unchanged, 3 skipped" in few
    many = {f"{name}/{number}": entry(mode="\ud800", output_cost_per_dream=1) for number in range(30)}
    many |= {f"{name}/{number}": entry(output_cost_per_dream=1, max_tokens="many") for number in range(30, 60)}
    path = written(tmp_path / "many.json", many)
    assert "60 skipped" in done(installation, "models", "import", path)
    output = done(installation, "models", "import", path, "--allow-partial")
    assert "has a text with U+D800" in output
    assert "output_cost_per_dream" in output
    assert "max_tokens is not a whole number" in output


def test_yaml_is_recognised_by_extension_and_takes_a_start_time(installation: Installation, tmp_path: Path) -> None:
    name = new_id()
    path = tmp_path / "prices.yaml"
    path.write_text(f"models:\n  - {{model_id: {name}, currency_code: USD, prices: {{input: 1, output: 2}}}}\n")
    assert counts(imported(installation, str(path), "--effective-time", "2020-01-01T00:00:00Z")) == [1, 0, 0]
    other = tmp_path / "prices.txt"
    other.write_bytes(path.read_bytes())
    assert "--format" in refused(installation, 2, "models", "import", str(other))
    assert counts(imported(installation, str(other), "--format", "yaml")) == [0, 1, 0]


def test_dry_run_prints_old_and_new_rates_and_a_margin_is_on_them(installation: Installation, tmp_path: Path) -> None:
    name = new_id()
    assert counts(imported(installation, written(tmp_path / "old.json", {name: entry()}))) == [1, 0, 0]
    path = written(tmp_path / "new.json", {name: entry(input_cost_per_token=3e-06)})
    printed = done(installation, "models", "import", path, "--dry-run", "--margin", "20")
    (line,) = (line for line in printed.splitlines() if "input_tokens" in line and "as " not in line)
    assert line.split() == [name, "input_tokens", "standard", "1/1000000,", "cost", "1", "3.6/1000000,", "cost", "3"]
    assert "1 would be imported" in printed
    assert "from -100 to" in refused(installation, 2, "models", "import", path, "--margin", "-100.5")


def test_refusal_of_a_long_list_is_printed_every_time(installation: Installation, tmp_path: Path) -> None:
    """The service refuses the options while the list is still being sent."""
    path = written(tmp_path / "long.json", {f"acme/{number}": entry(source="x" * 1_500) for number in range(9_000)})
    for _ in range(5):
        assert "from -100 to" in refused(installation, 2, "models", "import", path, "--margin", "-100.5")


def test_requested_model_that_is_not_imported_exits_with_status_1(installation: Installation, tmp_path: Path) -> None:
    name = new_id()
    path = written(tmp_path / "prices.json", {name: entry(), f"{name}-other": entry()})
    assert counts(imported(installation, path, "--only", name)) == [1, 0, 0]
    finished = installation.command("models", "import", path, "--only", name, "--only", "gone")
    assert finished.returncode == 1
    assert "is not in the list" in finished.stdout
    assert finished.stderr == "tollhouse: Not imported: gone.\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"[]", "is not a JSON object of models"), (b"{" + b" " * 67_108_864, "is larger than")],
)
def test_file_that_is_no_price_list_prints_one_line_and_exits_with_status_2(
    installation: Installation, tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "prices.json"
    path.write_bytes(content)
    assert said in refused(installation, 2, "models", "import", str(path))
    assert "No such file" in refused(installation, 2, "models", "import", str(tmp_path / "none.json"))
