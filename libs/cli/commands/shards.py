"""`tollhouse shards`: how the organizations are spread over the shards of billing and metering."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import asyncpg

from libs.cli.failures import CommandFailed
from libs.cli.installation.data_folder import DataFolder
from libs.cli.installation.environment import owner_database_url
from libs.cli.installation.shard_store import ORGANIZATIONS_MAX, ShardContent, read_shards
from libs.cli.installation.stack import DATABASE, embedded_server, read_shard_count
from libs.cli.terminal.options import DatabaseUrlOption, DataDirOption, JsonOption, data_dir_of
from libs.cli.terminal.output import Output
from libs.common.citus import nodes_of
from libs.common.database_url import with_database
from libs.common.sharding import newest_shard_version, shard_schema

_CONTEXTS: Final = ("billing", "metering")
_COLUMNS: Final = ("shard", "billing", "metering", "organizations", "rows (about)", "size", "node")
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_KIBI: Final = 1024


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard with its schemas of billing and of metering."""

    shard: int
    billing: str
    metering: str
    organizations: int | None
    """How many organizations have an account in it; None where its tables are missing."""
    organizations_are_more: bool
    """Whether there are more than were counted."""
    rows: int | None
    """About how many rows it has; None where only another machine knows."""
    bytes: int
    node: str
    problems: Sequence[str]
    """What must be migrated: a schema that is missing or at another version."""


def shards(as_json: JsonOption = False, data_dir: DataDirOption = None, database_url: DatabaseUrlOption = None) -> None:
    """List the shards with what they hold and where they are; exit status 1 if one must be migrated."""
    found = asyncio.run(_read(DataFolder(data_dir_of(data_dir)), owner_database_url(database_url)))
    output = Output(as_json=as_json)
    if as_json:
        output.json([asdict(shard) for shard in found])
    else:
        output.table(_COLUMNS, [_cells(shard) for shard in found])
    problems = [problem for shard in found for problem in shard.problems]
    if problems:
        for problem in problems:
            output.remark(problem)
        raise CommandFailed("Run `tollhouse migrate`; it goes on where it was interrupted.")


async def _read(folder: DataFolder, database_url: str | None) -> list[Shard]:
    if database_url is None and not (folder.postgres / "cluster").exists():
        raise CommandFailed(f"{folder.path} has no database yet.")
    async with embedded_server(folder, needed=database_url is None) as admin_url:
        url = database_url or with_database(admin_url, DATABASE)
        count = await read_shard_count(url)
        if count is None:
            raise CommandFailed("The database has no shards yet. Run `tollhouse migrate`.")
        schemas = {context: [shard_schema(context, number) for number in range(count)] for context in _CONTEXTS}
        every = [schema for of_context in schemas.values() for schema in of_context]
        try:
            contents = await read_shards(url, every, with_accounts=schemas["billing"])
            nodes = await nodes_of(url, every)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise CommandFailed(f"The shards cannot be read: {str(error).splitlines()[0]}") from None
    return [summed_up(number, pair, contents, nodes) for number, pair in enumerate(zip(*schemas.values(), strict=True))]


def summed_up(
    number: int, schemas: Sequence[str], contents: Mapping[str, ShardContent], nodes: Mapping[str, str]
) -> Shard:
    """Put together what both schemas of a shard hold."""
    billing, metering = schemas
    counted = contents[billing].organizations
    rows = [contents[schema].rows for schema in schemas]
    return Shard(
        shard=number,
        billing=billing,
        metering=metering,
        organizations=None if counted is None else min(counted, ORGANIZATIONS_MAX),
        organizations_are_more=counted is not None and counted > ORGANIZATIONS_MAX,
        rows=None if None in rows else sum(row for row in rows if row is not None),
        bytes=sum(contents[schema].bytes for schema in schemas),
        node=", ".join(dict.fromkeys(nodes[schema] for schema in schemas)),
        problems=[
            problem
            for context, schema in zip(_CONTEXTS, schemas, strict=True)
            if (problem := _problem(schema, contents[schema].version, newest_shard_version(context)))
        ],
    )


def _problem(schema: str, version: str | None, newest: str) -> str | None:
    if version is None:
        return f"{schema} is missing, or has not all its tables."
    return None if version == newest else f"{schema} is at version {version}; this version of Tollhouse needs {newest}."


def _cells(shard: Shard) -> list[str]:
    organizations = "missing" if shard.organizations is None else f"{shard.organizations:,}"
    return [
        str(shard.shard),
        shard.billing,
        shard.metering,
        organizations + ("+" if shard.organizations_are_more else ""),
        "unknown" if shard.rows is None else f"{shard.rows:,}",
        _size(shard.bytes),
        shard.node,
    ]


def _size(count: float) -> str:
    """Return a number of bytes in the largest unit of which it has at least one."""
    unit = 0
    while count >= _KIBI and unit < len(_UNITS) - 1:
        count /= _KIBI
        unit += 1
    return f"{count:,.0f} {_UNITS[unit]}" if unit == 0 else f"{count:,.1f} {_UNITS[unit]}"
