"""`tollhouse invoice`, and the link of an invoice through the gateway."""

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation, create_organization
from tollhouse.billing.v1 import ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount


async def charged(installation: Installation) -> str:
    """An organization with a charge of 3."""
    amount = Amount(currency_code="USD", value="3")
    async with installation.connection().open() as channels:
        org = await create_organization(channels)
        ledger = ledger_pb2_grpc.LedgerServiceStub(channels.billing)
        await ledger.Credit(ledger_pb2.CreditRequest(organization_id=org, operation_id="top-up", amount=amount))
        debit = ledger_pb2.DebitRequest(organization_id=org, operation_id="work", amount=amount, description="Work")
        await ledger.Debit(debit)
    return org


async def test_invoice_is_issued_shown_printed_and_voided(installation: Installation, tmp_path: Path) -> None:
    org = await charged(installation)
    issuer = made(
        installation, "invoice", "issuer", "--name", "Tollhouse Inc.", "--prefix", "CMD-", "--address", "1 Road"
    )
    assert issuer["prefix"] == "CMD-"
    assert "Tollhouse Inc." in done(installation, "invoice", "issuer")
    assert "automatic_since_time" not in issuer
    by_itself = made(installation, "invoice", "issuer", "--name", "Tollhouse Inc.", "--prefix", "CMD-", "--automatic")
    assert by_itself["automatic_since_time"]
    draft = made(installation, "invoice", "preview", org, "--until", "0m")
    assert draft["state"] == "INVOICE_STATE_DRAFT"
    issued = made(installation, "invoice", "issue", org, "--until", "0m", "--request", "one")
    assert [one["number"] for one in found(installation, "invoice", "list", org)] == [issued["number"]]
    shown = done(installation, "invoice", "get", org, issued["invoice_id"])
    assert issued["number"] in shown
    assert "Work" in shown
    file = tmp_path / "invoice.pdf"
    done(installation, "invoice", "render", org, issued["invoice_id"], "--pdf", "--out", str(file))
    assert file.read_bytes().startswith(b"%PDF-")
    assert done(installation, "invoice", "render", org, issued["invoice_id"]).startswith("<!DOCTYPE html>")
    assert "cannot be written" in refused(
        installation, 2, "invoice", "render", org, issued["invoice_id"], "--out", str(tmp_path / "no" / "where")
    )
    voided = made(installation, "invoice", "void", org, issued["invoice_id"], "--reason", "a test", "--yes")
    assert voided["state"] == "INVOICE_STATE_VOID"
    assert voided["credit_note"].startswith("CMD-")


async def test_invoice_is_credited_given_up_and_paid_after_all(installation: Installation) -> None:
    org = await charged(installation)
    made(installation, "invoice", "issuer", "--name", "Tollhouse Inc.", "--prefix", "CMD-")
    recipient = ("invoice", "recipient", org)
    shown = json.loads(
        done(installation, *recipient, "--name", "Acme", "--address", "2 Road", "--tax-percent", "20", "--json")
    )
    assert (shown["party"]["name"], shown["tax_percent"]) == ("Acme", "20")
    changed = json.loads(
        done(installation, *recipient, "--address", "3 Road", "--address", "Town", "--by-hand", "--json")
    )
    assert (changed["party"]["name"], changed["party"]["address_lines"]) == ("Acme", ["3 Road", "Town"])
    assert (changed["tax_percent"], changed["by_hand"]) == ("20", True)
    assert "Acme" in done(installation, "invoice", "recipient", org)
    issued = made(installation, "invoice", "issue", org, "--until", "0m")
    one = (org, issued["invoice_id"])
    for wrong in ("x", "0", "²", "1=", "1=x", "1=0.5EUR", "9" * 30):
        tried = installation.command("invoice", "credit", *one, "--reason", "a test", "--line", wrong, "--yes")
        assert tried.returncode in (1, 2), (wrong, tried.stdout)
        assert "Traceback" not in tried.stderr
    credit = ("invoice", "credit", *one, "--reason", "a test", "--yes", "--json")
    note = json.loads(done(installation, *credit, "--line", "1=0.50 USD"))
    assert note["kind"] == "INVOICE_KIND_CREDIT_NOTE"
    assert note["total"] == {"currency_code": "USD", "value": "0.6"}
    given_up = made(installation, "invoice", "uncollectible", *one, "--reason", "a test", "--yes")
    assert given_up["state"] == "INVOICE_STATE_UNCOLLECTIBLE"
    paid = made(installation, "invoice", "paid", *one, "--operation", "top-up")
    assert paid["state"] == "INVOICE_STATE_PAID"
    assert json.loads(done(installation, *credit))["credited"] == "3.6 USD"


async def test_link_opens_the_document_through_the_gateway_until_it_is_changed(installation: Installation) -> None:
    org = await charged(installation)
    made(installation, "invoice", "issuer", "--name", "Tollhouse Inc.", "--prefix", "CMD-")
    issued = made(installation, "invoice", "issue", org, "--until", "0m")
    url = made(installation, "invoice", "get", org, issued["invoice_id"])["invoice_url"]
    assert url.startswith(json.loads(installation.ready_file.read_text())["gateway"] + "/v1/invoice-links/")
    assert issued["number"] in (await opened(url, "text/html; charset=utf-8")).decode()
    assert (await opened(f"{url}?format=INVOICE_FORMAT_PDF", "application/pdf")).startswith(b"%PDF-")
    changed = url[:-1] + ("A" if url[-1] != "A" else "B")
    for wrong in (changed, url[:-4], url.rpartition("/")[0] + "/none"):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            await opened(wrong, "")
        assert refusal.value.code == 404
        assert "LINK_NOT_VALID" in refusal.value.read().decode()


async def opened(url: str, content_type: str) -> bytes:
    """The file at an address, as a browser gets it."""

    def read() -> bytes:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 -- the gateway's address.
            assert answer.headers["content-type"] == content_type
            data: bytes = answer.read()
            return data

    return await asyncio.to_thread(read)
