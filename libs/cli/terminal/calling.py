"""Commands that call the services: what each of them can be told, and how it is run."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from inspect import Parameter
from typing import Annotated, Final, Protocol, TypeVar

import typer

from libs.cli.terminal.connection import (
    BillingOption,
    IdentityOption,
    MeteringOption,
    ReadyFileOption,
    TokenOption,
    find_connection,
)
from libs.cli.terminal.output import Output

IDENTITY: Final = ("identity",)
LimitOption = Annotated[int, typer.Option(min=1, max=100_000, help="The most to list.")]
LIMIT: Final = 100
_PAGE_SIZE_MAX: Final = 1_000
_JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_TARGETS: Final[dict[str, object]] = {"identity": IdentityOption, "billing": BillingOption, "metering": MeteringOption}

_Command = Callable[..., Coroutine[None, None, None]]


def calling(group: typer.Typer, name: str, contexts: Sequence[str] = IDENTITY) -> Callable[[_Command], _Command]:
    """Make a command of a coroutine that is handed open channels and a place to print, and then what was typed.

    Where the services are and as whom to call them can be said of every command in the same words; it is added here.
    """

    def register(command: _Command) -> _Command:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[2:]
        parameters = [*(one.replace(kind=Parameter.KEYWORD_ONLY) for one in own), *_shared(contexts)]

        def run(**typed: object) -> None:
            asyncio.run(_run(command, contexts, typed))

        run.__doc__ = command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # a function takes it, too.
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        group.command(name)(run)
        return command

    return register


def _shared(contexts: Sequence[str]) -> list[Parameter]:
    options = {"ready_file": ReadyFileOption, **{name: _TARGETS[name] for name in contexts}, "token": TokenOption}
    shared = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=option) for name, option in options.items()
    ]
    return [Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=_JsonOption), *shared]


async def _run(command: _Command, contexts: Sequence[str], typed: dict[str, object]) -> None:
    places: dict[str, object] = {name: typed.pop(name, None) for name in ("ready_file", *_TARGETS, "token")}
    output = Output(as_json=bool(typed.pop("as_json")))
    connection = find_connection(**places, needed=contexts)  # type: ignore[arg-type]  # typer has checked them.
    async with connection.open() as channels:
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
    """Return the first things of a list, page by page, and whether there are more."""
    found: list[_Item] = []
    while True:
        request.page_size = min(limit - len(found), _PAGE_SIZE_MAX)
        page = await ask(request)
        found += items(page)
        request.page_token = page.next_page_token
        if not page.next_page_token or len(found) >= limit:
            return found, bool(page.next_page_token)
