"""docs/plans.md shows the plans that come with Tollhouse, and how many plans and versions there can be."""

import re
from typing import Final

from services.billing.plan.domain import PLANS_MAX, VERSIONS_MAX
from tests.billing.test_plans import SEEDS
from tests.contract.sources import ROOT

PAGE: Final = (ROOT / "docs" / "plans.md").read_text(encoding="utf-8")


def cells(name: str) -> list[str]:
    """Return a row of the table of plans, without the commas in numbers."""
    (row,) = re.findall(rf"^\| {name}[^|]* \| (.*) \|$", PAGE, re.MULTILINE)
    return [cell.strip().replace(",", "") for cell in row.split("|")]


def test_page_shows_the_plans_that_come_with_tollhouse() -> None:
    rows = ("price", "credits", "`requests_per_minute`", "`requests_per_hour`", "`max_api_calls_per_day`", "features")
    shown = zip(*(cells(name) for name in rows), strict=True)
    assert [(*figures, features.replace("`", "")) for *figures, features in shown] == list(SEEDS.values())
    assert re.findall(r"^\| \| (.*) \|$", PAGE, re.MULTILINE)[0].replace("`", "").split(" | ") == list(SEEDS)


def test_page_says_how_many_plans_and_versions_there_can_be() -> None:
    assert f"{PLANS_MAX:,} plans, archived ones included, with {VERSIONS_MAX:,} versions each" in PAGE
