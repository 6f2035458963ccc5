"""The configurations of users."""

from typing import Final

from libs.common.audit.recording import Changed, record_event
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import StaleEtag
from services.identity.configuration import Configuration, ConfigurationChange, changed
from services.identity.user import configuration_store, store
from services.identity.user.domain import existing

KEYS_MAX: Final = 100


class UserConfigurations:
    """Manages one configuration for each user."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def get(self, user_id: str) -> Configuration:
        """Return a user's configuration, which is empty until something was written.

        Raises:
            NotFound: there is no such user.
        """
        async with self._database.transaction() as tx:
            existing(await store.find_user(tx, user_id), user_id)
            return await configuration_store.find_configuration(tx, user_id)

    async def update(self, user_id: str, change: ConfigurationChange, *, etag: str) -> Configuration:
        """Write and remove entries.

        Raises:
            NotFound: there is no such user.
            StaleEtag: the configuration has changed since the etag was read.
            ConfigurationFull: it would have too many keys.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            # Concurrent changes of a configuration wait for the user's row.
            user = existing(await store.hold_user(tx, user_id), user_id)
            before = await configuration_store.find_configuration(tx, user_id)
            if etag and etag != before.etag:
                raise StaleEtag(resource_type="user_configuration")
            after = changed(before, change, keys_max=KEYS_MAX)
            if after is before:
                return before
            await configuration_store.write_configuration(tx, user_id, after, now)
            stored = await configuration_store.find_configuration(tx, user_id)
            await record_event(
                tx,
                now=now,
                organization_id=user.personal_organization_id,
                resource_type="user_configuration",
                resource_id=user_id,
                changed=[Changed(f"entries.{key}") for key in change.keys],
            )
            return stored
