"""Architecture rules that the linters cannot check.

`.importlinter` says which layer may import which. This file checks names, sizes and where certain imports may appear.
"""

import ast
import re
from pathlib import Path

from tests.contract.sources import ROOT, called_name, sources

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 70

NAMES_THAT_SAY_NOTHING = {"base", "common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
COMMON_FOLDERS = {Path("libs/common"), Path("tests/common")}

# Functions that run a SQL statement or build one from text.
STATEMENT_TAKERS = {
    *("execute", "executemany", "exec_driver_sql", "fetch", "fetchrow", "fetchval", "fetchmany"),
    *("prepare", "cursor", "stream", "text"),
}

# Modules that may build SQL statements from text, each with the reason.
MAY_BUILD_STATEMENTS = {
    "libs/common/citus.py": "It changes roles and their rights, and an identifier cannot be a bound parameter.",
    "libs/common/migrate.py": "It works on schemas, and an identifier cannot be a bound parameter.",
    "libs/common/shard_migration.py": "It moves tables of a schema, and an identifier cannot be a bound parameter.",
    "libs/common/shards.py": "It looks into each shard, and an identifier cannot be a bound parameter.",
    "libs/common/databases.py": "It makes and drops databases, and an identifier cannot be a bound parameter.",
    "libs/common/audit/migration.py": "It takes rights from a role, and an identifier cannot be a bound parameter.",
    "libs/common/integrity/store.py": "It sets a limit to constant questions of ours.",
    "benchmarks/charges.py": "It names schemas and tables of ours, which cannot be bound parameters.",
}

# Packages, and the modules that may import them. A use case imports neither gRPC and protobuf nor the database driver.
WIRE_PACKAGES = {
    "buf",
    "envoy",
    "google",
    "grpc",
    "grpc_health",
    "grpc_reflection",
    "grpc_status",
    "protovalidate",
    "tollhouse",
}
MAY_KNOW_THE_WIRE = re.compile(
    r"libs\.cli\..*"
    r"|libs\.common\.(audit|integrity)\.servicer|libs\.common\.events\.(servicer|rendering)"
    r"|libs\.common\.(access|amount|call|callers|channel|pipeline|rpc_method|server|status|text|timestamps|validation)"
    r"|libs\.common\.(health|reflection|violation_messages)"
    r"|libs\.common\.(charge_filter|digests|repeats\.parsing)"
    r"|services\.\w+\.(__main__|timestamps|clients(\.\w+)?)"
    r"|services\.\w+\.\w+\.(webhook\.|correction\.|export\.|rerate\.|statistics\.|streaming\.)?(\w+_)?(servicer|rendering|parsing)"
)
DRIVER_PACKAGES = {"alembic", "asyncpg", "sqlalchemy"}
MAY_KNOW_THE_DRIVER = re.compile(
    # The command tells an operator in one line why a database could not be reached.
    r"libs\.cli\.(commands\.(migrate|shards|up)|installation\.stack)"
    # Statements of `tollhouse shards`.
    r"|libs\.cli\.installation\.shard_store"
    r"|libs\.common\.(audit\.(migration|store|tables)|integrity\.store|repeats\.(store|tables))"
    r"|libs\.common\.(shard_migration|sharding_table|shards)"
    r"|libs\.common\.events\.(delivery_store|migration|outbox|store|tables)"
    r"|libs\.common\.(announcements|citus|connections|database|database_errors|databases|known_types|migrate|pooler)"
    r"|services\.\w+\.(tables(\..*)?|migrations\..*)"
    r"|services\.\w+\.\w+(\.\w+)?\.(store|\w+_store)"
    # Statements that several resources of identity run within their transactions.
    r"|services\.identity\.(requests|revisions|revocation)"
    # Reports, which consist of SQL queries only.
    r"|services\.metering\.usage\.summaries"
)


def test_module_names_say_what_is_inside() -> None:
    vague = [
        source.name
        for source in sources()
        for part in source.path.relative_to(ROOT).parents
        if part.name in NAMES_THAT_SAY_NOTHING and part not in COMMON_FOLDERS
    ]
    vague += [source.name for source in sources() if source.path.stem in NAMES_THAT_SAY_NOTHING]
    assert vague == []


def test_imports_are_absolute() -> None:
    relative = [
        source.place(node)
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert relative == []


def test_every_package_has_its_layers_in_importlinter() -> None:
    written = (ROOT / ".importlinter").read_text(encoding="utf-8").split()
    rooms = {source.module for source in sources("services") if source.path.name == "__init__.py"} - {"services"}
    single = {room for room in rooms if not any(s.module.startswith(f"{room}.") for s in sources("services"))}
    assert sorted(room for room in rooms - single if room not in written) == []


def test_only_border_modules_import_grpc_and_protobuf() -> None:
    assert _imports_elsewhere(WIRE_PACKAGES, MAY_KNOW_THE_WIRE) == []


def test_only_stores_import_the_database_driver() -> None:
    assert _imports_elsewhere(DRIVER_PACKAGES, MAY_KNOW_THE_DRIVER) == []


def test_no_file_exceeds_the_line_limit() -> None:
    long = [(source.name, source.text.count("\n")) for source in sources()]
    assert [f"{name}: {lines} lines" for name, lines in long if lines > FILE_LINES_MAX] == []


def test_no_function_exceeds_the_line_limit() -> None:
    long = [
        f"{source.place(node)} {node.name}: {_lines(node)} lines"
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _lines(node) > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_statements_are_never_built_from_text() -> None:
    built = [
        source.place(call)
        for source in sources("libs", "services", "benchmarks", "scripts")
        if source.name not in MAY_BUILD_STATEMENTS
        for call in source.calls()
        if called_name(call) in STATEMENT_TAKERS and call.args and _is_built_text(call.args[0])
    ]
    assert built == []


def test_nothing_is_mocked_skipped_or_expected_to_fail() -> None:
    forbidden = {"unittest.mock", "mock", "pytest.skip", "pytest.xfail", "pytest.importorskip"}
    imported = [
        source.place(node)
        for source in sources()
        for node, name in source.imports()
        if name in forbidden or name.startswith(("unittest.mock.", "mock."))
    ]
    marked = [
        source.place(node)
        for source in sources("tests")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and node.attr in {"skip", "skipif", "xfail", "importorskip"}
    ]
    assert imported + marked == []


def test_sources_contain_no_todo_markers() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error")
    promises = [
        f"{source.name}:{number}"
        for source in sources()
        for number, line in enumerate(source.text.splitlines(), start=1)
        if any(word in line for word in words)
    ]
    assert promises == []


def test_services_never_convert_values_to_float() -> None:
    floats = [
        source.place(call)
        for source in sources("services")
        for call in source.calls()
        if isinstance(call.func, ast.Name) and call.func.id == "float" and not isinstance(call.args[0], ast.Constant)
    ]
    assert floats == []


def _imports_elsewhere(packages: set[str], allowed: re.Pattern[str]) -> list[str]:
    return [
        f"{source.place(node)} {name}"
        for source in sources("libs", "services")
        if not allowed.fullmatch(source.module)
        for node, name in source.imports()
        if name.partition(".")[0] in packages
    ]


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring."""
    first = function.body[0]
    docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    skipped = (first.end_lineno or first.lineno) - first.lineno + 1 if docstring else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - skipped


def _is_constant(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Name) and expression.id.isupper()


def _is_built_text(argument: ast.expr) -> bool:
    match argument:
        case ast.JoinedStr(values=values):
            return any(isinstance(value, ast.FormattedValue) and not _is_constant(value.value) for value in values)
        case ast.BinOp(op=ast.Add() | ast.Mod()):
            return True
        case ast.Call(func=ast.Attribute(attr="format" | "join" | "replace")):
            return True
        case ast.Call() as call:
            return called_name(call) == "text" and bool(call.args) and _is_built_text(call.args[0])
        case _:
            return False
