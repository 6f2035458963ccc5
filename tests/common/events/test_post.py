"""What an endpoint does wrong is told as a reason, and no endpoint leads into a private network."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import pytest

from libs.common.addresses import parse_address
from libs.common.events.domain import Status, may_reach, url_problem
from libs.common.events.post import Poster, resolve_by_system
from libs.common.ids import new_id
from tests.common.events.receiver import (
    Answer,
    Received,
    Receiver,
    endless,
    endless_without_length,
    hang,
    raw,
    receiving,
    status,
)
from tests.common.events.support import LOOPBACK, House
from tests.common.test_mutual_tls import Authority


@pytest.mark.parametrize(
    ("answer", "reason", "code"),
    [
        (status(301, "Location: http://169.254.169.254/"), "REDIRECTED", 301),
        (status(307, "Location: /elsewhere"), "REDIRECTED", 307),
        (status(404, body=b"no such page: the-secret-of-the-intranet"), "HTTP_STATUS", 404),
        (raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "BAD_ANSWER", 0),
        (raw(b"HTTP/1.1 20x OK\r\n\r\n"), "BAD_ANSWER", 0),
        (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000 + b"\r\n\r\n"), "BAD_ANSWER", 0),
        (raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 6), "BAD_ANSWER", 0),
        (raw(b""), "CONNECTION_LOST", 0),
        (hang, "TIMED_OUT", 0),
    ],
)
async def test_a_wrong_answer_is_told_as_a_reason_and_tried_again(
    house: House, receiver: Receiver, answer: Answer, reason: str, code: int
) -> None:
    org = new_id()
    house = house.another(attempt_timeout_s=0.5)
    made = await house.add_endpoint(org, receiver.url)
    receiver.answer = answer
    await house.announce(org)
    await house.deliver()
    delivery = await house.delivery(org, made.endpoint.endpoint_id)
    assert (delivery.status, delivery.last_reason, delivery.http_status) == (Status.PENDING, reason, code)
    assert delivery.last_detail
    assert "intranet" not in delivery.last_detail
    receiver.answer = status(204)
    await house.pass_time(timedelta(minutes=1))
    assert (await house.delivery(org, made.endpoint.endpoint_id)).status is Status.DELIVERED
    assert receiver.connections == 2


@pytest.mark.parametrize("answer", [endless, endless_without_length])
async def test_an_answer_of_a_gigabyte_is_read_up_to_a_limit(receiver: Receiver, answer: Answer) -> None:
    receiver.answer = answer
    before_s = monotonic()
    outcome = await Poster(LOOPBACK).post(receiver.url, {}, b"{}")
    assert (outcome.delivered, outcome.reason, outcome.http_status) == (True, "ANSWER_TOO_LARGE", 200)
    assert monotonic() - before_s < 5


async def test_a_body_that_never_ends_after_a_good_status_counts_as_taken(receiver: Receiver) -> None:
    receiver.answer = raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\nabc")
    outcome = await Poster(LOOPBACK).post(receiver.url, {}, b"{}")
    assert (outcome.delivered, outcome.http_status) == (True, 202)


@pytest.mark.parametrize(("code", "within_s"), [(200, 5), (204, 1.9)])
async def test_a_status_that_came_in_time_counts_though_the_connection_stays_open(
    receiver: Receiver, code: int, within_s: float
) -> None:
    """The time of an attempt ends with the status; a body is read for two seconds, and 204 has none."""

    async def keep_open(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {code} x\r\nConnection: keep-alive\r\n\r\n".encode())
        await asyncio.sleep(60)

    receiver.answer = keep_open
    began = monotonic()
    outcome = await Poster(LOOPBACK, timeout_s=1.5).post(receiver.url, {}, b"{}")
    assert (outcome.delivered, outcome.http_status) == (True, code)
    assert monotonic() - began < within_s


async def test_an_endpoint_whose_port_is_closed_is_not_connected() -> None:
    async with receiving() as receiver:
        url = receiver.url
    outcome = await Poster(LOOPBACK).post(url, {}, b"{}")
    assert (outcome.delivered, outcome.reason) == (False, "NOT_CONNECTED")


async def test_a_certificate_must_be_good_and_that_of_the_host(tmp_path: Path) -> None:
    trusted, unknown = Authority(tmp_path, "trusted"), Authority(tmp_path, "unknown")
    ours = ssl.create_default_context(cafile=str(trusted.file))
    for authority, host, delivered in (
        (trusted, "127.0.0.1", True),
        (unknown, "127.0.0.1", False),
        (trusted, "localhost", False),
    ):
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(*authority.issue("endpoint"))
        async with receiving(server) as receiver:
            poster = Poster(LOOPBACK, ours, resolve=resolving("127.0.0.1"))
            outcome = await poster.post(f"https://{host}:{receiver.port}/", {}, b"{}")
            assert (outcome.delivered, outcome.reason) == (delivered, "" if delivered else "CERTIFICATE_REFUSED")
            assert len(receiver.received) == delivered


def resolving(*addresses: str) -> "Resolving":
    return Resolving([addresses])


class Resolving:
    """A name server that answers each question with the next of its answers, and the last for ever."""

    def __init__(self, answers: list[Sequence[str]]) -> None:
        self.answers = answers
        self.questions = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.questions += 1
        return self.answers[min(self.questions, len(self.answers)) - 1]


PRIVATE = [
    *("127.0.0.1", "127.1.2.3", "0.1.2.3", "168.63.129.16", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1"),
    *("169.254.169.254", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1", "fe80::1%lo", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1"),
    *("2002:7f00:1::", "2001:0:7f00:1::1", "fec0::1", "not an address", ""),
]


@pytest.mark.parametrize("address", PRIVATE)
async def test_no_private_address_is_connected_to_whatever_its_form(receiver: Receiver, address: str) -> None:
    for answer in ([address], ["93.184.216.34", address], [address, "2606:4700::1111"]):
        poster = Poster(resolve=resolving(*answer))
        outcome = await poster.post(f"https://example.com:{receiver.port}/", {}, b"{}")
        assert (outcome.delivered, outcome.reason) == (False, "ADDRESS_NOT_ALLOWED")
    assert receiver.connections == 0


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_may_be_reached(address: str) -> None:
    assert may_reach(ip_address(address), ())
    parsed = parse_address(address)
    assert parsed is not None
    assert may_reach(parsed, ())


async def test_a_name_that_changes_after_the_check_does_not_lead_into_a_private_network(receiver: Receiver) -> None:
    """The name is asked about once, and the connection goes to what was checked."""
    names = Resolving([["203.0.113.1"], ["127.0.0.1"]])
    poster = Poster([ip_network("203.0.113.0/24")], resolve=names, timeout_s=0.5)
    outcome = await poster.post(f"http://example.com:{receiver.port}/", {}, b"{}")
    assert not outcome.delivered
    assert (names.questions, receiver.connections) == (1, 0)


async def test_names_of_the_system_that_are_loopback_in_disguise_are_not_reached(receiver: Receiver) -> None:
    for host in ("localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::ffff:7f00:1]"):
        outcome = await Poster().post(f"https://{host}:{receiver.port}/", {}, b"{}")
        assert outcome.reason in ("ADDRESS_NOT_ALLOWED", "NAME_NOT_RESOLVED"), host
    assert receiver.connections == 0


async def test_a_name_without_an_address_is_not_resolved() -> None:
    outcome = await Poster(resolve=resolving()).post("https://nowhere.example/", {}, b"{}")
    assert outcome.reason == "NAME_NOT_RESOLVED"


async def test_only_networks_that_are_allowed_are_reached_without_tls(receiver: Receiver) -> None:
    poster = Poster([ip_network("10.0.0.0/8")], resolve=resolving("1.1.1.1"), timeout_s=0.5)
    assert (await poster.post("http://example.com/", {}, b"{}")).reason == "NOT_ENCRYPTED"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "x",
            "ftp://example.com/",
            "http://example.com/",
            "https://",
            "https:///path",
            "https://user:x@example.com/",
        ),
        *("https://example.com/#part", "https://exa mple.com/", "https://example.com:99999/", "https://example.com:0/"),
        *("https://127.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest"),
        *("https://example.com\\@127.0.0.1/", "https://-x.example/", "https://ex_ämple/", "mailto:ada@example.com"),
        *(
            "https://example.com/" + "x" * 2048,
            "https://[fe80::1%25lo]/",
            "https://example.com/\r\nHost: x",
            "https://%00/",
        ),
        *("file:///etc/passwd", "https://[::1", "javascript:alert(1)", "https://" + "a." * 200 + "com/"),
    ],
)
def test_an_address_that_events_are_never_sent_to_is_no_endpoint(url: str) -> None:
    assert url_problem(url, (), mails=False)


@pytest.mark.parametrize(
    "url", ["https://example.com", "https://example.com:8443/a?b=c", "https://1.1.1.1/", "https://a_b.example./"]
)
def test_a_public_address_with_tls_may_be_an_endpoint(url: str) -> None:
    assert url_problem(url, (), mails=False) is None


def test_an_address_of_mail_may_be_an_endpoint_where_mail_is_sent() -> None:
    assert url_problem("mailto:ada@example.com", (), mails=True) is None
    for url in ("mailto:", "mailto:ada", "mailto:a@b\r\nBcc: c@d", "mailto:a@b?bcc=c@d", "mailto:a@b,c@d"):
        assert url_problem(url, (), mails=True), url


async def test_cancelling_an_attempt_closes_its_connection(receiver: Receiver) -> None:
    receiver.answer = hang
    task = asyncio.create_task(Poster(LOOPBACK).post(receiver.url, {}, b"{}"))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_name_server_that_never_answers_holds_up_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the database and of payment providers are resolved by the same process."""
    answers, resolve = Event(), socket.getaddrinfo

    def resolving_slowly(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".example"):
            answers.wait(30)
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolving_slowly)
    poster = Poster(timeout_s=2)
    attempts = [asyncio.create_task(poster.post(f"https://{n}.example/", {}, b"{}")) for n in range(64)]
    await asyncio.sleep(0.1)
    assert await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo("localhost", 80), 1)
    assert "127.0.0.1" in await asyncio.wait_for(resolve_by_system("localhost", 80), 1)
    assert {outcome.reason for outcome in await asyncio.gather(*attempts)} == {"TIMED_OUT"}
    answers.set()
