"""Access decisions, tested without a server: roles hold scopes, and a key never holds more than its owner."""

from dataclasses import replace

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from libs.common.access import (
    AccessRule,
    Caller,
    CallerKind,
    PlatformRole,
    Rights,
    Scope,
    Target,
    UndeclaredAccess,
    is_known_scope,
    role_holds,
)
from libs.common.errors import NotFound, PermissionDenied
from libs.common.ids import new_id
from tollhouse.common.v1 import access_pb2

ME, SOMEBODY, HERE, CHAT, SEARCH = (new_id() for _ in range(5))
USER = Caller(CallerKind.USER, ME, session_id=new_id())
KEY = Caller(CallerKind.USER, ME, api_key_id=new_id())
NOBODY_ELSE = AccessRule(operators=False, services=frozenset(), public=False)
KEYS_WRITE = replace(NOBODY_ELSE, operators=True, scope=Scope.SCOPE_KEYS_WRITE)
SCOPES = [value for value in access_pb2.Scope.values() if value]


def rights(role: str = "", **projects: str) -> Rights:
    ids = {"chat": CHAT, "search": SEARCH}
    return Rights(
        organization_id=HERE, organization_role=role, project_roles={ids[name]: r for name, r in projects.items()}
    )


def outcome(rule: AccessRule, caller: Caller, held: Rights, **target: str) -> str:
    """Return the reason of the refusal, or nothing when the caller is let in."""
    try:
        rule.admit_by_rights(caller, held, Target(organization_id=HERE, **target))
    except (NotFound, PermissionDenied) as refusal:
        return refusal.reason
    return ""


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("owner", ""),
        ("admin", ""),
        ("member", "PERMISSION_DENIED"),
        ("billing", "PERMISSION_DENIED"),
        ("", "NOT_FOUND"),
    ],
)
def test_scope_of_the_whole_organization_is_held_by_the_roles_the_contract_names(role: str, expected: str) -> None:
    assert outcome(KEYS_WRITE, USER, rights(role)) == expected


def test_project_role_applies_to_its_project_only() -> None:
    held = rights("member", chat="admin", search="member")
    assert outcome(KEYS_WRITE, USER, held, project_id=CHAT) == ""
    assert outcome(KEYS_WRITE, USER, held, project_id=SEARCH) == "PERMISSION_DENIED"
    assert outcome(KEYS_WRITE, USER, held) == "PERMISSION_DENIED"


def test_member_may_access_their_own_resources() -> None:
    assert outcome(KEYS_WRITE, USER, rights("member"), user_id=ME) == ""
    assert outcome(KEYS_WRITE, USER, rights("member"), user_id=SOMEBODY) == "PERMISSION_DENIED"


def test_resource_decides_only_for_those_who_hold_the_scope_for_something() -> None:
    rule = replace(KEYS_WRITE, by_resource=True)
    assert outcome(rule, USER, rights("member")) == ""
    assert outcome(rule, USER, rights("billing", chat="admin")) == ""
    assert outcome(rule, USER, rights("billing", chat="member")) == "PERMISSION_DENIED"
    assert outcome(rule, USER, rights()) == "NOT_FOUND"


def test_self_is_the_session_of_the_user_and_never_a_key() -> None:
    rule = replace(NOBODY_ELSE, self_field="user_id")
    assert outcome(rule, USER, rights(), self_id=ME) == ""
    assert outcome(rule, USER, rights(), self_id=SOMEBODY) == "NOT_FOUND"
    assert outcome(rule, KEY, rights("owner"), self_id=ME) == "PERMISSION_DENIED"


def test_key_holds_only_scopes_that_it_carries_and_its_owner_still_holds() -> None:
    keys_write, wide = "tollhouse:keys.write", rights("owner")
    without, carrying = replace(wide, key_scopes=frozenset()), replace(wide, key_scopes=frozenset({keys_write}))
    assert outcome(KEYS_WRITE, KEY, without) == "PERMISSION_DENIED"
    assert outcome(KEYS_WRITE, KEY, carrying) == ""
    assert outcome(KEYS_WRITE, KEY, replace(carrying, organization_role="viewer")) == "PERMISSION_DENIED"
    assert not replace(carrying, organization_role="viewer").holds(keys_write)
    assert not carrying.holds("chat:write")
    assert replace(carrying, key_scopes=frozenset({"chat:write"})).holds("chat:write")


def test_key_bound_to_a_project_may_access_nothing_else() -> None:
    bound = replace(rights("owner"), key_scopes=frozenset({"tollhouse:keys.write"}), key_project_id=CHAT)
    assert outcome(KEYS_WRITE, KEY, bound, project_id=CHAT) == ""
    assert outcome(KEYS_WRITE, KEY, bound, project_id=SEARCH) == "PERMISSION_DENIED"
    assert outcome(KEYS_WRITE, KEY, bound) == "PERMISSION_DENIED"
    assert outcome(KEYS_WRITE, KEY, replace(bound, organization_role="member"), user_id=ME) == "PERMISSION_DENIED"


