"""Every refusal has a unique reason, and is raised with the facts that its message needs."""

import ast
import importlib
import re
import string
from collections import Counter
from collections.abc import Iterator

import pytest

from libs.common import errors
from libs.common.errors import Refusal
from tests.contract.sources import Source, called_name, sources

CONTEXTS = ("identity", "billing", "metering")


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_reason_names_one_refusal_of_its_context(context: str) -> None:
    counted = Counter(refusal.reason for refusal in _shared() | _own(context))
    assert [reason for reason, count in counted.items() if count > 1] == []


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_refusal_has_a_reason_and_a_sentence(context: str) -> None:
    incomplete = [
        refusal.__name__
        for refusal in _shared() | _own(context)
        if not re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", refusal.reason)
        or not refusal.template.endswith(".")
        or not refusal.__doc__
    ]
    assert incomplete == []


def test_every_refusal_is_raised_with_the_facts_its_sentence_needs() -> None:
    lacking = [problem for source in sources("services", "libs") for problem in _calls_without_facts(source)]
    assert lacking == []


MODULES = {
    "identity": ("errors",),
    "billing": ("errors", "invoice_errors", "payment_errors"),
    "metering": ("errors", "usage_errors"),
}
DEFINING = {f"{name}.py" for names in MODULES.values() for name in names}


def test_every_refusal_of_a_context_is_used() -> None:
    unused = []
    for context in CONTEXTS:
        texts = [s.text for s in sources(f"services/{context}") if s.path.name not in DEFINING]
        parents = {base for refusal in _own(context) for base in refusal.__mro__[1:]}
        unused += [
            f"{context}: {refusal.__name__}"
            for refusal in _own(context) - parents
            if not any(re.search(rf"\b{refusal.__name__}\b", text) for text in texts)
        ]
    assert sorted(unused) == []


def test_facts_are_given_by_name() -> None:
    names = {refusal.__name__ for refusal in _shared().union(*(_own(context) for context in CONTEXTS))}
    plain = names - {errors.InvalidArgument.__name__}
    positional = [
        source.place(call)
        for source in sources("services", "libs")
        for call in source.calls()
        if called_name(call) in plain and isinstance(call.func, ast.Name) and call.args
    ]
    assert positional == []


def _shared() -> set[type[Refusal]]:
    return _refusals_of("libs.common.errors")


def _own(context: str) -> set[type[Refusal]]:
    found: set[type[Refusal]] = set()
    return found.union(*(_refusals_of(f"services.{context}.{name}") for name in MODULES[context]))


def _refusals_of(module_name: str) -> set[type[Refusal]]:
    module = importlib.import_module(module_name)
    found = {value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Refusal)}
    return {refusal for refusal in found if refusal.__module__ == module_name and refusal is not Refusal}


def _calls_without_facts(source: Source) -> Iterator[str]:
    """Calls that leave out a fact. Refusals that define `__init__` are left to the type checker."""
    context = source.module.split(".")[1] if source.module.startswith("services.") else None
    known = _shared() | (_own(context) if context in CONTEXTS else set())
    plain = {refusal.__name__: refusal for refusal in known if refusal.__init__ is Refusal.__init__}
    for call in source.calls():
        refusal = plain.get(called_name(call))
        if refusal is None or any(keyword.arg is None for keyword in call.keywords):
            continue
        given = {keyword.arg for keyword in call.keywords}
        missing = {name for _, name, _, _ in string.Formatter().parse(refusal.template) if name} - given
        if missing:
            yield f"{source.place(call)} {refusal.__name__} without {', '.join(sorted(missing))}"
