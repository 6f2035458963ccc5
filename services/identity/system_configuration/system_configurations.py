"""Reading and changing the platform's configuration."""

from typing import Final

from libs.common.audit.recording import PLATFORM, Changed, record_event
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import StaleEtag
from services.identity.configuration import Configuration, ConfigurationChange, changed
from services.identity.system_configuration import store

KEYS_MAX: Final = 500


class SystemConfigurations:
    """The configuration of the platform."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def get(self) -> Configuration:
        async with self._database.transaction() as tx:
            return await store.find_configuration(tx)

    async def update(self, change: ConfigurationChange, *, etag: str) -> Configuration:
        """Write and remove entries.

        Raises:
            StaleEtag: the configuration has changed since the etag was read.
            ConfigurationFull: it would have too many keys.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            before = await store.hold_configuration(tx, now)
            if etag and etag != before.etag:
                raise StaleEtag(resource_type="system_configuration")
            after = changed(before, change, keys_max=KEYS_MAX)
            if after is before:
                return before
            await store.write_configuration(tx, after, now)
            stored = await store.find_configuration(tx)
            await record_event(
                tx,
                now=now,
                organization_id=PLATFORM,
                resource_type="system_configuration",
                resource_id="system",
                changed=[Changed(f"entries.{key}") for key in change.keys],
            )
            return stored
