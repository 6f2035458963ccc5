"""Lists charges, for other services to compare with their own."""

from typing import Final

from libs.common.database import Database
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import is_id
from libs.common.pages import decode_page_token, encode_page_token, page_size
from services.billing.charge import store
from services.billing.charge.domain import Charge

_CHARGES_DEFAULT: Final = 1_000
_CHARGES_MAX: Final = 10_000
_NIL: Final = "00000000-0000-0000-0000-000000000000"


class Charges:
    """What was charged, by organization and operation."""

    def __init__(self, reports: Database) -> None:
        self._reports = reports

    async def page(self, organization_id: str | None, size: int, page_token: str) -> tuple[list[Charge], str]:
        """Return a page of charges by (organization_id, operation_id), and the token of the next."""
        fingerprint = f"charges/{organization_id}"
        after = (organization_id or _NIL, "")
        if page_token:
            key = decode_page_token(page_token, fingerprint)
            if len(key) != 2 or not is_id(key[0]):
                raise InvalidArgument([FieldViolation("page_token", "is not a token of this list")])
            after = (key[0], key[1])
        size = page_size(size, _CHARGES_DEFAULT, _CHARGES_MAX)
        async with self._reports.raw_connection() as connection:
            page = await store.charges_after(connection, after, organization_id, size)
        if len(page) < size:
            return page, ""
        last = page[-1]
        return page, encode_page_token(last.organization_id, last.operation_id, fingerprint=fingerprint)
