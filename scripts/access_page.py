"""Writes docs/access.md: who may call each RPC, from what the protos declare.

Without arguments it writes the page. With `--check` it changes nothing and fails if the committed page is not up to
date. It fails in both cases if an RPC declares no access.
"""

import importlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from scripts.written_page import write_or_check
from tollhouse.common.v1 import access_pb2

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PAGE = ROOT / "docs" / "access.md"
ORGANIZATION_ROLES = ("owner", "admin", "member", "billing", "viewer")
PROJECT_ROLES = ("admin", "member")
NOBODY = "-"
COLUMNS = (
    *("RPC", "operators", "services", *ORGANIZATION_ROLES),
    *(*(f"project {role}" for role in PROJECT_ROLES), "themselves", "scope of keys"),
)
INTRODUCTION = """\
# Who may call what

This page is written by `make protos` from the `access` option that every RPC declares in its proto, and from the
holders that every scope declares in [access.proto](../protos/tollhouse/common/v1/access.proto). Whatever is not allowed
here is refused, and a service does not start if one of its RPCs declares no access.

**Callers.** Operators and services come with a token that their own key signed (`operator:<name>`,
`service:<name>`). Users come with the access token of a session, or with one of their API keys; service accounts with
an API key. A user whose platform role is `admin` counts as an operator, and one whose platform role is
`admin_readonly` as an operator for RPCs without side effects, both with a session only.

**Scopes.** A role in an organization, or in one of its projects, holds scopes; an RPC asks for one of them in the
organization its request names. The role's column says how far that reaches:

- `all`: everything in the organization;
- `project`: what belongs to the projects in which the caller has the role; the request names one in `project_id`;
- `own`: what belongs to the caller; the request names the caller in `user_id`.

A member of an organization may also have a role in its projects, and holds what both give. At an RPC marked with `*`
the request names only the resource, which determines the project and the owner. So a caller who holds the scope for
some project, or for their own resources, passes the first check, and the service decides once it has read the resource.

**Themselves.** The field of the request that is named there must hold the caller's own id. This needs a session: an API
key cannot act for its owner here.

**Keys.** A key has the rights its owner has at that moment, limited to the scopes it carries and, if it is bound to a
project, to requests that name that project. The last column names the scope it needs. `any` means that every key can
call, `none` that no key can. AcceptInvitation needs a session: the service refuses keys itself.

**Gateways.** `tollhouse:admission` and `tollhouse:usage.write` are held by no role, but by keys of service accounts to
which an operator gave them. Such a key lets a gateway call as a service does, in the organizations that it reaches: its
own, one other, or all ([gateways.md](gateways.md)). RPCs marked `(all organizations)` need a key that reaches all.

**Refusals.** A user or key that does not belong to the organization in the request gets NOT_FOUND, as for an
organization that does not exist. The same holds for another user's id at an RPC for themselves. A caller who belongs to
the organization but lacks the scope gets PERMISSION_DENIED. A caller without valid credentials gets UNAUTHENTICATED,
except at RPCs for `anybody`, which check no credentials.
"""


def main() -> int:
    """Writes or checks the page; returns the exit status."""
    return write_or_check(PAGE, lambda: render(services() + proxy_services()), source="the protos")


def services() -> list[ServiceDescriptor]:
    """Returns every service that our protos declare, in a stable order."""
    return _declared_in((PROTOS / "tollhouse").glob("*/v1/*.proto"))


def proxy_services() -> list[ServiceDescriptor]:
    """Returns the services of Envoy's protocols, which metering has where they are configured."""
    return _declared_in((PROTOS / "envoy" / "service").glob("*/v3/*.proto"))


def _declared_in(paths: Iterable[Path]) -> list[ServiceDescriptor]:
    found: list[ServiceDescriptor] = []
    for path in sorted(paths):
        name = path.relative_to(PROTOS)
        importlib.import_module(".".join(name.with_suffix("").parts) + "_pb2")
        found += descriptor_pool.Default().FindFileByName(name.as_posix()).services_by_name.values()
    return found


