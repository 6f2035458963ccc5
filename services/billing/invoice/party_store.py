"""The statements on who issues invoices and to whom they go."""

from datetime import datetime
from typing import Final

from libs.common.database import RawConnection
from services.billing.invoice.document_json import issuer_json, issuer_of_json, recipient_json, recipient_of_json
from services.billing.invoice.domain import Issuer, Recipient

# The only row.
_ISSUER: Final = "SELECT issuer::text, revision FROM invoice_issuers"
_PUT_ISSUER: Final = """
    INSERT INTO invoice_issuers (issuer, revision, update_time) VALUES ($1::jsonb, 1, $2)
    ON CONFLICT (singleton) DO UPDATE
        SET issuer = excluded.issuer, revision = invoice_issuers.revision + 1, update_time = excluded.update_time
"""

# One probe of the primary key.
_RECIPIENT: Final = "SELECT recipient::text, revision FROM invoice_recipients WHERE organization_id = $1::uuid"
_PUT_RECIPIENT: Final = """
    INSERT INTO invoice_recipients (organization_id, recipient, revision, update_time)
    VALUES ($1::uuid, $2::jsonb, 1, $3)
    ON CONFLICT (organization_id) DO UPDATE SET recipient = excluded.recipient,
        revision = invoice_recipients.revision + 1, update_time = excluded.update_time
"""

# Held until the end of the transaction, so that changes are made one after another.
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('billing.invoice_parties/' || $1, 0))"


async def lock(connection: RawConnection, whose: str) -> None:
    """Let nobody else change the issuer, or an organization's recipient, until the transaction ends."""
    await connection.fetchval(_LOCK, whose)


async def find_issuer(connection: RawConnection) -> Issuer | None:
    row = await connection.fetchrow(_ISSUER)
    return None if row is None else issuer_of_json(row[0], row[1])


async def put_issuer(connection: RawConnection, issuer: Issuer, now: datetime) -> None:
    await connection.execute(_PUT_ISSUER, issuer_json(issuer), now)


async def find_recipient(connection: RawConnection, organization_id: str) -> Recipient:
    """Return to whom an organization's invoices go; an empty one where nobody has said it."""
    row = await connection.fetchrow(_RECIPIENT, organization_id)
    return Recipient() if row is None else recipient_of_json(row[0], row[1])


async def put_recipient(connection: RawConnection, organization_id: str, recipient: Recipient, now: datetime) -> None:
    await connection.execute(_PUT_RECIPIENT, organization_id, recipient_json(recipient), now)