def test_platform_admin_counts_as_operator_with_a_session_and_reader_for_reads_alone() -> None:
    reads = replace(KEYS_WRITE, only_reads=True)
    admin, reader = (Rights(platform_role=role) for role in (PlatformRole.ADMIN, PlatformRole.ADMIN_READONLY))
    assert KEYS_WRITE.admits_as_operator(USER, admin)
    assert not KEYS_WRITE.admits_as_operator(USER, reader)
    assert reads.admits_as_operator(USER, reader)
    assert not KEYS_WRITE.admits_as_operator(KEY, admin)
    assert not replace(KEYS_WRITE, operators=False).admits_as_operator(USER, admin)


@pytest.mark.parametrize("scope", SCOPES)
def test_every_scope_has_holders_and_a_known_name(scope: Scope.ValueType) -> None:
    holders = access_pb2.Scope.DESCRIPTOR.values_by_number[scope].GetOptions().Extensions[access_pb2.holders]
    assert holders.name.startswith("tollhouse:")
    assert is_known_scope(holders.name)
    assert holders.gateways != ("owner" in holders.organization_roles)
    for role in (*holders.organization_roles, *holders.own_roles):
        assert role_holds(holders.name, role, ())
    assert not role_holds(holders.name, "", ())


def test_platform_scopes_are_held_by_working_roles_and_unknown_tollhouse_scopes_by_no_role() -> None:
    assert role_holds("chat:write", "member", ())
    assert role_holds("chat:write", "viewer", ("member",))
    assert not role_holds("chat:write", "viewer", ())
    assert not role_holds("tollhouse:made.up", "owner", ("admin",))
    assert not is_known_scope("tollhouse:made.up")


def test_rule_on_a_field_the_request_lacks_prevents_service_start() -> None:
    with pytest.raises(UndeclaredAccess, match="organization_id"):
        AccessRule.of(_method_with(access_pb2.Access(scope=Scope.SCOPE_KEYS_READ)))
    with pytest.raises(UndeclaredAccess, match="owner_user_id"):
        AccessRule.of(_method_with(access_pb2.Access(self_field="owner_user_id")))
    with pytest.raises(UndeclaredAccess, match="no access"):
        AccessRule.of(_method_with(access_pb2.Access()))


def _method_with(access: access_pb2.Access) -> MethodDescriptor:
    name = f"probe{new_id().replace('-', '')}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto3")
    file.message_type.add(name="Empty")
    service = file.service.add(name="Probe")
    method = service.method.add(name="Ask", input_type=f".{name}.Empty", output_type=f".{name}.Empty")
    method.options.Extensions[access_pb2.access].CopyFrom(access)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(f"{name}.Probe").methods_by_name["Ask"]


def gateway_rights(*, everywhere: bool = False, reached: str = "", scope: str = "tollhouse:usage.write") -> Rights:
    return Rights(key_scopes=frozenset({scope}), all_organizations=everywhere, gateway_organization_id=reached)


RECORDS = replace(NOBODY_ELSE, operators=True, gateway_scope=Scope.SCOPE_USAGE_WRITE)
ACCOUNT_KEY = Caller(CallerKind.SERVICE_ACCOUNT, new_id(), api_key_id=new_id())


def test_key_of_a_gateway_is_let_in_where_it_reaches_and_carries_the_scope() -> None:
    assert outcome(RECORDS, ACCOUNT_KEY, gateway_rights(everywhere=True)) == ""
    assert outcome(RECORDS, ACCOUNT_KEY, gateway_rights(reached=HERE)) == ""
    assert outcome(RECORDS, ACCOUNT_KEY, gateway_rights(reached=new_id())) == "NOT_FOUND"
    assert outcome(RECORDS, ACCOUNT_KEY, gateway_rights()) == "PERMISSION_DENIED"
    other_scope = gateway_rights(everywhere=True, scope="tollhouse:admission")
    assert outcome(RECORDS, ACCOUNT_KEY, other_scope) == "PERMISSION_DENIED"
    for_all = replace(RECORDS, all_organizations=True)
    assert outcome(for_all, ACCOUNT_KEY, gateway_rights(reached=HERE)) == "PERMISSION_DENIED"
    assert outcome(for_all, ACCOUNT_KEY, gateway_rights(everywhere=True)) == ""


def test_no_role_holds_the_scope_of_a_gateway() -> None:
    for name in ("tollhouse:admission", "tollhouse:usage.write"):
        for role in ("owner", "admin", "member", "billing", "viewer"):
            assert not role_holds(name, role, ["admin", "member"])
        assert not Rights(organization_role="owner", organization_id=HERE).holds(name)
    assert outcome(RECORDS, USER, rights("owner")) == "PERMISSION_DENIED"


def test_refusal_says_who_would_be_let_in() -> None:
    assert RECORDS.callers == (
        "operators and API keys of gateways that hold tollhouse:usage.write for what the request names"
    )
    assert replace(KEYS_WRITE, services=frozenset({"metering"})).callers == (
        "operators, the services metering and users and API keys that hold tollhouse:keys.write "
        "for what the request names"
    )
