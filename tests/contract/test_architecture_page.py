"""The files, functions, calls between services and times in docs/architecture.md match the code."""

import ast
import importlib
import re
from types import ModuleType
from typing import Final

from pydantic_settings import BaseSettings

from services.billing import tables as billing
from services.metering import tables as metering
from tests.contract.sources import ROOT, sources
from tests.system.curl import rpcs_of

PAGE: Final = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
_FOLDERS: Final = "clients|services|libs|protos|tests|docs|scripts|deploy|benchmarks"
_PLACE: Final = re.compile(rf"`((?:{_FOLDERS})/[^`<>:\s]*)(?::(\w+))?`")
_CALLS: Final = re.compile(r"^```calls\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TIMES: Final = re.compile(r"`([^`:]+\.py):(\w+)`(?:: | \| )([\d.]+) s\b")
_REMOTE_DIRECTORY: Final = "RemoteDirectory"


def test_every_file_and_function_named_exists() -> None:
    missing = []
    for path, name in _PLACE.findall(PAGE):
        place = ROOT / path
        if not place.exists():
            missing.append(path)
        elif name and name not in _names(place.read_text(encoding="utf-8")):
            missing.append(f"{path}:{name}")
    assert missing == []


def test_every_table_of_billing_and_metering_is_named() -> None:
    metadata = (billing.metadata, billing.shard_metadata, metering.metadata, metering.shard_metadata)
    names = {name.rpartition(".")[2] for tables in metadata for name in tables.tables}
    assert sorted(name for name in names if f"`{name}`" not in PAGE) == []


def test_arrows_match_the_calls_between_services() -> None:
    (drawn,) = _CALLS.findall(PAGE)
    calls = {}
    for line in drawn.splitlines():
        caller, _, callee, *rpcs = line.split()
        calls[caller, callee] = set(rpcs)
    assert calls == _calls_made()


def test_times_match_the_code() -> None:
    wrong = []
    for path, name, seconds in _TIMES.findall(PAGE):
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        value = getattr(module, name, None)
        if value is None:
            value = _default_setting(module, name)
        if value != float(seconds):
            wrong.append(f"{path}:{name} is {value}")
    assert wrong == []
    assert len(_TIMES.findall(PAGE)) >= 10


def _default_setting(module: ModuleType, name: str) -> object:
    """Return the default of a setting of the class that a settings module defines."""
    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, BaseSettings) and kind.__module__ == module.__name__:
            return kind.model_fields[name].default
    raise LookupError(f"{module.__name__} defines no settings")


def _names(text: str) -> set[str]:
    """Return the functions, classes, methods, fields and constants that a module defines."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def _calls_made() -> dict[tuple[str, str], set[str]]:
    """Return the RPCs of other services that each service calls, through its clients or the directory of callers."""
    contexts = {path.name for path in (ROOT / "protos" / "tollhouse").iterdir() if path.is_dir()} - {"common"}
    owners = {rpc: context for context in contexts for rpc in rpcs_of(context)}
    directory = _rpcs_called(ast.parse((ROOT / "libs" / "common" / "callers.py").read_text(encoding="utf-8")))
    made: dict[tuple[str, str], set[str]] = {}
    for source in sources("services"):
        _, _, room = source.module.partition(".")
        caller, *rooms = room.split(".")
        called = _rpcs_called(source.tree) if "clients" in rooms else set()
        if rooms == ["__main__"] and _REMOTE_DIRECTORY in source.text:
            called |= directory
        for name in called:
            if name.startswith("CallerService/"):
                made.setdefault((caller, "identity"), set()).add(name)
            for rpc, owner in owners.items():
                if rpc.endswith(f".{name}") and owner != caller:
                    made.setdefault((caller, owner), set()).add(name)
    return made


def _rpcs_called(tree: ast.AST) -> set[str]:
    """Return the RPCs, such as `LedgerService/Debit`, that a module calls on its stubs."""
    stubs: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            name = ast.unparse(node.annotation).rpartition(".")[2]
            if name.endswith("Stub"):
                stubs[node.target.attr] = name.removesuffix("Stub")
    called = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            kept = node.func.value
            if isinstance(kept, ast.Attribute) and kept.attr in stubs:
                called.add(f"{stubs[kept.attr]}/{node.func.attr}")
    return called
