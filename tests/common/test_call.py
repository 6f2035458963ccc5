"""The current call: its client address behind trusted proxies, its caller's rights, and its audit details."""

from ipaddress import ip_network

import pytest

from libs.common.access import Caller, CallerKind, Rights, Scope
from libs.common.call import (
    Call,
    current_actor,
    current_rights,
    enter_call,
    is_limited,
    leave_call,
    may,
    require_membership,
)
from libs.common.callers import Resolved
from libs.common.errors import NotFound
from libs.common.ids import new_id


class FromAfar:
    """A transport with a given peer address and metadata."""

    def __init__(self, peer: str, **metadata: str) -> None:
        self._peer = peer
        self._metadata = tuple((name.replace("_", "-"), value) for name, value in metadata.items())

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata


PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
USER = Caller(CallerKind.USER, "01a214d9-b0eb-7000-8000-000000000001", session_id=new_id())


def address(peer: str, forwarded: str = "", *, trusted: bool = True) -> str:
    return Call("Rpc", USER, FromAfar(peer, x_forwarded_for=forwarded), PROXIES if trusted else ()).peer_address


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:4711", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("unix:/tmp/socket", ""),
        ("nonsense", ""),
    ],
)
def test_address_is_read_from_the_transport(peer: str, expected: str) -> None:
    assert address(peer) == expected


def test_forwarded_address_is_accepted_from_a_trusted_proxy_only() -> None:
    assert address("ipv4:10.0.0.1:1", "198.51.100.7") == "198.51.100.7"
    assert address("ipv4:192.0.2.1:1", "198.51.100.7") == "192.0.2.1"
    assert address("ipv4:10.0.0.1:1", "198.51.100.7", trusted=False) == "10.0.0.1"


def test_forwarded_addresses_sent_by_the_client_are_ignored() -> None:
    assert address("ipv4:10.0.0.1:1", "203.0.113.66, 198.51.100.7, 10.0.0.2") == "198.51.100.7"
    assert address("ipv4:10.0.0.1:1", "10.0.0.3, forged, 10.0.0.2") == "10.0.0.2"


def test_work_outside_of_any_call_is_not_limited() -> None:
    leave_call()
    assert not is_limited()
    assert current_rights() is None
    assert may(Scope.SCOPE_KEYS_WRITE)
    require_membership("organization")


def test_user_has_no_rights_until_they_were_looked_up() -> None:
    call = Call("Rpc", USER, FromAfar("ipv4:192.0.2.1:1"))
    enter_call(call)
    assert is_limited()
    assert not may(Scope.SCOPE_ORGANIZATION_READ)
    with pytest.raises(NotFound):
        require_membership("organization")
    viewer = Resolved(USER, Rights(organization_role="viewer"))
    call.know(viewer, as_operator=False)
    assert may(Scope.SCOPE_ORGANIZATION_READ)
    assert not may(Scope.SCOPE_ORGANIZATION_WRITE)
    call.know(viewer, as_operator=True)
    assert may(Scope.SCOPE_ORGANIZATION_WRITE)
    leave_call()


def test_long_user_agent_is_cut() -> None:
    assert len(Call("Rpc", USER, FromAfar("", user_agent="a" * 5_000)).user_agent) == 200


@pytest.mark.parametrize(
    ("caller", "actor"),
    [
        (Caller(CallerKind.OPERATOR, "ada"), "operator:ada"),
        (Caller(CallerKind.SERVICE, "metering"), "service:metering"),
        (USER, f"user:{USER.name}"),
        (Caller(CallerKind.SERVICE_ACCOUNT, "a-1", api_key_id=new_id()), "service_account:a-1"),
        (Caller(CallerKind.ANONYMOUS, ""), "anonymous"),
        (Caller(CallerKind.OPERATOR, "a\0d\ud800a\u202e\n"), "operator:ada"),
        (Caller(CallerKind.OPERATOR, "x" * 1_000_000), "operator:" + "x" * 246),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_actor_is_the_subject_of_the_caller_as_storable_text(caller: Caller, actor: str) -> None:
    enter_call(Call("Rpc", caller, FromAfar("unix:")))
    assert current_actor() == actor
    leave_call()
    assert current_actor() == "system"
