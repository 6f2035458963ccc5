"""Mail is one more consumer of events: to whom an event names, and to endpoints that are addresses of mail."""

from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr

from libs.common.database import Database
from libs.common.events.domain import Status
from libs.common.events.homes import one_home
from libs.common.events.mail import NOTIFIER_ID, Mailer, MailServer, mail_server_of
from libs.common.events.outbox import NewEvent, announce
from libs.common.ids import new_id
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


async def invite(house: House, org: str, name: str = "Acme") -> None:
    data = {"organization_name": name, "role": "member"}
    sealed = seal_data(KEYS, org, "invitation/1", {"email": "eve@example.com", "token": TOKEN})
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


async def test_without_a_mail_server_no_mail_is_sent_and_nothing_waits_for_one(house: House) -> None:
    org = new_id()
    await invite(house, org)
    await house.deliver()
    assert await house.deliveries(org, NOTIFIER_ID) == []


def test_the_password_of_the_mail_server_is_read_from_a_file_and_shown_nowhere(tmp_path: Path) -> None:
    callers = Callers(tmp_path)
    password_file = tmp_path / "password"
    password_file.write_text("s3cr3t\n")
    settings = ServiceSettings(
        database_url=SecretStr("postgresql://x@localhost/x"),
        trust_bundle_file=callers.bundle_file,
        smtp_host="mail.example",
        smtp_from="a@example.com",
        smtp_user="a",
        smtp_password_file=password_file,
    )
    server = mail_server_of(settings)
    assert server is not None
    assert server.password == "s3cr3t"
    assert "s3cr3t" not in repr(server)
