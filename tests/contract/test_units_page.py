"""docs/units.md lists the units of the catalogue, and says what the readers of providers' usage objects do."""

import re
from decimal import Decimal
from typing import Final

import pytest

from services.metering.model.units import SEEDED_UNITS, TOKEN_CLASS_UNITS, Kind, Unit, name_of, thousandths_of
from services.metering.unit.domain import NEEDED, UNITS_MAX
from tests.contract.sources import ROOT
from tests.metering.provider_objects import EXAMPLES
from tollhouse.metering.v1 import provider_usage
from tollhouse.metering.v1.provider_usage import pools

PAGE: Final = (ROOT / "docs" / "units.md").read_text(encoding="utf-8")
CATALOGUE, READERS = PAGE.split("## The catalogue\n")[1].split("## How provider usage objects become quantities\n")
EXAMPLES_OF_PAGE: Final = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_page_lists_the_units_that_come_with_tollhouse() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (yes|) \| ([0-9.]+) \| (.+) \|$", CATALOGUE, re.MULTILINE)
    listed = [
        Unit(unit_id, name_of(unit_id), description, Kind(kind), in_context == "yes", thousandths_of(Decimal(step)))
        for unit_id, kind, in_context, step, description in rows
    ]
    assert listed == list(SEEDED_UNITS.values())


def test_page_and_changelog_say_how_many_units_there_can_be_and_which_stay() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"{UNITS_MAX:,}" in CATALOGUE
    assert f"{len(SEEDED_UNITS)} come with Tollhouse" in changes
    assert set(TOKEN_CLASS_UNITS.values()) | {"requests"} == NEEDED


@pytest.mark.parametrize("number", range(len(EXAMPLES_OF_PAGE)))
def test_worked_example_comes_out_as_the_page_says(number: int) -> None:
    exec(EXAMPLES_OF_PAGE[number], {})  # noqa: S102 -- the code of our own page.


def test_page_works_an_example_for_each_provider() -> None:
    code = "".join(EXAMPLES_OF_PAGE)
    readers = ("openai_chat", "openai_responses", "anthropic_messages", "gemini_generate_content", "bedrock_converse")
    assert [reader for reader in readers if f" {reader}(" not in code] == []


def test_page_lists_every_reader_and_every_unit_they_give() -> None:
    readers = {name for name in provider_usage.__all__ if name.islower()}
    tables = (pools.INPUT, pools.CACHE_READ, pools.OUTPUT)
    units = {unit for table in tables for unit in table.values()} | set(pools.CACHE_WRITE.values())
    units |= {pools.CACHE_WRITE_AUDIO} | {unit for example in EXAMPLES for unit in example.quantities}
    listed = {
        name
        for line in READERS.splitlines()
        if line.startswith("|")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert sorted((readers | units) - listed) == []
