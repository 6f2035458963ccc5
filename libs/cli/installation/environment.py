"""The environment variables a service is started with, and the port that its processes share."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.installation.data_folder import DataFolder
from libs.cli.installation.tls import TlsFolder
from libs.common.environment import VariablesError, read_environment, whole_number
from libs.common.environment import database_url as database_url_in
from libs.common.ports import is_free
from libs.common.sharding import SHARDS_MAX

SHARDS_VARIABLE: Final = "TOLLHOUSE_SHARDS"


def owner_database_url(given: str | None) -> str | None:
    """Return the database that was given, or that the variables name; None for the embedded one.

    Raises:
        WrongUse: the variables cannot be used.
    """
    try:
        return given or database_url_in(read_environment(), ("DATABASE_URL",))
    except VariablesError as error:
        raise WrongUse(f"{error}.") from None


def shards_from_environment() -> int | None:
    """Return the number of shards that the environment or `.env` names; None where neither does.

    Raises:
        WrongUse: it is no number that there can be.
    """
    try:
        return whole_number(read_environment(), SHARDS_VARIABLE, 1, SHARDS_MAX)
    except VariablesError as error:
        raise WrongUse(f"{error}.") from None


def service_environment(
    context: str,
    *,
    folder: DataFolder,
    database_url: str,
    host: str,
    ports: Mapping[str, int],
    reuse_port: bool,
    shards: int,
    tls: TlsFolder | None = None,
) -> dict[str, str]:
    """Return the environment of a service's process: this process's own, with the service's settings added."""
    own = {
        "DATABASE_URL": database_url,
        "HOST": host,
        "PORT": str(ports[context]),
        "REUSE_PORT": str(reuse_port).lower(),
        "TRUST_BUNDLE_FILE": str(folder.trust_bundle_file),
        "EVENT_KEYS_FILE": str(folder.event_keys_file),
        **_of_context(context, folder, {name: f"{host}:{ports[name]}" for name in ports}),
        **(tls.environment_of(context) if tls else {}),
    }
    settings = {f"TOLLHOUSE_{context.upper()}_{name}": value for name, value in own.items()}
    return read_environment() | {SHARDS_VARIABLE: str(shards)} | settings


def _of_context(context: str, folder: DataFolder, targets: Mapping[str, str]) -> dict[str, str]:
    if context == "identity":
        return {"PEPPERS": str(folder.pepper_file), "SESSION_KEY_FILE": str(folder.signing_key_file("session"))}
    # Billing and metering ask identity for the rights of users and keys, and each other.
    caller = {"SIGNING_KEY_FILE": str(folder.signing_key_file(context)), "IDENTITY_TARGET": targets["identity"]}
    if context == "billing":
        caller["INVOICE_LINK_SECRET_FILE"] = str(folder.invoice_link_secret_file)
    else:
        caller["CONVERSATION_KEYS_FILE"] = str(folder.conversation_keys_file)
    peer = "metering" if context == "billing" else "billing"
    return caller | {f"{peer.upper()}_TARGET": targets[peer]}


def reserve_shared_port(host: str, port: int) -> tuple[socket.socket, int]:
    """Reserve a port that several processes will share, for as long as the returned socket is open."""
    # Checked without SO_REUSEPORT first: with it, another group of processes on the port would not be noticed.
    if not is_free(host, port):
        raise CommandFailed(f"The port {port} on {host} is taken.")
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((host, port))
    taken: int = holder.getsockname()[1]
    return holder, taken


def repository() -> Path:
    """Return the folder that holds libs, services and protos."""
    return Path(__file__).resolve().parents[3]
