"""The errors that the REST gateway makes by itself: each HTTP status with its reason."""

import re
from typing import Final

from libs.cli.gateway.replies import local_replies
from tests.contract.sources import ROOT

_SCRIPT: Final = (ROOT / "libs" / "cli" / "gateway" / "rest.lua").read_text(encoding="utf-8")
_OF_SCRIPT: Final = {
    "INVALID_ARGUMENT": "400",
    "REQUEST_TOO_LARGE": "413",
    "GRPC_NOT_SPOKEN": "415",
    "UNKNOWN": "501",
}
"""The reasons that the script writes by name, and their statuses, which tests/gateway checks."""


def own_errors() -> set[tuple[str, str]]:
    """Return every status with its reason, from Envoy's configuration and the script."""
    (table,) = re.findall(r"^local REASONS = (\{.*?\})$", _SCRIPT, re.MULTILINE | re.DOTALL)
    named = re.findall(r'(?:INFO:format\(|\bor )"([A-Z_]+)"', _SCRIPT)
    assert set(named) == set(_OF_SCRIPT)
    by_status = set(re.findall(r'\["(\d+)"\] = "(\w+)"', table))
    return by_status | {(_OF_SCRIPT[reason], reason) for reason in named} | _replies()


def _replies() -> set[tuple[str, str]]:
    mappers = local_replies()["mappers"]
    assert isinstance(mappers, list)
    found = set()
    for mapper in mappers:
        if "status_code_filter" not in mapper["filter"]:
            continue  # What the script has answered with.
        comparison = mapper["filter"]["status_code_filter"]["comparison"]
        (info,) = mapper["body_format_override"]["json_format"]["details"]
        # GATEWAY_ERROR is for all other statuses; the one that is known is that of an answer that cannot be read.
        status = comparison["value"]["default_value"] if comparison["op"] == "EQ" else 502
        found.add((str(status), info["reason"]))
    return found
