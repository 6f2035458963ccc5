"""Links to invoices: each opens its document and no other, and nothing but the link itself does."""

from datetime import UTC, datetime, timedelta

import pytest

from libs.common.ids import new_id
from services.billing.invoice.links import Links, Target
from services.billing.invoice_errors import LinkNotValid

NOW = datetime(2026, 11, 27, tzinfo=UTC)
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def links(secret: bytes = b"s" * 32) -> Links:
    return Links(secret, base_url="https://pay.example/", lifetime_s=3600)


def test_link_opens_its_document_until_it_expires() -> None:
    target = Target(new_id(), new_id())
    url, expires = links().url(target, NOW)
    link = url.removeprefix("https://pay.example/v1/invoice-links/")
    assert links().read_link(link, expires - timedelta(microseconds=1)) == target
    with pytest.raises(LinkNotValid):
        links().read_link(link, expires)


def test_link_with_another_character_anywhere_opens_nothing() -> None:
    link = links().url(Target(new_id(), new_id()), NOW)[0].rpartition("/")[2]
    changed = [link[:place] + one + link[place + 1 :] for place in range(len(link)) for one in CHARACTERS]
    for wrong in (*(one for one in changed if one != link), link[:-1], link + "A", link + "=", "", "\x00", "é"):
        with pytest.raises(LinkNotValid):
            links().read_link(wrong, NOW)
    with pytest.raises(LinkNotValid):
        links(b"t" * 32).read_link(link, NOW)
