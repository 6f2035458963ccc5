"""Where events are: the databases of a service, each with the tables of events."""

from collections.abc import Callable
from dataclasses import dataclass

from libs.common.database import Database
from libs.common.shards import ShardedDatabases, Shards


@dataclass(frozen=True, slots=True)
class Homes:
    """The databases with events. A service without shards has one, which is the platform's and everybody's."""

    platform: Database
    """Where the endpoints of the platform are."""
    all: Shards
    """All of them, to be visited one after another."""
    of: Callable[[str], Database]
    """Returns where an organization's are, and those of PLATFORM."""


def one_home(database: Database) -> Homes:
    """Return where the events of a service without shards are."""
    return Homes(database, Shards([database]), lambda _: database)


def sharded_homes(databases: ShardedDatabases) -> Homes:
    """Return where the events of a service with shards are."""
    platform, shards = databases.platform, databases.shards
    return Homes(platform, Shards([platform, *shards]), databases.home_of)
