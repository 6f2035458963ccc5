"""Documents are printed as HTML and PDF: whole, with numbered pages, in any script, and with no text read as markup."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import psutil
import pypdfium2
import pytest

from libs.common.errors import Overloaded
from libs.common.ids import new_id
from services.billing import invoice_errors
from services.billing.invoice.domain import Document, Line, LineKind, Party, Quantity, State, Tax
from services.billing.invoice.printing import printer as printing
from services.billing.invoice.printing.printer import Format, Printer
from services.billing.invoice.printing.view import money
from services.billing.invoice.printing.words import WORDS
from tests.billing.test_invoice_rules import NOW, invoice_of

HOSTILE = "<script>alert(1)</script> #panic() $x$ \\ \" ' @a [b] *c* _d_ `e` ../.. \u202e"
SCRIPTS = (
    "شركة الأمل للتجارة",
    "חברת השלום בע״מ",
    "株式会社日本",
    "深圳市科技有限公司",
    "주식회사 한국",
    "Ελληνική",
    "ООО Ромашка",  # noqa: RUF001 -- it is Cyrillic.
)


@pytest.fixture
async def printer() -> AsyncIterator[Printer]:
    printer = Printer()
    yield printer
    await printer.close()


def long_invoice(count: int, name: str = "Acme") -> Document:
    """An invoice with many lines of usage."""
    lines = tuple(
        Line(
            number,
            LineKind.USAGE,
            f"provider/model-with-a-long-name-{number}",
            NOW,
            NOW,
            Decimal("123456789.123456789"),
            quantities=(Quantity("input", Decimal(123_456_789), ("3 per 1000000",)), Quantity("output", Decimal(7))),
            model=f"provider/model-with-a-long-name-{number}",
            service_tier="batch",
        )
        for number in range(1, count + 1)
    )
    plain = invoice_of([line.amount for line in lines], "19")
    return replace(plain, lines=lines, recipient=Party(name, ("Street 1",)), tax=Tax("19", "DE"))


def text_of(pdf: bytes) -> list[str]:
    """The text of each page."""
    document = pypdfium2.PdfDocument(pdf)
    try:
        return [page.get_textpage().get_text_range() for page in document]
    finally:
        document.close()


async def test_pdf_of_two_hundred_lines_takes_less_than_a_second_and_holds_up_nothing(printer: Printer) -> None:
    await printer.print(invoice_of([Decimal(1)], ""), Format.PDF)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    began = time.thread_time(), time.monotonic()
    page = await printer.print(long_invoice(200), Format.PDF)
    took_s = time.monotonic() - began[1]
    ticking.cancel()
    pages = text_of(page.data)
    assert page.content_type == "application/pdf"
    assert all(f"Page {number} of {len(pages)}" in text for number, text in enumerate(pages, start=1))
    assert len(pages) > 3
    assert ticks > 10
    assert took_s < 10, "a second on an idle machine; `make bench` measures it"
    everything = "".join(pages).replace("\u202f", " ").replace("\u00a0", " ").replace("\u200b", "")
    assert "model-with-a-long-name-200" in everything.replace("\r\n", "")
    assert "24 691 357 824.6913578 USD" in everything


@pytest.mark.parametrize("name", [*SCRIPTS, "W" * 256, HOSTILE])
async def test_any_name_is_printed_as_it_is(printer: Printer, name: str) -> None:
    document = replace(invoice_of([Decimal("1.5")], ""), recipient=Party(name, (name,)), issuer=Party(name))
    html = (await printer.print(document, Format.HTML)).data.decode()
    assert "<script>" not in html
    (text,) = text_of((await printer.print(document, Format.PDF)).data)
    shown = {character for character in text if not character.isspace()}
    letters = {character for character in name if character.isalpha() and character.isascii()}
    assert letters <= shown


async def test_no_word_leaves_the_page_however_long_it_is(printer: Printer) -> None:
    word, amount = "W" * 256, Decimal("999999999999999.999999999")
    line = Line(1, LineKind.CHARGE, word, NOW, NOW, amount)
    document = replace(
        invoice_of([amount], "19"),
        lines=(line,),
        issuer=Party(word, (word,), (word,), word),
        recipient=Party(word, (word,), (word,), word),
        tax=Tax("19", word, word),
        footer=word,
    )
    pdf = pypdfium2.PdfDocument((await printer.print(document, Format.PDF)).data)
    edges = []
    for page in pdf:
        text = page.get_textpage()
        boxes = [text.get_charbox(index) for index in range(text.count_chars())]
        edges += [min(box[0] for box in boxes), page.get_width() - max(box[2] for box in boxes)]
    pdf.close()
    assert min(edges) > 0


async def test_name_runs_in_the_direction_of_its_first_letter(printer: Printer) -> None:
    lefts = []
    for name in ("חברה (Hope) 7", "Hope (חברה) 7"):
        document = replace(invoice_of([Decimal(1)], ""), recipient=Party(name), issuer=Party("A"))
        page = pypdfium2.PdfDocument((await printer.print(document, Format.PDF)).data)[0].get_textpage()
        text = page.get_text_range()
        lefts.append([page.get_charbox(text.index(character))[0] for character in ("7", "H", "ח")])
    (seven, latin, hebrew), (last, first, middle) = lefts
    assert seven < latin < hebrew
    assert first < middle < last


async def test_place_of_the_tax_is_printed_also_without_a_rate(printer: Printer) -> None:
    document = replace(invoice_of([Decimal(1)], ""), tax=Tax("", "Atlantis"))
    assert "Tax Atlantis" in (await printer.print(document, Format.HTML)).data.decode()


async def test_text_is_never_markup(printer: Printer) -> None:
    line = Line(1, LineKind.CHARGE, HOSTILE, NOW, NOW, Decimal(1))
    document = replace(invoice_of([Decimal(1)], ""), lines=(line,), footer=HOSTILE, tax=Tax("", "", HOSTILE))
    html = (await printer.print(document, Format.HTML)).data.decode()
    assert html.count("&lt;script&gt;") == 3
    (text,) = text_of((await printer.print(document, Format.PDF)).data)
    assert "#panic()" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0.00 USD"),
        ("1234567.5", "1 234 567.50 USD"),
        ("-0.000000001", "\N{MINUS SIGN}0.000000001 USD"),
        ("999999999999999.999999999", "999 999 999 999 999.999999999 USD"),
    ],
)
def test_amounts_lose_no_digit(value: str, text: str) -> None:
    assert money("USD", Decimal(value)).replace("\u202f", " ").replace("\u00a0", " ") == text


async def test_each_language_has_every_word_and_state_is_stamped(printer: Printer) -> None:
    plain = invoice_of([Decimal(1)], "20")
    for language, words in WORDS.items():
        document = replace(plain, language=language, state=State.VOID)
        html = (await printer.print(document, Format.HTML)).data.decode()
        assert all(words[key] in html for key in ("invoice", "void", "total", "amount_due", "description"))


async def test_pdf_without_what_makes_it_is_refused_and_html_is_not(
    printer: Printer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printing, "_FONT_PACKAGES", ("no_such_font",))
    printing._fonts.cache_clear()
    document = invoice_of([Decimal(1)], "")
    with pytest.raises(invoice_errors.PdfNotInstalled):
        await printer.print(document, Format.PDF)
    assert (await printer.print(document, Format.HTML)).data
    monkeypatch.undo()
    printing._fonts.cache_clear()


async def test_text_that_typst_cannot_lay_out_is_refused_with_a_reason_and_printed_as_html(printer: Printer) -> None:
    name = "\u05d0-\u200d\U0001f373\u200c"
    document = replace(invoice_of([Decimal(1)], ""), recipient=Party(name))
    with pytest.raises(invoice_errors.PdfNotPossible):
        await printer.print(document, Format.PDF)
    assert name in (await printer.print(document, Format.HTML)).data.decode()
    assert (await printer.print(invoice_of([Decimal(1)], ""), Format.PDF)).data


async def test_memory_does_not_grow_with_the_number_of_long_documents(printer: Printer) -> None:
    """Typst keeps what it has worked out for the last documents, which is 100 MB for each of a thousand lines."""
    process = psutil.Process()
    await printer.print(long_invoice(150), Format.PDF)
    before = process.memory_info().rss
    for number in range(3):
        await printer.print(long_invoice(150, f"Acme {number}"), Format.PDF)
    assert process.memory_info().rss - before < 20_000_000


async def test_organization_that_asks_for_many_documents_keeps_no_other_from_its_own(printer: Printer) -> None:
    many, other = invoice_of([Decimal(1)], ""), replace(invoice_of([Decimal(1)], ""), organization_id=new_id())
    answers = await asyncio.gather(
        *(printer.print(many, Format.HTML) for _ in range(100)),
        printer.print(other, Format.HTML),
        return_exceptions=True,
    )
    refused = [isinstance(answer, Overloaded) for answer in answers]
    assert (sum(refused), refused[-1]) == (92, False)
    assert await printer.print(many, Format.HTML)


async def test_document_that_fits_into_no_answer_is_refused_with_a_reason(printer: Printer) -> None:
    # A thousand lines can have as many different characters.
    every = "".join(map(chr, range(0x4E00, 0xA000)))
    document = replace(invoice_of([Decimal(1)], ""), recipient=Party("A", (every,)))
    with pytest.raises(invoice_errors.DocumentTooLarge):
        await printer.print(document, Format.PDF)
    assert await printer.print(document, Format.HTML)
