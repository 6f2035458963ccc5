"""Makes pages and PDFs of documents, in threads of their own, so that nothing else waits for them."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from libs.common.errors import Overloaded
from libs.common.server import SEND_MAX_BYTES
from services.billing import invoice_errors
from services.billing.invoice.domain import Document
from services.billing.invoice.printing.view import Printed, printed

if TYPE_CHECKING:
    import jinja2

_FOLDER: Final = Path(__file__).parent
_AT_ONCE: Final = 2
_WAITING_MAX: Final = 64
"""How many documents wait at most; a further one is refused at once as overloaded."""
_WAITING_OF_ONE_MAX: Final = 8
"""How many of these are of one organization."""
_BYTES_MAX: Final = SEND_MAX_BYTES - 1_024
"""How large a document may be, so that the answer with it can be sent."""
_LONG: Final = 50
"""From how many lines on a document is long."""
_FORGOTTEN_AFTER: Final = 10
"""After how many further documents typst forgets what it has worked out for one, some 100 kB for each line."""
_FONT_PACKAGES: Final = ("fontpkg_noto_sans", "fontpkg_noto_sans_arabic", "fontpkg_heebo", "noto_cjk_sans_otc")


class Format(StrEnum):
    """In which form a document is."""

    HTML = "HTML"
    PDF = "PDF"


class Page(NamedTuple):
    """A document as it is sent."""

    content_type: str
    data: bytes


class _Typst(Protocol):
    """What is used of the package `typst`, which an installation may lack."""

    def compile(self, source: bytes, *, font_paths: object, sys_inputs: dict[str, str]) -> bytes:
        """Return the PDF of a source."""

    def Fonts(  # noqa: N802 -- it is a class.
        self, *, include_system_fonts: bool, include_embedded_fonts: bool, font_paths: list[str]
    ) -> object:
        """Return fonts that were read."""


class Printer:
    """Prints documents, two at a time."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="printing")
        self._waiting: Counter[str] = Counter()
        """By organization."""

    async def print(self, document: Document, form: Format) -> Page:
        """Return a document in a form.

        Raises:
            PdfNotInstalled: the extra `invoices` is not installed.
            PdfNotPossible: typst cannot lay out a text of it.
            DocumentTooLarge: it does not fit into an answer.
            Overloaded: too many documents wait, of all or of the organization.
        """
        of = document.organization_id
        if self._waiting.total() >= _WAITING_MAX or self._waiting[of] >= _WAITING_OF_ONE_MAX:
            raise Overloaded
        make: Callable[[Printed], Page] = _html if form is Format.HTML else _pdf
        self._waiting[of] += 1
        try:
            loop = asyncio.get_running_loop()
            page = await loop.run_in_executor(self._threads, lambda: make(printed(document)))
        finally:
            self._waiting[of] -= 1
            if not self._waiting[of]:
                del self._waiting[of]
        if len(page.data) > _BYTES_MAX:
            raise invoice_errors.DocumentTooLarge(bytes=len(page.data), max_bytes=_BYTES_MAX)
        return page

    async def close(self) -> None:
        """Let the documents that are being printed end, and no further ones begin."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)


def _html(view: Printed) -> Page:
    return Page("text/html; charset=utf-8", _template().render(view=view).encode())


@cache
def _template() -> "jinja2.Template":
    # Only where a document is printed.
    import jinja2

    loader = jinja2.FileSystemLoader(_FOLDER)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "document.html"
    )


def _pdf(view: Printed) -> Page:
    typst, fonts = _typst(), _fonts()
    source, told = (_FOLDER / "document.typ").read_bytes(), json.dumps(view.as_json())
    try:
        compiled = typst.compile(source, font_paths=fonts, sys_inputs={"view": told})
    except BaseException as error:
        # A panic of typst is no Exception, and would pass by whatever keeps errors of ours from callers.
        if isinstance(error, Exception):
            raise
        raise invoice_errors.PdfNotPossible from None
    if len(view.lines) >= _LONG:
        for _ in range(_FORGOTTEN_AFTER):
            typst.compile(b"", font_paths=fonts, sys_inputs={})
    return Page("application/pdf", compiled)


@cache
def _typst() -> _Typst:
    try:
        typst: _Typst = import_module("typst")
    except ImportError:
        raise invoice_errors.PdfNotInstalled from None
    return typst


@cache
def _fonts() -> object:
    """Return the fonts, which are packages of their own; reading them takes longer than a short document."""
    found = [find_spec(name) for name in _FONT_PACKAGES]
    if any(spec is None or spec.origin is None for spec in found):
        raise invoice_errors.PdfNotInstalled
    folders = [str(Path(spec.origin).parent) for spec in found if spec is not None and spec.origin is not None]
    return _typst().Fonts(include_system_fonts=False, include_embedded_fonts=True, font_paths=folders)
