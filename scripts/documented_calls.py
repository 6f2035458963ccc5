"""The requests that the pages below docs/ show, as examples for those who read about an RPC elsewhere."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import protovalidate
from google.protobuf import descriptor_pool
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message_factory import GetMessageClass

from scripts.json_schema import Json

DOCS = Path(__file__).resolve().parent.parent / "docs"
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CALL = re.compile(
    r"\b(?P<service>(?:billing|identity|metering|common)\.v1\.\w+)/(?P<rpc>\w+)\s+(?:\\\n\s*)?"
    r"(?:'(?P<plain>\{[^']*\})'|\"(?P<quoted>\{(?:[^\"\\]|\\.)*\})\")"
)
_VARIABLE = re.compile(r"\$\w+|\$\{\w+\}")
_SOME_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
"""What stands for a variable of the shell, most of which hold ids."""


def examples() -> Mapping[str, Mapping[str, Json]]:
    """Returns the first request that the pages show of each RPC, by the RPC's full name, as JSON has it."""
    found: dict[str, Mapping[str, Json]] = {}
    for page in sorted(DOCS.glob("*.md")):
        for call in _CALL.finditer("\n".join(_BLOCK.findall(page.read_text(encoding="utf-8")))):
            name = f"tollhouse.{call['service']}.{call['rpc']}"
            text = call["plain"] or re.sub(r"\\(.)", r"\1", call["quoted"])
            if name not in found and (example := _example(name, _VARIABLE.sub(_SOME_ID, text))) is not None:
                found[name] = example
    return found


def _example(name: str, text: str) -> Mapping[str, Json] | None:
    """Returns a request as canonical JSON; None where it is none that would be accepted, so no example either."""
    method = descriptor_pool.Default().FindMethodByName(name)
    try:
        message = ParseDict(json.loads(text), GetMessageClass(method.input_type)())
    except (ParseError, ValueError):
        return None
    if protovalidate.collect_violations(message):
        return None
    return MessageToDict(message)
