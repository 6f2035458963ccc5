"""`tollhouse up`: run everything in the foreground until Ctrl-C."""

import asyncio
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from libs.cli.failures import WrongUse
from libs.cli.gateway.program import find_envoy
from libs.cli.installation.data_folder import CONTEXTS, READY_FILE
from libs.cli.installation.environment import SHARDS_VARIABLE, owner_database_url, shards_from_environment
from libs.cli.installation.gateway import GatewayOptions
from libs.cli.installation.stack import Stack, StackOptions
from libs.cli.installation.tls import OPERATOR, TLS_VARIABLE, TlsFolder
from libs.cli.terminal.migrations import tell_progress
from libs.cli.terminal.options import DatabaseUrlOption, DataDirOption, ShardsOption, data_dir_of

_ORIGIN: Final = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?")

PortOption = Annotated[int, typer.Option(min=0, max=65_535, help="Its port; 0 chooses a free one.")]


def up(
    data_dir: DataDirOption = None,
    database_url: DatabaseUrlOption = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            help=f"Where to write a second copy of {READY_FILE} (addresses and a token) once all is ready.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=16, help="How many processes to run for each service.")] = 1,
    host: Annotated[str, typer.Option(help="The address the services listen on.")] = "127.0.0.1",
    tls_dir: Annotated[
        Path | None,
        typer.Option(
            envvar=TLS_VARIABLE,
            help="Use mutual TLS with the files in this folder: ca.pem, and NAME.pem and NAME.key of each service.",
        ),
    ] = None,
    identity_port: PortOption = 0,
    billing_port: PortOption = 0,
    metering_port: PortOption = 0,
    shards: ShardsOption = None,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="Serve REST as well, by Envoy, which must be installed.")
    ] = False,
    gateway_host: Annotated[str, typer.Option(help="The address the gateway listens on.")] = "127.0.0.1",
    gateway_port: PortOption = 0,
    gateway_origin: Annotated[
        list[str] | None,
        typer.Option(help="An origin whose web pages may call the gateway; may be repeated.", show_default=False),
    ] = None,
    gateway_proxies: Annotated[
        int, typer.Option(min=0, max=8, help="How many proxies stand before the gateway and tell it who calls.")
    ] = 0,
) -> None:
    """Run the three services and Postgres until Ctrl-C."""
    named = shards_from_environment()
    ports = {"identity": identity_port, "billing": billing_port, "metering": metering_port}
    options = StackOptions(
        data_dir=data_dir_of(data_dir),
        database_url=owner_database_url(database_url),
        ready_file=ready_file.absolute() if ready_file else None,
        workers=workers,
        host=host,
        ports={context: port for context, port in ports.items() if port},
        tls=_checked(tls_dir) if tls_dir else None,
        shards=shards,
        shards_of_new=named or 1,
        gateway=GatewayOptions(find_envoy(), gateway_host, gateway_port, _origins(gateway_origin), gateway_proxies)
        if gateway
        else None,
    )
    asyncio.run(_run(options, named))


def _origins(given: Sequence[str] | None) -> Sequence[str]:
    """Return the origins; raises WrongUse for what no browser would send as one."""
    for origin in given or ():
        if not _ORIGIN.fullmatch(origin):
            raise WrongUse(f"{origin} is no origin; one is written as https://app.example.com, without a path.")
    return given or ()


def _checked(tls_dir: Path) -> TlsFolder:
    """Return the folder; raises WrongUse, before anything is started, if a file is missing."""
    folder = TlsFolder(tls_dir)
    for name in (*CONTEXTS, OPERATOR):
        folder.files_of(name)
    return folder


async def _run(options: StackOptions, shards_named: int | None) -> None:
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    console = Console(stderr=True)
    stack = Stack(options, tell_progress)
    with stack.folder.locked():
        starting = asyncio.create_task(stack.start())
        stopping = asyncio.create_task(asked_to_stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                _print_welcome(console, stack)
                if shards_named not in (None, stack.shards):
                    console.print(
                        f"{SHARDS_VARIABLE}={shards_named} is not used: this installation has {stack.shards}.",
                        highlight=False,
                    )
                await stopping
            console.print("Draining the services and stopping.")
        finally:
            stopping.cancel()
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await stack.stop()


def _print_welcome(console: Console, stack: Stack) -> None:
    ready_file = stack.folder.path / READY_FILE
    for context, endpoint in stack.endpoints.items():
        console.print(f"{context:<10} {endpoint}")
    if stack.gateway_url:
        console.print(f"gateway    {stack.gateway_url}", highlight=False)
    console.print(f"shards     {stack.shards}", highlight=False)
    console.print(f"logs       {stack.folder.logs}")
    console.print(f"ready file {ready_file}")
    console.print("\nTry a call (grpcurl finds the methods by reflection):", highlight=False)
    console.print(
        f'  grpcurl {_way(stack.tls)} -H "Authorization: Bearer $(tollhouse token '
        f'--data-dir {stack.folder.path})" {stack.endpoints["metering"]} '
        "tollhouse.metering.v1.ModelService/ListModels",
        soft_wrap=True,
        highlight=False,
    )
    console.print("\nCtrl-C drains and stops.", highlight=False)


def _way(tls: TlsFolder | None) -> str:
    """Return the options with which grpcurl calls the services."""
    if tls is None:
        return "-plaintext"
    files = tls.files_of(OPERATOR)
    return f"-cacert {files.server_ca_file} -cert {files.certificate_file} -key {files.key_file}"
