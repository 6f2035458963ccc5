"""docs/rest.md names the streams, the twins of paths that end in an id, and the gateway's own errors."""

import re
from typing import Final

from google.protobuf.descriptor import MethodDescriptor

from libs.cli.gateway.descriptors import Binding, bindings, services
from tests.contract.gateway_errors import own_errors
from tests.contract.sources import ROOT

PAGE: Final = (ROOT / "docs" / "rest.md").read_text(encoding="utf-8")
METHODS: Final = [method for service in services() for method in service.methods]
ORGANIZATION: Final = "/v1/organizations/{organization_id}"


def between(start: str, end: str) -> str:
    _, found, rest = PAGE.partition(start)
    text, ends, _ = rest.partition(end)
    assert found, start
    assert ends, end
    return text


def test_page_names_every_stream_of_answers() -> None:
    named = set(re.findall(r"`([A-Z]\w+)`", between("RPCs that answer with a stream", "What is refused at once")))
    assert named == {method.name for method in METHODS if method.server_streaming and bindings(method)}


def test_page_names_every_stream_of_requests() -> None:
    named = set(re.findall(r"`([A-Z]\w+)`", between("gRPC only: ", "to which the client sends a stream")))
    assert named == {method.name for method in METHODS if method.client_streaming}


def test_page_names_every_twin_of_a_path_that_ends_in_an_id() -> None:
    text = between("So each such path has a twin", "Programs should always use the twin")
    named = set(re.findall(r"`([^`]*/[^`]*)`", text))
    assert named == {twin_of(method, one) for method in METHODS for one in bindings(method) if "=**" in one.path}


def twin_of(method: MethodDescriptor, binding: Binding) -> str:
    """Return the twin of a path as the page writes it."""
    (field,) = re.findall(r"\{(\w+)=\*\*\}", binding.path)
    (twin,) = [
        one.path
        for one in bindings(method)
        if one.verb == binding.verb and field not in one.path and "{t" not in one.path
    ]
    verb = "" if binding.verb == "get" else f"{binding.verb.upper()} "
    named = re.sub(r"_(\w)", lambda found: found[1].upper(), field)
    return f"{verb}{twin.replace(ORGANIZATION, '…')}{'' if binding.body else f'?{named}='}"


def test_page_has_the_status_of_every_error_that_the_gateway_makes() -> None:
    rows = dict(re.findall(r"^\| (\d{3}) \| (.*) \|$", PAGE, re.MULTILINE))
    missing = [one for one in own_errors() if f"`{one[1]}`" not in rows.get(one[0], "")]
    assert missing == []
