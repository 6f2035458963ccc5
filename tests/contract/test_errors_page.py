"""The page on errors matches the refusals, and each of them says what to do."""

import ast
import re
from collections.abc import Iterator
from typing import Final

import pytest

from libs.common.errors import Refusal
from scripts import errors_page
from services.metering.admission.hints import http_status_of
from tests.contract.gateway_errors import own_errors
from tests.contract.sources import called_name, sources
from tollhouse.identity.v1 import api_key_pb2
from tollhouse_client import errors as client_errors

PAGE: Final = errors_page.PAGE.read_text(encoding="utf-8")
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


def test_page_has_every_denial_with_its_status_and_what_to_do() -> None:
    reasons = errors_page.denial_reasons()
    assert sorted(errors_page.DENIAL_REMEDIES) == reasons
    assert rows("Denials of calls") == [(reason, str(http_status_of(reason))) for reason in reasons]


def test_denials_of_keys_are_the_codes_that_verify_api_key_answers() -> None:
    prefix = "VERIFY_API_KEY_CODE_"
    codes = {name.removeprefix(prefix) for name in api_key_pb2.VerifyApiKeyCode.keys()} - {"UNSPECIFIED", "VALID"}
    assert {f"KEY_{code}" for code in codes} == {one for one in errors_page.denial_reasons() if one.startswith("KEY_")}


def test_page_has_every_error_of_the_rest_gateway_with_its_status() -> None:
    listed = rows("The REST gateway")
    assert {(status[:3], reason) for reason, status in listed} == own_errors()
    assert len(listed) == len(own_errors())


def test_page_has_every_reason_of_the_python_client_with_its_code() -> None:
    assert rows("The Python client") == sorted(set(client_reasons()))


def rows(title: str) -> list[tuple[str, str]]:
    """Return the first two cells of the rows below a heading that have a meaning and a remedy, too."""
    _, _, rest = PAGE.partition(f"\n## {title}\n")
    found: list[tuple[str, str]] = re.findall(
        r"^\| `(\w+)` \| ([^|]+) \| [^|]+\. \| [^|]+\. \|$", rest.partition("\n## ")[0], re.MULTILINE
    )
    return found


def client_reasons() -> Iterator[tuple[str, str]]:
    """Yield each reason that the client makes with its code, by its classes and by calls that give one a reason."""
    named = {name: one for name, one in vars(client_errors).items() if isinstance(one, type)}
    kinds = {name: one for name, one in named.items() if issubclass(one, client_errors.TollhouseError)}
    for kind in kinds.values():
        if kind.reason_of_class.startswith("CLIENT_"):
            yield kind.reason_of_class, kind.code_of_class.name
    for source in sources("clients/python/tollhouse_client"):
        for call in source.calls():
            if (reason := _reason_of(call)).startswith("CLIENT_"):
                yield reason, kinds[called_name(call)].code_of_class.name


def _reason_of(call: ast.Call) -> str:
    given = [one.value for one in call.keywords if one.arg == "reason"]
    return given[0].value if given and isinstance(given[0], ast.Constant) and isinstance(given[0].value, str) else ""
