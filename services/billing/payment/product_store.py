"""The statements on products, of which there are a thousand at most."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Row, delete, func, literal, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.billing.payment.product_domain import Place, Product
from services.billing.plan.domain import Money, ProviderReference
from services.billing.tables import product_references, products

_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('billing.products', 0))")

_key = (product_references.c.provider, product_references.c.kind, product_references.c.external_id)
# Of each product its references, by their index on products.
_PRODUCTS: Final = select(
    products,
    select(func.jsonb_agg(aggregate_order_by(func.jsonb_build_array(*_key), *_key)))
    .where(product_references.c.product_id == products.c.product_id)
    .scalar_subquery()
    .label("provider_references"),
)


async def lock_products(connection: AsyncConnection) -> None:
    """Take an advisory lock until the transaction ends, so that changes of products are made one after another."""
    await connection.execute(_LOCK)


async def find_product(connection: AsyncConnection, *, product_id: str = "", product_code: str = "") -> Product | None:
    """Return the product of an id, or else of a code; by primary key or by the unique key on codes."""
    named = products.c.product_id == product_id if product_id else products.c.product_code == product_code
    row = (await connection.execute(_PRODUCTS.where(named))).first()
    return None if row is None else _product(row)


async def list_products(
    connection: AsyncConnection, *, after: Place | None, include_inactive: bool, limit: int
) -> list[Product]:
    """Return products by sort_order and code; by the index on their order."""
    statement = _PRODUCTS.order_by(products.c.sort_order, products.c.product_code).limit(limit)
    if after is not None:
        sort_order, product_code = after
        bound = tuple_(literal(sort_order, products.c.sort_order.type), literal(product_code, products.c.name.type))
        statement = statement.where(tuple_(products.c.sort_order, products.c.product_code) > bound)
    if not include_inactive:
        statement = statement.where(products.c.active, products.c.archive_time.is_(None))
    return [_product(row) for row in await connection.execute(statement)]


async def count_products(connection: AsyncConnection) -> int:
    """Return how many products there are; reads all of them."""
    return int((await connection.execute(select(func.count()).select_from(products))).scalar_one())


async def find_taken(
    connection: AsyncConnection, product_id: str, references: Sequence[ProviderReference]
) -> ProviderReference | None:
    """Return the first of the references that is another product's; by primary key."""
    c = product_references.c
    wanted = [(one.provider, one.kind, one.external_id) for one in references]
    statement = (
        select(c.provider, c.kind, c.external_id)
        .where(tuple_(c.provider, c.kind, c.external_id).in_(wanted), c.product_id != product_id)
        .order_by(c.provider, c.kind, c.external_id)
        .limit(1)
    )
    row = (await connection.execute(statement)).first() if wanted else None
    return None if row is None else ProviderReference(*row)


async def add_product(connection: AsyncConnection, product: Product) -> None:
    """Add a product with its references."""
    await connection.execute(insert(products).values(_values(product)))
    await _replace_references(connection, product)


async def replace_product(connection: AsyncConnection, product: Product) -> None:
    """Change a product and its references; by primary key and the index on products."""
    changed = update(products).where(products.c.product_id == product.product_id)
    await connection.execute(changed.values(_values(product)))
    await _replace_references(connection, product)


async def _replace_references(connection: AsyncConnection, product: Product) -> None:
    await connection.execute(delete(product_references).where(product_references.c.product_id == product.product_id))
    values = [
        {"provider": one.provider, "kind": one.kind, "external_id": one.external_id, "product_id": product.product_id}
        for one in product.provider_references
    ]
    if values:
        await connection.execute(insert(product_references), values)


def _values(product: Product) -> dict[str, object]:
    plain = {name: getattr(product, name) for name in products.c.keys() if hasattr(product, name)}
    return plain | {
        "price_currency_code": product.price.currency_code,
        "price_amount": product.price.value,
        "credits_currency_code": product.credits.currency_code,
        "credits_amount": product.credits.value,
    }


def _product(row: Row[tuple[object, ...]]) -> Product:
    return Product(
        product_id=row.product_id,
        product_code=row.product_code,
        name=row.name,
        description=row.description,
        price=Money(row.price_currency_code, row.price_amount),
        credits=Money(row.credits_currency_code, row.credits_amount),
        expire_after_days=row.expire_after_days,
        priority=row.priority,
        active=row.active,
        sort_order=row.sort_order,
        provider_references=tuple(ProviderReference(*one) for one in row.provider_references or ()),
        revision=row.revision,
        create_time=row.create_time,
        update_time=row.update_time,
        archive_time=row.archive_time,
    )
