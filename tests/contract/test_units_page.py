"""docs/units.md says what the readers of providers' usage objects do."""

import re
from typing import Final

import pytest

from tests.contract.sources import ROOT
from tests.metering.provider_objects import EXAMPLES
from tollhouse.metering.v1 import provider_usage
from tollhouse.metering.v1.provider_usage import pools

PAGE: Final = (ROOT / "docs" / "units.md").read_text(encoding="utf-8")
EXAMPLES_OF_PAGE: Final = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


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
        for line in PAGE.splitlines()
        if line.startswith("|")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert sorted((readers | units) - listed) == []
