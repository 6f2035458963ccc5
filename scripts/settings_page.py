"""Writes the tables of docs/settings.md, every setting of every service, from the settings classes.

What stands above the mark in the page is written by hand and kept.

Without arguments it writes the page; with `--check` it changes nothing and fails when the committed page says something
else. A setting without a docstring makes it fail either way.
"""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from libs.common.settings import ServiceSettings, ShardedSettings, variable_name
from scripts.written_page import write_or_check
from services.billing.settings import BillingSettings
from services.identity.settings import IdentitySettings
from services.metering.settings import MeteringSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
OWN: Mapping[str, type[ServiceSettings]] = {
    "identity": IdentitySettings,
    "billing": BillingSettings,
    "metering": MeteringSettings,
}
MARK = "<!-- From here on the page is written by `make protos` from the settings classes. -->"


def main() -> int:
    """Write or check the page; return the exit status."""
    return write_or_check(PAGE, render, source="the settings")


def render() -> str:
    """Return the page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK
    yield ""
    yield "## All services"
    yield ""
    yield "`<CONTEXT>` is `IDENTITY`, `BILLING` or `METERING`."
    yield ""
    yield from _table(ServiceSettings, "TOLLHOUSE_<CONTEXT>_")
    yield ""
    yield "## Billing and metering"
    yield ""
    yield from _table(ShardedSettings, "")
    for context, settings in OWN.items():
        yield ""
        yield f"## {context.capitalize()}"
        yield ""
        yield from _table(settings, "")


def _table(settings: type[ServiceSettings], prefix: str) -> Iterator[str]:
    # A provider of payments has its settings in a class of its own, from which the service's inherits.
    parts = [part for part in settings.__mro__ if part not in _shared(settings) and "__annotations__" in vars(part)]
    docstrings = {name: text for part in parts for name, text in _docstrings(part).items()}
    yield "| variable | default | meaning |"
    yield "| --- | --- | --- |"
    for name, field in settings.model_fields.items():
        if not any(name in part.__annotations__ for part in parts):
            continue
        if name not in docstrings:
            raise SystemExit(f"{settings.__name__}.{name} has no docstring")
        yield f"| `{prefix}{variable_name(settings, name)}` | {_default(field)} | {docstrings[name]} |"


def _shared(settings: type[ServiceSettings]) -> set[type]:
    """Return the other classes whose settings are in tables of their own, and those of the libraries below them."""
    return {ShardedSettings, ServiceSettings, *BaseSettings.__mro__} - {settings}


def _docstrings(settings: type) -> dict[str, str]:
    """Return what stands under each setting in the source, on one line."""
    (definition,) = ast.parse(inspect.getsource(settings)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as docstring)):
                found[name] = " ".join(docstring.split()).replace("|", "\\|")
    return found


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "needed"
    if field.default in (None, ()):
        return "none"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


if __name__ == "__main__":
    sys.exit(main())
