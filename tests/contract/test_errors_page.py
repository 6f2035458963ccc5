"""The page on errors matches the refusals, and each of them says what to do."""

import re

import pytest

from libs.common.errors import Refusal
from scripts import errors_page

REFUSALS = [refusal for module in errors_page.MODULES.values() for refusal in errors_page.refusals(module)]


def test_committed_page_matches_the_refusals() -> None:
    assert errors_page.PAGE.read_text(encoding="utf-8") == errors_page.render()


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.__name__)
def test_refusal_says_what_to_do_in_one_line_of_a_table(refusal: type[Refusal]) -> None:
    assert re.fullmatch(r"[A-Z][^\n|]{9,118}\.", refusal.remedy)


def test_reason_means_one_code_everywhere() -> None:
    kinds: dict[str, set[str]] = {}
    for refusal in REFUSALS:
        kinds.setdefault(refusal.reason, set()).add(refusal.kind.value)
    assert {reason: codes for reason, codes in kinds.items() if len(codes) > 1} == {}
