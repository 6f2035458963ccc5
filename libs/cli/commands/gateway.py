"""`tollhouse gateway …`: services of the platform that call ours with tokens that they sign themselves."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from libs.cli.failures import WrongUse
from libs.cli.installation.data_folder import AUDIENCES, DataFolder
from libs.cli.installation.gateways import OVERLAP_MAX, Gateway, Gateways
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.options import DataDirOption, JsonOption, data_dir_of
from libs.cli.terminal.output import Output
from libs.cli.terminal.times import parse_span
from libs.common.clock import SystemClock

group = typer.Typer(name="gateway", help="Gateways: services that call ours with tokens.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="The gateway's name; it calls as service:NAME.", metavar="NAME")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", help="The file for the private key, instead of one in the installation's folder.", show_default=False
    ),
]


@group.command("create")
def create(
    name: NameArgument, data_dir: DataDirOption = None, out: OutOption = None, as_json: JsonOption = False
) -> None:
    """Create a gateway: a key pair for it, which running services trust within a second."""
    gateway, key_file = _gateways(data_dir).create(name, out)
    _print(gateway, key_file, as_json=as_json)


@group.command("list")
def list_gateways(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List the gateways, with the keys that are accepted from each."""
    output, gateways = Output(as_json=as_json), _gateways(data_dir).all()
    if as_json:
        output.json([_as_json(gateway, gateway.key_file) for gateway in gateways])
        return
    rows = [
        (gateway.name, gateway.subject, ", ".join(key.key_id for key in gateway.keys), str(gateway.key_file or ""))
        for gateway in gateways
    ]
    output.table(("name", "subject", "keys", "key_file"), rows)


@group.command("rotate")
def rotate(
    name: NameArgument,
    data_dir: DataDirOption = None,
    out: OutOption = None,
    overlap: Annotated[
        str, typer.Option(help="How long the old key is accepted still, such as 24h; 0s if it has leaked.")
    ] = "1h",
    as_json: JsonOption = False,
) -> None:
    """Give a gateway a new key pair; the old key is accepted until the overlap is over."""
    span = parse_span(overlap)
    if span > OVERLAP_MAX:
        raise WrongUse(f"The overlap must be at most {OVERLAP_MAX // timedelta(days=1)}d.")
    gateway, key_file = _gateways(data_dir).rotate(name, overlap=span, out=out)
    _print(gateway, key_file, as_json=as_json)


@group.command("revoke")
@group.command("delete", help="Revoke a gateway: the same as `revoke`.")
def revoke(
    name: NameArgument, data_dir: DataDirOption = None, yes: YesOption = False, as_json: JsonOption = False
) -> None:
    """Trust a gateway no more; running services refuse its tokens within a second. Its private key is removed."""
    confirm(f"Revoke the gateway {name}, and remove its private key from the installation's folder?", yes=yes)
    gateway = _gateways(data_dir).revoke(name)
    _print(gateway, None, as_json=as_json)


def _gateways(data_dir: Path | None) -> Gateways:
    return Gateways(DataFolder.existing(data_dir_of(data_dir)), SystemClock())


def _print(gateway: Gateway, key_file: Path | None, *, as_json: bool) -> None:
    output = Output(as_json=as_json)
    if as_json:
        output.json(_as_json(gateway, key_file))
        return
    for heading, value in (
        ("name", gateway.name),
        ("subject", gateway.subject),
        ("issuer", gateway.issuer),
        ("audiences", ", ".join(AUDIENCES)),
        *(("key", _key_text(key.key_id, key.retire_time)) for key in gateway.keys),
        ("private key file", str(key_file or "")),
    ):
        if value:
            output.line(f"{heading:<24} {value}")


def _key_text(key_id: str, retire_time: datetime | None) -> str:
    return key_id if retire_time is None else f"{key_id}, accepted until {retire_time:%Y-%m-%d %H:%M:%SZ}"


def _as_json(gateway: Gateway, key_file: Path | None) -> dict[str, object]:
    return {
        "name": gateway.name,
        "subject": gateway.subject,
        "issuer": gateway.issuer,
        "audiences": AUDIENCES,
        "keys": [
            {"key_id": key.key_id, "retire_time": key.retire_time.isoformat() if key.retire_time else None}
            for key in gateway.keys
        ],
        "private_key_file": str(key_file.absolute()) if key_file else None,
    }
