"""Envoy's routes: which service gets a call, and what Envoy answers by itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from libs.cli.gateway.descriptors import bindings, services

Json = dict[str, object]

CONTEXTS: Final = ("identity", "billing", "metering")
_ORIGINAL_PATH: Final = "x-envoy-original-path"
"""Where the transcoder keeps the path that it replaces by the name of the RPC."""
_CALL_WITHIN_S: Final = 31
"""Longer than any call may take: rest.lua gives each call its own time."""
_STREAM_WITHIN_S: Final = 1_800
"""Streams of changes end after five minutes; a check of everything that is stored may take longer."""
_NO_SCRIPT: Final[Json] = {
    "envoy.filters.http.lua": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute",
        "disabled": True,
    }
}
"""The script waits for the end of an answer."""


@dataclass(frozen=True, slots=True)
class Page:
    """A file that Envoy answers with by itself, at a path of its own."""

    path: str
    content_type: str
    file: Path
    """Where the file is, for Envoy to read when it starts; at most 8 MiB."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer besides, such as how the file is packed."""


def routes_of(pages: Sequence[Page], *, cross_origin: bool) -> list[Json]:
    """Return the routes in the order in which Envoy tries them."""
    routes: list[Json] = [_alive()]
    routes += [_page(page) for page in pages]
    for service in services():
        routes += _routes_to(service)
    if cross_origin:
        # The filter for pages of other origins looks for the route of the path before it is translated, and passes by
        # paths that lead to no service. Nothing takes this route: the script answers what cannot be translated.
        routes.append({"match": {"prefix": "/v1/"}, "route": {"cluster": CONTEXTS[0]}})
    return routes


def _alive() -> Json:
    """Return the route by which a load balancer learns that Envoy runs. It says nothing of the services."""
    return {
        "match": {"path": "/healthz"},
        "direct_response": {"status": 200, "body": {"inline_string": "ok\n"}},
        "typed_per_filter_config": _NO_SCRIPT,
    }


def _page(page: Page) -> Json:
    headers = {"content-type": page.content_type, **page.headers}
    return {
        "match": {"path": page.path},
        "direct_response": {"status": 200, "body": {"filename": str(page.file)}},
        "response_headers_to_add": [
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for name, value in headers.items()
        ],
        "typed_per_filter_config": _NO_SCRIPT,
    }


def _routes_to(service: ServiceDescriptor) -> Iterator[Json]:
    for context in _contexts_of(service):
        came_by: list[Json] = [{"name": _ORIGINAL_PATH, "string_match": {"prefix": f"/v1/{context}/"}}]
        if len(_contexts_of(service)) == 1:
            # Only what the transcoder has translated has this header: gRPC itself goes to the services directly.
            came_by = [{"name": _ORIGINAL_PATH, "present_match": True}]
        for method in service.methods:
            if method.server_streaming and bindings(method):
                path = f"/{service.full_name}/{method.name}"
                match: Json = {"path": path, "headers": came_by}
                yield _stream(match, context)
        yield {
            "match": {"prefix": f"/{service.full_name}/", "headers": came_by},
            "route": {"cluster": context, "timeout": f"{_CALL_WITHIN_S}s"},
        }


def _stream(match: Json, context: str) -> Json:
    return {
        "match": match,
        "route": {
            "cluster": context,
            "timeout": "0s",
            "max_stream_duration": {
                "max_stream_duration": f"{_STREAM_WITHIN_S}s",
                "grpc_timeout_header_max": f"{_STREAM_WITHIN_S}s",
            },
        },
        "typed_per_filter_config": _NO_SCRIPT,
    }


def _contexts_of(service: ServiceDescriptor) -> Sequence[str]:
    """Return the contexts that serve a service. Of a common one, the first part of its paths tells them."""
    package = service.file.package.split(".")[1]
    if package in CONTEXTS:
        return (package,)
    named = {context for method in service.methods for context in CONTEXTS if _is_of(context, method)}
    # Identity alone knows whose a credential is.
    return tuple(context for context in CONTEXTS if context in named) or ("identity",)


def _is_of(context: str, method: MethodDescriptor) -> bool:
    return any(one.path.startswith(f"/v1/{context}/") for one in bindings(method))
