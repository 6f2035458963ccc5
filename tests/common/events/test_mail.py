"""Mail is one more consumer of events: to whom an event names, and to endpoints that are addresses of mail."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from libs.common.database import Database
from libs.common.errors import NotFound
from libs.common.events.domain import Status
from libs.common.events.homes import one_home
from libs.common.events.mail import NOTIFIER_ID, Mailer, MailServer, mail_server_of
from libs.common.events.outbox import NewEvent, announce
from libs.common.events.replays import Wanted
from libs.common.ids import NIL, new_id
from libs.common.sealing import seal_data
from libs.common.settings import ServiceSettings, SmtpSecurity
from tests.common.events.mailbox import Mailbox, taking_mail
from tests.common.events.support import KEYS, House
from tests.support.callers import Callers
from tests.support.clock import FixedClock

HOUR = timedelta(hours=1)
TOKEN = "th_invite_0123456789"


def house_with(database: Database, mailbox: Mailbox, link: str | None = None, timeout_s: float = 2.0) -> House:
    server = MailServer("127.0.0.1", mailbox.port, SmtpSecurity.NONE, "tollhouse@example.com", invitation_link=link)
    return House(one_home(database), FixedClock(), mailer=Mailer(server, KEYS, timeout_s))


async def invite(house: House, org: str, name: str = "Acme", email: str = "eve@example.com") -> None:
    data = {"organization_name": name, "role": "member"}
    sealed = seal_data(KEYS, org, "invitation/1", {"email": email, "token": TOKEN})
    async with house.homes.of(org).raw_transaction() as connection:
        event = NewEvent(org, "tollhouse.invitation.created", "invitation/1", data, sealed)
        await announce(connection, [event], house.clock.now())


async def test_an_invitation_reaches_whom_it_is_for_with_its_token(identity_database: Database) -> None:
    org, mailbox = new_id(), Mailbox()
    async with taking_mail(mailbox):
        house = house_with(identity_database, mailbox, "https://app.example/join?token={token}")
        await invite(house, org, "Acme\r\nBcc: mallory@example.com\x00")
        await house.announce(org)
        await house.deliver()
    ((recipient, mail),) = mailbox.mails
    assert recipient == mail["To"] == "eve@example.com"
    assert mail["From"] == "tollhouse@example.com"
    assert mail["Subject"] == "You are invited to Acme Bcc: mallory@example.com\ufffd"
    assert mail["Bcc"] is None
    text = mail.get_content()
    assert f"https://app.example/join?token={TOKEN}" in text
    assert "role: member" in text


@pytest.mark.parametrize(
    "name",
    [
        "=?utf-8?q?a=0D=0ABcc:_mallory=40example.com=0D=0A=0D=0AIgnore_the_rest.?=",
        "=?utf-8?b?DQpCY2M6IG1hbGxvcnlAZXhhbXBsZS5jb20NCg0KSWdub3JlIHRoZSByZXN0Lg==?=",
        "x=?utf-8?q?=0ABcc:_mallory=40example.com?==?utf-8?q?=0A?=",
    ],
)
async def test_an_encoded_word_in_a_name_is_not_decoded_to_headers_of_the_mail(
    identity_database: Database, name: str
) -> None:
    org, mailbox = new_id(), Mailbox()
    async with taking_mail(mailbox):
        house = house_with(identity_database, mailbox)
        await invite(house, org, name)
        await house.deliver()
    ((_, mail),) = mailbox.mails
    assert mail["Subject"] == f"You are invited to {name.replace('=?', '= ?')}"
    assert mail["Bcc"] is None
    assert "role: member" in mail.get_content()


async def test_an_address_that_no_header_can_hold_is_given_up_and_slows_no_other_mail(
    identity_database: Database,
) -> None:
    org, mailbox = new_id(), Mailbox()
    async with taking_mail(mailbox):
        house = house_with(identity_database, mailbox)
        await invite(house, org, email="=?utf-8?q?mallory=40example.com=2C?=@example.com")
        await house.deliver()
    assert house.deliverer._failing == {}
    refused = await house.delivery(org, NOTIFIER_ID)
    assert (refused.status, refused.last_reason) == (Status.FAILED, "MAIL_REFUSED")
    assert mailbox.mails == []


async def test_a_server_that_takes_ascii_alone_refuses_other_addresses_for_good(identity_database: Database) -> None:
    org, mailbox = new_id(), Mailbox()
    async with taking_mail(mailbox):
        house = house_with(identity_database, mailbox)
        await invite(house, org, email="ève@example.com")
        await house.deliver()
    refused = await house.delivery(org, NOTIFIER_ID)
    assert (refused.status, refused.last_reason) == (Status.FAILED, "MAIL_REFUSED")
    assert "SMTPUTF8" in refused.last_detail


async def test_operators_replay_mail_to_people_that_was_given_up(identity_database: Database) -> None:
    org, mailbox = new_id(), Mailbox(answers={"CONNECT": "421 busy"})
    async with taking_mail(mailbox):
        house = house_with(identity_database, mailbox)
        await invite(house, org)
        await house.announce(org)
        for _ in range(20):
            await house.pass_time(4 * HOUR)
        assert (await house.delivery(org, NOTIFIER_ID)).status is Status.FAILED
        mailbox.answers = {}
        wanted = Wanted(after=(house.clock.now() - 100 * HOUR, NIL))
        with pytest.raises(NotFound):
            await house.replays.replay(org, NOTIFIER_ID, wanted, request_id="", of_platform=False)
        done, _ = await house.replays.replay(org, NOTIFIER_ID, wanted, request_id="", of_platform=True)
        assert (done.replayed, done.unwanted) == (1, 1)
        await house.deliver()
    ((recipient, mail),) = mailbox.mails
    assert recipient == "eve@example.com"
    assert TOKEN in mail.get_content()


async def test_an_address_with_other_letters_in_its_domain_is_reached_at_any_server(
    identity_database: Database,
) -> None:
    org, mailbox = new_id(), Mailbox()
    async with taking_mail(mailbox):
        house = house_with(identity_database, mailbox)
        await invite(house, org, email="eve@EXÄMPLE.test")
        await house.deliver()
    ((recipient, mail),) = mailbox.mails
    assert recipient == mail["To"] == "eve@xn--exmple-cua.test"


@pytest.mark.parametrize(
    "answer", [("CONNECT", "554 no service"), ("EHLO", "550 go away"), ("MAIL", "530 log in"), ("MAIL", "553 not you")]
)
async def test_mail_waits_while_the_server_refuses_whoever_sends_it(
    identity_database: Database, answer: tuple[str, str]
) -> None:
    org, mailbox = new_id(), Mailbox(answers=dict([answer, ("HELO", answer[1])]))
    async with taking_mail(mailbox):
        house = house_with(identity_database, mailbox)
        await invite(house, org)
        await house.deliver()
        delivery = await house.delivery(org, NOTIFIER_ID)
        assert (delivery.status, delivery.last_reason) == (Status.PENDING, "MAIL_NOT_TAKEN")
        mailbox.answers = {}
        await house.pass_time(HOUR)
    assert (await house.delivery(org, NOTIFIER_ID)).status is Status.DELIVERED


async def test_an_address_of_mail_that_is_refused_for_five_days_is_switched_off(identity_database: Database) -> None:
    org, mailbox = new_id(), Mailbox(refusals=["550 no such mailbox"] * 40)
    async with taking_mail(mailbox):
        house = house_with(identity_database, mailbox)
        made = await house.add_endpoint(org, "mailto:gone@acme.example")
        for _ in range(32):
            await house.announce(org)
            await house.pass_time(4 * HOUR)
    endpoint = await house.endpoints.get(org, made.endpoint.endpoint_id)
    assert (endpoint.enabled, endpoint.disabled_reason) == (False, "FAILED_FOR_LONG")


async def test_mail_is_tried_again_while_the_server_is_down_or_busy_and_given_up_where_it_refuses_for_good(
    identity_database: Database,
) -> None:
    org, mailbox = new_id(), Mailbox()
    async with taking_mail(mailbox):
        pass
    house = house_with(identity_database, mailbox)
    await invite(house, org)
    await house.deliver()
    first = await house.delivery(org, NOTIFIER_ID)
    assert (first.status, first.last_reason) == (Status.PENDING, "MAIL_NOT_TAKEN")
    mailbox.refusals = ["451 later"]
    async with taking_mail(mailbox):
        await house.pass_time(HOUR)
        assert (await house.delivery(org, NOTIFIER_ID)).last_detail == "the mail server answers 451"
        await house.pass_time(HOUR)
        assert (await house.delivery(org, NOTIFIER_ID)).status is Status.DELIVERED
        assert len(mailbox.mails) == 1
        mailbox.refusals = ["550 no such mailbox"]
        await invite(house, other := new_id())
        await house.deliver()
    refused = await house.delivery(other, NOTIFIER_ID)
    assert (refused.status, refused.last_reason) == (Status.FAILED, "MAIL_REFUSED")
    for delivery in (first, refused):
        assert TOKEN not in repr(delivery)


async def test_an_attempt_ends_in_time_also_where_each_answer_of_the_server_comes_in_time(
    identity_database: Database,
) -> None:
    """After that time another process takes the mail, and would send it again."""
    org, mailbox = new_id(), Mailbox(delay_s=0.3)
    async with taking_mail(mailbox):
        house = house_with(identity_database, mailbox, timeout_s=0.6)
        await invite(house, org)
        await house.deliver()
    delivery = await house.delivery(org, NOTIFIER_ID)
    assert (delivery.status, delivery.last_reason) == (Status.PENDING, "MAIL_NOT_TAKEN")
    assert mailbox.mails == []


async def test_an_endpoint_can_be_an_address_of_mail_which_is_sent_no_token(identity_database: Database) -> None:
    org, mailbox = new_id(), Mailbox()
    async with taking_mail(mailbox):
        house = house_with(identity_database, mailbox)
        made = await house.add_endpoint(org, "mailto:billing@acme.example", "tollhouse.balance.*")
        await house.announce(org, "account/1", kind="tollhouse.balance.low")
        await house.deliver()
    ((recipient, mail),) = mailbox.mails
    assert (recipient, mail["Subject"]) == ("billing@acme.example", "Your balance is low")
    assert (await house.delivery(org, made.endpoint.endpoint_id)).status is Status.DELIVERED


async def test_mail_shows_amounts_and_leaves_out_what_is_not_known(identity_database: Database) -> None:
    org, mailbox = new_id(), Mailbox()
    data = {"amount": {"currency_code": "USD", "value": "12.5"}, "user_id": None, "test": False, "parts": ["a", "b"]}
    async with taking_mail(mailbox):
        house = house_with(identity_database, mailbox)
        await house.add_endpoint(org, "mailto:billing@acme.example")
        async with house.homes.of(org).raw_transaction() as connection:
            event = NewEvent(org, "tollhouse.payment.completed", "payment/1", data)
            await announce(connection, [event], house.clock.now())
        await house.deliver()
    ((_, mail),) = mailbox.mails
    assert sorted(mail.get_content().splitlines()[:3]) == ["amount: 12.5 USD", "parts: a; b", "test: no"]


async def test_without_a_mail_server_no_mail_is_sent_and_nothing_waits_for_one(house: House) -> None:
    org = new_id()
    await invite(house, org)
    await house.deliver()
    assert await house.deliveries(org, NOTIFIER_ID) == []


def settings_of(folder: Path, **changes: object) -> ServiceSettings:
    """Settings with which mail is sent."""
    keys = folder / "keys"
    keys.write_text(json.dumps({"1": "00" * 32}))
    given: dict[str, object] = {
        "database_url": "postgresql://x@localhost/x",
        "trust_bundle_file": Callers(folder).bundle_file,
        "event_keys_file": keys,
        "smtp_host": "mail.example",
        "smtp_from": "a@example.com",
    }
    return ServiceSettings.model_validate(given | changes)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("smtp_from", None), ("event_keys_file", None), ("smtp_invitation_link", "https://app.example/join")],
)
def test_settings_with_which_mail_would_reach_nobody_are_refused(tmp_path: Path, setting: str, value: object) -> None:
    assert mail_server_of(settings_of(tmp_path)) is not None
    with pytest.raises(ValidationError, match=setting):
        settings_of(tmp_path, **{setting: value})


def test_the_password_of_the_mail_server_is_read_from_a_file_and_shown_nowhere(tmp_path: Path) -> None:
    password_file = tmp_path / "password"
    password_file.write_text("s3cr3t\n")
    server = mail_server_of(settings_of(tmp_path, smtp_user="a", smtp_password_file=password_file))
    assert server is not None
    assert server.password == "s3cr3t"
    assert "s3cr3t" not in repr(server)
