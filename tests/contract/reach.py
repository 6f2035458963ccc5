"""Finds which of our functions a function may call, directly or through others, by reading the sources.

Every function that is mentioned counts as called, so that functions passed as arguments are followed, too. The type of
`self._x` comes from the annotations of `__init__` or of the class, that of a parameter from its annotation. A call that
cannot be resolved is ignored: the result may miss a function, but never contains one that is not mentioned.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from tests.contract.sources import sources

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Place:
    """A function of a module, or a method of one of its classes."""

    module: str
    name: str
    owner: str = ""


@dataclass
class _Module:
    functions: dict[str, Function] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    """What a name stands for here, by its full name."""


def reaches(start: Place, target: str) -> bool:
    """Return whether a function may call the one of this full name, directly or through others."""
    seen, waiting = {start}, [start]
    while waiting:
        for mentioned in _mentioned(waiting.pop()):
            if f"{mentioned.module}.{mentioned.name}" == target and not mentioned.owner:
                return True
            if mentioned not in seen:
                seen.add(mentioned)
                waiting.append(mentioned)
    return False


def servicer_method(package: str, service: str, rpc: str) -> Place:
    """Return the method that serves an RPC; raises LookupError if there is none."""
    context = package.split(".")[1]
    folders = ("libs.common.", "services.") if context == "common" else (f"services.{context}.",)
    for name, module in _modules().items():
        for owner, node in module.classes.items():
            serves = any(ast.unparse(base).endswith(f".{service}Servicer") for base in node.bases)
            if name.startswith(folders) and serves and _method(node, rpc):
                return Place(name, rpc, owner)
    raise LookupError(f"nobody serves {service}/{rpc}")


@cache
def _modules() -> dict[str, _Module]:
    modules = {}
    for source in sources("libs", "services"):
        module = modules[source.module] = _Module()
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom):
                module.imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        for top in source.tree.body:
            if isinstance(top, Function):
                module.functions[top.name] = top
            elif isinstance(top, ast.ClassDef):
                module.classes[top.name] = top
    return modules


@cache
def _mentioned(place: Place) -> tuple[Place, ...]:
    """Return the functions and methods that a function mentions."""
    module = _modules().get(place.module)
    if module is None:
        return ()
    owner = module.classes.get(place.owner)
    if owner is not None:
        function = _method(owner, place.name)
        if function is None:
            return _in_bases(place, owner)
    else:
        function = module.functions.get(place.name)
    return tuple(_found_in(place, owner, function)) if function else ()


def _in_bases(place: Place, owner: ast.ClassDef) -> tuple[Place, ...]:
    found = (_class_of(place.module, base) for base in owner.bases)
    return tuple(Place(module, place.name, name) for module, name in filter(None, found))


def _found_in(place: Place, owner: ast.ClassDef | None, function: Function) -> Iterator[Place]:
    types = _annotated(place.module, function)
    if owner is not None:
        types["self"] = (place.module, owner.name)
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            yield from _named(place.module, node.id)
        elif isinstance(node, ast.Attribute):
            known = _type_of(place.module, node.value, types)
            if known is not None:
                yield Place(known[0], node.attr, known[1])
            elif isinstance(node.value, ast.Name):
                imported = _modules()[place.module].imported.get(node.value.id, "")
                yield from _function(imported, node.attr)


def _named(module_name: str, name: str) -> Iterator[Place]:
    module = _modules()[module_name]
    if name in module.functions:
        yield Place(module_name, name)
    elif name in module.classes:
        yield Place(module_name, "__init__", name)
    elif name in module.imported:
        imported_from, _, imported = module.imported[name].rpartition(".")
        yield from _function(imported_from, imported)


def _function(module_name: str, name: str) -> Iterator[Place]:
    module = _modules().get(module_name)
    if module is not None and name in module.functions:
        yield Place(module_name, name)


def _type_of(module_name: str, value: ast.expr, types: dict[str, tuple[str, str]]) -> tuple[str, str] | None:
    """Return which of our classes a parameter, or an attribute of one, is an instance of."""
    if isinstance(value, ast.Name):
        return types.get(value.id)
    if isinstance(value, ast.Call):
        return _class_of(module_name, value.func)
    if isinstance(value, ast.Attribute):
        holder = _type_of(module_name, value.value, types)
        return None if holder is None else _attributes(*holder).get(value.attr)
    return None


@cache
def _attributes(module_name: str, class_name: str) -> dict[str, tuple[str, str]]:
    """Return the types of the attributes that a class declares, or sets in `__init__`."""
    module = _modules().get(module_name)
    node = module.classes.get(class_name) if module else None
    found: dict[str, tuple[str, str]] = {}
    for declared in node.body if node else ():
        if isinstance(declared, ast.AnnAssign) and isinstance(declared.target, ast.Name):
            known = _class_of(module_name, declared.annotation)
            found |= {declared.target.id: known} if known is not None else {}
    for method in _methods(node) if node else ():
        if method.name != "__init__":
            continue
        types = _annotated(module_name, method)
        for statement in ast.walk(method):
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
                known = _type_of(module_name, statement.value, types)
                if known is not None:
                    found[statement.targets[0].attr] = known
    return found


def _annotated(module_name: str, function: Function) -> dict[str, tuple[str, str]]:
    arguments = function.args
    types: dict[str, tuple[str, str]] = {}
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        known = _class_of(module_name, argument.annotation) if argument.annotation else None
        if known is not None:
            types[argument.arg] = known
    return types


def _class_of(module_name: str, expression: ast.expr) -> tuple[str, str] | None:
    """Return which of our classes an annotation, or the function of a call, names."""
    if isinstance(expression, ast.BinOp):
        return _class_of(module_name, expression.left) or _class_of(module_name, expression.right)
    if isinstance(expression, ast.Subscript):
        return _class_of(module_name, expression.value)
    name = ast.unparse(expression).strip("'\"")
    if name in _modules()[module_name].classes:
        return module_name, name
    holder, _, class_name = _modules()[module_name].imported.get(name, "").rpartition(".")
    known = _modules().get(holder)
    return (holder, class_name) if known is not None and class_name in known.classes else None


def _methods(node: ast.ClassDef) -> Iterator[Function]:
    return (statement for statement in node.body if isinstance(statement, Function))


def _method(node: ast.ClassDef, name: str) -> Function | None:
    return next((method for method in _methods(node) if method.name == name), None)
