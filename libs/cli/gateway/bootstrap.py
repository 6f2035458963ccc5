"""Writes Envoy's configuration: REST on one port, gRPC to the three services."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from libs.cli.gateway.descriptors import services
from libs.cli.gateway.replies import local_replies
from libs.cli.gateway.routes import Page, routes_of
from libs.cli.gateway.script import REQUEST_BYTES_MAX, script
from libs.common.channel import ClientTls

Json = dict[str, object]

_TYPES: Final = "type.googleapis.com/envoy."
_ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
"""The largest answer as JSON; as a message it is 4 MiB at most."""
_PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
_HEADERS_KB_MAX: Final = 12
"""The services take 16 KiB of metadata."""
_CONNECTIONS_MAX: Final = 4_096


@dataclass(frozen=True, slots=True)
class Gateway:
    """What a gateway is to be like."""

    targets: Mapping[str, tuple[str, int]]
    """The address and port of each service, by its context."""
    descriptors_file: Path
    """Where the descriptor set is, for Envoy to read."""
    host: str = "127.0.0.1"
    port: int = 8080
    tls: ClientTls | None = None
    """The files with which Envoy calls the services; None for plain text."""
    allowed_origins: Sequence[str] = ()
    """The origins of web pages that browsers let call the gateway, such as `https://app.example.com`."""
    trusted_proxies: int = 0
    """How many proxies stand before the gateway. With none, `x-forwarded-for` of a caller is not believed."""
    pages: Sequence[Page] = field(default=())
    """Files that Envoy answers with by itself, such as those of a page about the API."""


def bootstrap(gateway: Gateway) -> Json:
    """Return the configuration, as Envoy reads it from YAML or JSON. There is no administration port in it."""
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "rest",
                    "address": _address(gateway.host, gateway.port),
                    # A body is held until it is checked. The transcoder raises the limit for answers.
                    "per_connection_buffer_limit_bytes": REQUEST_BYTES_MAX,
                    "filter_chains": [{"filters": [_connection_manager(gateway)]}],
                }
            ],
            "clusters": [_cluster(name, *target, gateway.tls) for name, target in gateway.targets.items()],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": _typed(
                        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        {"max_active_downstream_connections": _CONNECTIONS_MAX},
                    ),
                }
            ]
        },
    }


def _connection_manager(gateway: Gateway) -> Json:
    settings: Json = {
        "stat_prefix": "rest",
        "codec_type": "AUTO",
        # Callers' own `x-forwarded-for` is removed below, unless proxies stand before the gateway.
        "use_remote_address": True,
        "xff_num_trusted_hops": gateway.trusted_proxies,
        # Nobody may steer Envoy by headers. Without a range it would trust loopback and private networks; nobody can
        # call from this one.
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        "early_header_mutation_extensions": [_without_headers(gateway)],
        # Paths are left as they are sent: `a/../b` and `a//b` are ids of operations.
        "normalize_path": False,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "max_request_headers_kb": _HEADERS_KB_MAX,
        "request_headers_timeout": "10s",
        "request_timeout": "60s",
        "stream_idle_timeout": "60s",
        "common_http_protocol_options": {
            "idle_timeout": "300s",
            "max_headers_count": 100,
            "headers_with_underscores_action": "DROP_HEADER",
        },
        # Nothing here is spoken but HTTP. Else Envoy would wait for more of a request that asks to upgrade.
        "http_protocol_options": {"ignore_http_11_upgrade": [{"safe_regex": {"regex": ".*"}}]},
        "http2_protocol_options": {"max_concurrent_streams": 100},
        "local_reply_config": local_replies(),
        "route_config": _route_configuration(gateway),
        "http_filters": [*_cross_origin(gateway), _lua(), _transcoder(gateway), _router()],
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": _typed("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", settings),
    }


def _without_headers(gateway: Gateway) -> Json:
    """Remove what only Envoy may say to the services, and what gRPC would choke on."""
    removed: list[Json] = [
        {"remove_on_match": {"key_matcher": {"prefix": "grpc-"}}},
        {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
        # gRPC reads these as base64, and ends the call where they are something else.
        {"remove_on_match": {"key_matcher": {"suffix": "-bin"}}},
        # HTTP allows more characters in a name than gRPC, which ends the call as INTERNAL.
        {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": ".*[^:a-z0-9_.-].*"}}}},
    ]
    if not gateway.trusted_proxies:
        removed.append({"remove": "x-forwarded-for"})
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": _typed(
            "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation", {"mutations": removed}
        ),
    }


def _route_configuration(gateway: Gateway) -> Json:
    host: Json = {
        "name": "rest",
        "domains": ["*"],
        "routes": routes_of(gateway.pages, cross_origin=bool(gateway.allowed_origins)),
        # The services need none of these.
        "request_headers_to_remove": [
            *("x-envoy-original-path", "x-envoy-original-method", "x-envoy-external-address"),
            *("x-timeout-ms", "cookie"),
        ],
        "response_headers_to_remove": ["grpc-accept-encoding"],
        "response_headers_to_add": [
            _header("x-content-type-options", "nosniff"),
            _header("cache-control", "no-store"),
        ],
    }
    if gateway.allowed_origins:
        host["typed_per_filter_config"] = {
            "envoy.filters.http.cors": _typed(
                "extensions.filters.http.cors.v3.CorsPolicy",
                {
                    "allow_origin_string_match": [{"exact": origin} for origin in gateway.allowed_origins],
                    "allow_methods": "GET, POST, PUT, PATCH, DELETE",
                    "allow_headers": "authorization, content-type, x-timeout-ms",
                    "expose_headers": "retry-after, ratelimit, ratelimit-policy",
                    "max_age": "600",
                },
            )
        }
    return {"virtual_hosts": [host], "max_direct_response_body_size_bytes": _PAGE_BYTES_MAX}


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "ADD_IF_ABSENT"}


def _cross_origin(gateway: Gateway) -> list[Json]:
    if not gateway.allowed_origins:
        return []
    return [
        {"name": "envoy.filters.http.cors", "typed_config": _typed("extensions.filters.http.cors.v3.Cors", {})},
    ]


def _lua() -> Json:
    source = {"inline_string": script()}
    return {
        "name": "envoy.filters.http.lua",
        "typed_config": _typed("extensions.filters.http.lua.v3.Lua", {"default_source_code": source}),
    }


def _transcoder(gateway: Gateway) -> Json:
    settings: Json = {
        "proto_descriptor": str(gateway.descriptors_file),
        "services": [service.full_name for service in services()],
        "convert_grpc_status": True,
        # An id may hold any visible character, so everything in a path may be percent-encoded.
        "url_unescape_spec": "ALL_CHARACTERS",
        "request_validation_options": {
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
        "print_options": {"stream_newline_delimited": True},
        "max_request_body_size": REQUEST_BYTES_MAX,
        "max_response_body_size": _ANSWER_BYTES_MAX,
    }
    return {
        "name": "envoy.filters.http.grpc_json_transcoder",
        "typed_config": _typed("extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder", settings),
    }


def _router() -> Json:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": _typed("extensions.filters.http.router.v3.Router", {"suppress_envoy_headers": True}),
    }


def _cluster(name: str, host: str, port: int, tls: ClientTls | None) -> Json:
    endpoint = {"endpoint": {"address": _address(host, port)}}
    cluster: Json = {
        "name": name,
        "type": "STATIC" if _is_address(host) else "STRICT_DNS",
        "connect_timeout": "2s",
        "per_connection_buffer_limit_bytes": _ANSWER_BYTES_MAX,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _typed(
                "extensions.upstreams.http.v3.HttpProtocolOptions",
                {"explicit_http_config": {"http2_protocol_options": {}}},
            )
        },
    }
    return cluster | ({"transport_socket": _transport(host, tls)} if tls else {})


def _transport(host: str, tls: ClientTls) -> Json:
    """Return mutual TLS: the service's certificate must be of the authority, and for the host."""
    is_address = _is_address(host)
    name = {"san_type": "IP_ADDRESS" if is_address else "DNS", "matcher": {"exact": host}}
    context: Json = {
        "alpn_protocols": ["h2"],
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(tls.certificate_file)},
                "private_key": {"filename": str(tls.key_file)},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(tls.server_ca_file)},
            "match_typed_subject_alt_names": [name],
        },
    }
    settings: Json = {"common_tls_context": context} | ({} if is_address else {"sni": host})
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": _typed("extensions.transport_sockets.tls.v3.UpstreamTlsContext", settings),
    }


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _typed(name: str, settings: Json) -> Json:
    return {"@type": _TYPES + name, **settings}
