"""`tollhouse payment`: products, payments, refunds and policies of top-ups."""

from libs.common.ids import new_id
from tests.system.commands import found, made, refused
from tests.system.installation import Installation, create_organization_and_owner


async def test_products_payments_and_refunds_are_made_and_found(installation: Installation) -> None:
    async with installation.connection().open() as channels:
        org, anna = await create_organization_and_owner(channels)
    code, order = f"pack-{new_id()}", f"bank:ORDER:{new_id()}"
    pack = made(
        installation, "payment", "products", "create", code, "A pack", "--price", "10USD", "--credits", "1000CREDIT"
    )
    assert code in {one["product_code"] for one in found(installation, "payment", "products", "list")}
    terms = ("--reason", "bank transfer", "--type", "credit-pack", "--product", code, "--reference", order)
    paid = made(installation, "payment", "record", org, "10", "USD", *terms, "--user", anna)
    assert paid["awarded_credits"] == pack["credits"]
    for filters in (("--user", anna), ("--status", "completed"), ("--reference", order)):
        (one,) = found(installation, "payment", "list", org, *filters)
        assert one["payment_id"] == paid["payment_id"]
    assert made(installation, "payment", "find", order) == paid
    back = ("--request", "back", "--reason", "asked for", "--amount", "4USD", "--yes")
    refunded = made(installation, "payment", "refund", org, paid["payment_id"], *back)
    assert "400" in str(refunded["taken_back_amount"])
    assert made(installation, "payment", "get", org, paid["payment_id"]) == refunded
    goodwill = ("--reason", "goodwill", "--brings", "credits", "--credits", "50CREDIT", "--type", "adjustment")
    given = made(installation, "payment", "record", org, "1", "USD", *goodwill)
    assert str(given["awarded_credits"]) == "{'currency_code': 'CREDIT', 'value': '50'}"
    assert made(installation, "payment", "products", "archive", code, "--yes")["archive_time"]


def test_top_up_policy_that_is_not_there_or_cannot_be_is_refused_in_one_line(installation: Installation) -> None:
    org = new_id()
    assert "no such top-up policy" in refused(installation, 1, "payment", "top-up", "get", org)
    terms = ("--below", "5USD", "--amount", "20USD")
    assert "stripe" in refused(installation, 1, "payment", "top-up", "set", org, *terms, "--provider", "stripe")
    assert "threshold" in refused(installation, 2, "payment", "top-up", "set", org)
