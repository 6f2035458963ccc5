"""The use cases of products. Access is checked by the pipeline before they are called."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from libs.common.audit.recording import PLATFORM, Changed, differences, record_event
from libs.common.call import is_limited
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import NotFound, StaleEtag
from libs.common.ids import new_id
from libs.common.repeats.once import Repeatable, once
from libs.common.text import storable
from services.billing.errors import InactivePlansForOperatorsOnly, ProviderReferenceTaken
from services.billing.payment import product_store as store
from services.billing.payment.product_domain import PRODUCTS_MAX, NewProduct, Place, Product
from services.billing.payment_errors import ProductArchived, ProductExists, TooManyProducts
from services.billing.plan.domain import Money
from services.billing.tables import product_requests

_VALUE_CHARS_MAX: Final = 1_000


class Products:
    """Changes and reads products. Every change takes one lock first, so changes are made one after another."""

    def __init__(self, platform: Database, clock: Clock) -> None:
        """`platform` is the database of billing's own schema."""
        self._platform = platform
        self._clock = clock

    async def create(
        self, new: NewProduct, repeatable: Repeatable, render: Callable[[Product], bytes]
    ) -> tuple[bytes, bool]:
        """Add a product; return the rendered response, and whether it is a replay.

        Raises:
            ProductExists: there is a product of this code.
            ProviderReferenceTaken: a reference is another product's.
            TooManyProducts: there are as many products as there can be.
        """

        async def add(connection: Transaction) -> bytes:
            await store.lock_products(connection)
            if await store.find_product(connection, product_code=new.product_code) is not None:
                raise ProductExists(product_code=new.product_code)
            if await store.count_products(connection) >= PRODUCTS_MAX:
                raise TooManyProducts(products=PRODUCTS_MAX)
            product = _new(new, self._clock.now())
            await _require_free_references(connection, product)
            await store.add_product(connection, product)
            await _record(connection, None, product)
            return render(product)

        return await once(self._platform, product_requests, self._clock, repeatable, add)

    async def get(self, product_id: str, product_code: str) -> Product:
        """Return a product as the caller may see it. Raises NotFound."""
        async with self._platform.transaction() as connection:
            product = await store.find_product(connection, product_id=product_id, product_code=product_code)
        if product is None or (is_limited() and not product.is_offered):
            raise NotFound(resource_type="product", resource_name=product_id or product_code)
        return product

    async def sold(self, product_code: str) -> Product:
        """Return a product that is not archived.

        Raises:
            NotFound: there is no such product.
            ProductArchived: it is not sold any more.
        """
        async with self._platform.transaction() as connection:
            product = await store.find_product(connection, product_code=product_code)
        if product is None:
            raise NotFound(resource_type="product", resource_name=product_code)
        if product.archive_time is not None:
            raise ProductArchived(product_code=product_code)
        return product

    async def page(self, after: Place | None, limit: int, *, include_inactive: bool) -> tuple[list[Product], bool]:
        """Return the products after a place in their order, and whether more follow.

        Raises:
            InactivePlansForOperatorsOnly: the caller may not see what is not offered.
        """
        if include_inactive and is_limited():
            raise InactivePlansForOperatorsOnly
        async with self._platform.transaction() as connection:
            found = await store.list_products(
                connection, after=after, include_inactive=include_inactive, limit=limit + 1
            )
        return found[:limit], len(found) > limit

    async def update(
        self,
        product_id: str,
        changes: Mapping[str, object],
        etag: str,
        repeatable: Repeatable,
        render: Callable[[Product], bytes],
    ) -> tuple[bytes, bool]:
        """Change some fields of a product; return the rendered response, and whether it is a replay.

        Raises:
            NotFound: there is no such product.
            ProductArchived: it is not changed any more.
            ProviderReferenceTaken: a reference is another product's.
            StaleEtag: the product has changed since it had this etag.
        """

        async def change(connection: Transaction) -> bytes:
            before = await _locked(connection, product_id)
            if etag and etag != before.etag:
                raise StaleEtag(resource_type="product")
            if before.archive_time is not None:
                raise ProductArchived(product_code=before.product_code)
            after: Product = replace(before, **changes)  # type: ignore[arg-type]  # parsing gives each its type.
            if after == before:
                return render(before)
            await _require_free_references(connection, after)
            return render(await _replace(connection, before, after, self._clock.now()))

        return await once(self._platform, product_requests, self._clock, repeatable, change)

    async def archive(self, product_id: str) -> Product:
        """Archive a product, and return it; one that is archived stays as it is. Raises NotFound."""
        async with self._platform.transaction() as connection:
            before = await _locked(connection, product_id)
            if before.archive_time is not None:
                return before
            now = self._clock.now()
            return await _replace(connection, before, replace(before, archive_time=now), now)


def _new(new: NewProduct, now: datetime) -> Product:
    return Product(
        product_id=new_id(),
        product_code=new.product_code,
        revision=1,
        create_time=now,
        update_time=now,
        **new.values,  # type: ignore[arg-type]  # parsing gives each its type.
    )


async def _locked(connection: Transaction, product_id: str) -> Product:
    await store.lock_products(connection)
    product = await store.find_product(connection, product_id=product_id)
    if product is None:
        raise NotFound(resource_type="product", resource_name=product_id)
    return product


async def _require_free_references(connection: Transaction, product: Product) -> None:
    taken = await store.find_taken(connection, product.product_id, product.provider_references)
    if taken is not None:
        raise ProviderReferenceTaken(
            provider=taken.provider, kind=taken.kind, external_id=taken.external_id, resource_type="product"
        )


async def _replace(connection: Transaction, before: Product, after: Product, now: datetime) -> Product:
    after = replace(after, revision=before.revision + 1, update_time=now)
    await store.replace_product(connection, after)
    await _record(connection, before, after)
    return after


async def _record(connection: Transaction, before: Product | None, after: Product) -> None:
    changes = differences({} if before is None else _fields(before), _fields(after))
    if (before.description if before else "") != after.description:
        changes = (*changes, Changed("description"))
    await record_event(
        connection,
        now=after.update_time,
        organization_id=PLATFORM,
        resource_type="product",
        resource_id=after.product_id,
        changed=changes,
    )


def _fields(product: Product) -> dict[str, str | None]:
    references = ", ".join(map(str, product.provider_references))
    return {
        "product_code": product.product_code,
        "name": product.name,
        "price": _money(product.price),
        "credits": _money(product.credits),
        "expire_after_days": str(product.expire_after_days),
        "priority": str(product.priority),
        "active": str(product.active).lower(),
        "sort_order": str(product.sort_order),
        "provider_references": storable(references, _VALUE_CHARS_MAX, with_length=True),
        "archived": str(product.archive_time is not None).lower(),
    }


def _money(money: Money) -> str:
    return f"{money.value.normalize():f} {money.currency_code}"
