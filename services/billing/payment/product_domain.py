"""Products: what is sold for credits."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.billing.payment.domain import Credits
from services.billing.plan.domain import Money, ProviderReference

PRODUCTS_MAX: Final = 1_000
"""The most products that there can be, archived ones included."""
FIELDS: Final = (
    "name",
    "description",
    "price",
    "credits",
    "expire_after_days",
    "priority",
    "active",
    "sort_order",
    "provider_references",
)
"""The fields that can be changed."""

Place = tuple[int, str]
"""The sort_order and the code of a product: its place in lists."""


@dataclass(frozen=True, slots=True)
class Product:
    """A product."""

    product_id: str
    product_code: str
    name: str
    description: str
    price: Money
    credits: Money
    expire_after_days: int
    priority: int
    active: bool
    sort_order: int
    provider_references: tuple[ProviderReference, ...]
    """Sorted."""
    revision: int
    create_time: datetime
    update_time: datetime
    archive_time: datetime | None = None

    @property
    def etag(self) -> str:
        return str(self.revision)

    @property
    def is_offered(self) -> bool:
        """Whether users see it in lists, and can buy it by themselves."""
        return self.active and self.archive_time is None

    def what_it_brings(self) -> Credits:
        """Return the credits that a payment for it brings."""
        return Credits(self.credits.currency_code, self.credits.value, self.priority, self.expire_after_days)

    def sold_as(self, provider: str) -> str | None:
        """Return what a provider calls it; None where it is not sold there. A variant or price before a product."""
        found = sorted(
            (one.kind == "product", one.kind, one.external_id)
            for one in self.provider_references
            if one.provider == provider
        )
        return found[0][2] if found else None


@dataclass(frozen=True, slots=True)
class NewProduct:
    """A product that is to be added, by its code and the values of `FIELDS`."""

    product_code: str
    values: Mapping[str, object]
