"""The page about the API, and the OpenAPI document that it shows: the files that Envoy answers with by itself."""

from pathlib import Path
from typing import Final

from libs.cli.gateway.routes import Page
from tollhouse.common.v1 import access_pb2

_FOLDER: Final = Path(__file__).parent
# The page can ask nothing but the gateway, whatever a comment of a proto holds.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def api_pages() -> tuple[Page, ...]:
    """Return the files, each with its path."""
    document = Path(access_pb2.__file__).parents[2] / "openapi.json"
    return (
        Page("/docs", "text/html; charset=utf-8", _FOLDER / "index.html", {"content-security-policy": _POLICY}),
        Page("/docs/start.js", "text/javascript; charset=utf-8", _FOLDER / "start.js"),
        Page(
            "/docs/scalar.js", "text/javascript; charset=utf-8", _FOLDER / "scalar.js.gz", {"content-encoding": "gzip"}
        ),
        Page("/openapi.json", "application/json", document),
    )
