"""Reports of leaked secrets: the key is revoked at once."""

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from libs.common.audit.recording import Changed
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.sealing import SealingKeys
from services.identity.api_key import store
from services.identity.api_key.manage.api_keys import announce, record
from services.identity.api_key.manage.key_events import announce_leak
from services.identity.api_key.secret import (
    KEY_MAX_LENGTH,
    OWN_PREFIX,
    Peppers,
    is_well_formed,
    plain_digest,
    without_secrets,
)
from services.identity.api_key.verify.prefixes import ImportedPrefixes
from services.identity.revisions import ChangeKind, current_revision


@dataclass(frozen=True, slots=True)
class Leak:
    """A report: the secret or its plain digest, who found it and where."""

    key: str
    plain_digest: bytes
    source: str
    url: str

    def __repr__(self) -> str:
        return "Leak()"


class Leaks:
    """Handles reports of leaked secrets."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        peppers: Peppers,
        prefixes: ImportedPrefixes,
        event_keys: SealingKeys | None,
    ) -> None:
        """`event_keys` encrypts the owner's address in the event that operators are sent."""
        self._database = database
        self._clock = clock
        self._peppers = peppers
        self._prefixes = prefixes
        self._event_keys = event_keys

    async def report(self, leak: Leak) -> int | None:
        """Revoke the key; return a revision that holds the revocation, or None when no key has the secret.

        A malformed secret that begins with no imported prefix is not looked up.
        """
        digests = await self._digests(leak)
        if not digests:
            return None
        now = self._clock.now()
        async with self._database.transaction() as tx:
            api_key = await store.lock_api_key_of_digest(tx, digests)
            if api_key is None:
                return None
            revoked = await store.change_api_key(
                tx, api_key.organization_id, api_key.api_key_id, ChangeKind.REVOKED, now
            )
            if not revoked:
                return await current_revision(tx)
            source, url = _tellable(leak.source, leak.key), _tellable(_place(leak.url), leak.key)
            await announce_leak(tx, api_key, {"source": source, "url": url}, self._event_keys, now)
            changed = (
                Changed("revoke_time", after=now.isoformat()),
                Changed("leak_source", after=source),
                Changed("leak_url", after=url),
            )
            await record(tx, api_key, now, changed)
            return await announce(tx, api_key, ChangeKind.REVOKED, now)

    async def _digests(self, leak: Leak) -> tuple[bytes, ...]:
        if leak.plain_digest:
            return self._peppers.all_imported_digests(leak.plain_digest)
        if len(leak.key) > KEY_MAX_LENGTH:
            return ()
        if is_well_formed(leak.key):
            return self._peppers.all_digests(leak.key)
        if leak.key.startswith(OWN_PREFIX):
            return ()
        await self._prefixes.reach(0)
        if self._prefixes.begin(leak.key):
            return self._peppers.all_imported_digests(plain_digest(leak.key))
        return ()


def _place(url: str) -> str:
    """Return an address without the parts that may hold names or secrets: user info, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _tellable(text: str, key: str) -> str:
    return without_secrets(text.replace(key, "***") if key else text)