def render(found: Iterable[ServiceDescriptor]) -> str:
    """Returns the page."""
    return "\n".join([INTRODUCTION, *scope_lines(), *(line for service in found for line in service_lines(service))])


def scope_lines() -> Iterator[str]:
    """Yields the table of scopes and the roles that hold them."""
    yield from ("## Scopes", "", *_table_head(("scope", "all", "project", "own")))
    for value in access_pb2.Scope.DESCRIPTOR.values:
        if value.number:
            holders = value.GetOptions().Extensions[access_pb2.holders]
            of_projects = [f"project {role}" for role in holders.project_roles]
            held = (["gateways"] if holders.gateways else holders.organization_roles, of_projects, holders.own_roles)
            yield _row([f"`{holders.name}`", *(", ".join(roles) or NOBODY for roles in held)])
    yield ""


def service_lines(service: ServiceDescriptor) -> Iterator[str]:
    """Yields the table of one service."""
    yield from (f"## {service.full_name}", "", *_table_head(COLUMNS))
    yield from (_row(method_cells(method)) for method in service.methods)
    yield ""


def method_cells(method: MethodDescriptor) -> list[str]:
    """Returns the cells of one RPC's row.

    Raises:
        ValueError: the RPC declares no access.
    """
    access = method.GetOptions().Extensions[access_pb2.access]
    roles = len(ORGANIZATION_ROLES) + len(PROJECT_ROLES)
    if access.public:
        return [f"{method.name} (anybody)", *["all"] * (2 + roles), NOBODY, "any"]
    if not (
        access.operators or access.services or access.scope or access.self_field or access.users or access.gateway_scope
    ):
        raise ValueError(f"{method.full_name} declares no access")
    if access.gateway_scope:
        reaches, scope = [NOBODY] * roles, _gateway_scope(access)
    elif access.scope:
        holders = access_pb2.Scope.DESCRIPTOR.values_by_number[access.scope].GetOptions().Extensions[access_pb2.holders]
        reaches, scope = _reaches(method, holders), f"`{holders.name}`"
    else:
        reaches, scope = ["all" if access.users else NOBODY] * roles, "any" if access.users else "none"
    return [
        method.name + (" *" if access.by_resource else ""),
        "all" if access.operators else NOBODY,
        "all" if "*" in access.services else ", ".join(access.services) or NOBODY,
        *reaches,
        f"`{access.self_field}`" if access.self_field else NOBODY,
        scope,
    ]


def _gateway_scope(access: access_pb2.Access) -> str:
    """Returns the scope that lets keys of gateways in, with a mark where it must hold in all organizations."""
    value = access_pb2.Scope.DESCRIPTOR.values_by_number[access.gateway_scope]
    name = value.GetOptions().Extensions[access_pb2.holders].name
    return f"`{name}`" + (" (all organizations)" if access.all_organizations else "")


def _reaches(method: MethodDescriptor, holders: access_pb2.ScopeHolders) -> list[str]:
    """Returns the reach of each role at an RPC, as far as its request can name a project or an owner."""
    by_resource = method.GetOptions().Extensions[access_pb2.access].by_resource
    fields = method.input_type.fields_by_name
    in_project = "project" if by_resource or "project_id" in fields else NOBODY
    of_own = "own" if by_resource or "user_id" in fields else NOBODY
    return [
        *(
            "all" if r in holders.organization_roles else of_own if r in holders.own_roles else NOBODY
            for r in ORGANIZATION_ROLES
        ),
        *(in_project if role in holders.project_roles else NOBODY for role in PROJECT_ROLES),
    ]


def _table_head(names: Sequence[str]) -> Iterator[str]:
    yield _row(names)
    yield _row(["---"] * len(names))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
