"""Commands that call the services: the options they share, and how they are run."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from inspect import Parameter
from typing import Final, Protocol, TypeVar

import typer

from libs.cli.installation.data_folder import CONTEXTS
from libs.cli.terminal.connection import Location, find_connection
from libs.cli.terminal.options import (
    BillingOption,
    DataDirOption,
    IdentityOption,
    JsonOption,
    MeteringOption,
    ReadyFileOption,
    TokenOption,
)
from libs.cli.terminal.output import Output

IDENTITY: Final = ("identity",)
_PAGE_SIZE_MAX: Final = 1_000
# Every command takes all of them, so that the same words can be given to each.
_LOCATION: Final[dict[str, object]] = {
    "data_dir": DataDirOption,
    "ready_file": ReadyFileOption,
    "identity": IdentityOption,
    "billing": BillingOption,
    "metering": MeteringOption,
    "token": TokenOption,
}

_Command = Callable[..., Coroutine[None, None, None]]


def calling(group: typer.Typer, name: str, contexts: Sequence[str] = IDENTITY) -> Callable[[_Command], _Command]:
    """Register a coroutine as a command of a group; see `calls_services`."""

    def register(command: _Command) -> _Command:
        group.command(name)(calls_services(contexts)(command))
        return command

    return register


def calls_services(contexts: Sequence[str] = CONTEXTS) -> Callable[[_Command], Callable[..., None]]:
    """Make a command of a coroutine that takes open channels, a place to print, and options of its own.

    The options that say where the services are, and --json, are added here. `contexts` are the services it calls.
    """

    def make(command: _Command) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[2:]
        shared = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in _LOCATION.items()
        ]
        as_json = Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption)
        parameters = [*(one.replace(kind=Parameter.KEYWORD_ONLY) for one in own), as_json, *shared]

        def run(**typed: object) -> None:
            asyncio.run(_run(command, contexts, typed))

        run.__name__, run.__doc__ = command.__name__, _help_of(command)
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions take it as well.
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return make


def _help_of(command: _Command) -> str:
    """Return the docstring with each paragraph on one line, for the terminal to wrap."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (command.__doc__ or "").split("\n\n"))


async def _run(command: _Command, contexts: Sequence[str], typed: dict[str, object]) -> None:
    location = Location(**{name: typed.pop(name) for name in _LOCATION})  # type: ignore[arg-type]  # typer checked them.
    output = Output(as_json=bool(typed.pop("as_json")))
    async with find_connection(location, needed=contexts).open() as channels:
        await command(channels, output, **typed)


class _Request(Protocol):
    page_size: int
    page_token: str


class _Page(Protocol):
    next_page_token: str


_Asked = TypeVar("_Asked", bound=_Request)
_Answered = TypeVar("_Answered", bound=_Page)
_Item = TypeVar("_Item")


async def listed(
    ask: Callable[[_Asked], Awaitable[_Answered]],
    request: _Asked,
    items: Callable[[_Answered], Iterable[_Item]],
    limit: int,
) -> tuple[list[_Item], bool]:
    """Return the first `limit` items of a list, read page by page, and whether there are more."""
    found: list[_Item] = []
    while True:
        request.page_size = min(limit - len(found), _PAGE_SIZE_MAX)
        page = await ask(request)
        found += items(page)
        request.page_token = page.next_page_token
        if not page.next_page_token or len(found) >= limit:
            return found, bool(page.next_page_token)
