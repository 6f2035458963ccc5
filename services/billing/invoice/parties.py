"""Says who issues invoices and to whom they go."""

from dataclasses import replace

from libs.common.audit.recording import PLATFORM, Changed, record_event
from libs.common.call import is_limited
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import NotFound, StaleEtag
from libs.common.shards import Shards
from services.billing import errors
from services.billing.invoice import party_store
from services.billing.invoice.domain import Issuer, Recipient


class Parties:
    """Changes and reads the issuer of the installation, and the recipients of organizations."""

    def __init__(self, platform: Database, shards: Shards, clock: Clock) -> None:
        self._platform = platform
        self._shards = shards
        self._clock = clock

    async def issuer(self) -> Issuer:
        """Return the issuer. Raises NotFound where nobody has said who it is."""
        async with self._platform.raw_connection() as connection:
            found = await party_store.find_issuer(connection)
        if found is None:
            raise NotFound(resource_type="invoice issuer", resource_name="")
        return found

    async def set_issuer(self, issuer: Issuer, etag: str, *, automatic: bool) -> Issuer:
        """Set the whole issuer, and return it; the same again changes nothing. Raises StaleEtag.

        `automatic` says whether invoices are issued by themselves, from now on if they were not.
        """
        async with self._platform.raw_transaction() as connection:
            await party_store.lock(connection, "issuer")
            before = await party_store.find_issuer(connection)
            if etag and (before is None or etag != before.etag):
                raise StaleEtag(resource_type="invoice issuer")
            now = self._clock.now()
            if automatic:
                since = None if before is None else before.automatic_since
                issuer = replace(issuer, automatic_since=since or now)
            if before is not None and replace(before, revision=0) == issuer:
                return before
            await party_store.put_issuer(connection, issuer, now)
            await record_event(
                connection,
                now=now,
                organization_id=PLATFORM,
                resource_type="invoice issuer",
                resource_id="",
                changed=(
                    Changed("party"),
                    Changed("prefix", None if before is None else before.prefix, issuer.prefix),
                    Changed("due_days", None if before is None else str(before.due_days), str(issuer.due_days)),
                    Changed("grace_days", None if before is None else str(before.grace_days), str(issuer.grace_days)),
                    Changed("automatic", None if before is None else _automatic(before), _automatic(issuer)),
                ),
            )
            return replace(issuer, revision=1 if before is None else before.revision + 1)

    async def recipient(self, organization_id: str) -> Recipient:
        """Return to whom an organization's invoices go."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await party_store.find_recipient(connection, organization_id)

    async def set_recipient(self, organization_id: str, recipient: Recipient, etag: str) -> Recipient:
        """Set the whole recipient, and return it; the same again changes nothing.

        Raises:
            NotForSelfService: a user changes the prefix or the tax.
            StaleEtag: the recipient has changed since it had this etag.
        """
        async with self._shards.of(organization_id).raw_transaction() as connection:
            await party_store.lock(connection, organization_id)
            before = await party_store.find_recipient(connection, organization_id)
            if etag and etag != before.etag:
                raise StaleEtag(resource_type="invoice recipient")
            if is_limited() and _of_operators(before) != _of_operators(recipient):
                raise errors.NotForSelfService(what="Changing the prefix or the tax of invoices, or who issues them")
            if replace(before, revision=0) == recipient:
                return before
            now = self._clock.now()
            await party_store.put_recipient(connection, organization_id, recipient, now)
            await record_event(
                connection,
                now=now,
                organization_id=organization_id,
                resource_type="invoice recipient",
                resource_id=organization_id,
                changed=(
                    Changed("party"),
                    Changed("prefix", before.prefix, recipient.prefix),
                    Changed("tax_percent", before.tax_percent, recipient.tax_percent),
                    Changed("tax_place", before.tax_place, recipient.tax_place),
                    Changed("by_hand", _flag(before.by_hand), _flag(recipient.by_hand)),
                ),
            )
            return replace(recipient, revision=before.revision + 1)


def _automatic(issuer: Issuer) -> str:
    return _flag(issuer.automatic_since is not None)


def _flag(is_set: bool) -> str:
    return str(is_set).lower()


def _of_operators(recipient: Recipient) -> tuple[str | bool, ...]:
    """Return what only operators and services change."""
    return recipient.prefix, recipient.tax_percent, recipient.tax_place, recipient.tax_note, recipient.by_hand
