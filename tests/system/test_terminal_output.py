"""What commands print is safe in a terminal and readable, whoever wrote the texts in it."""

import pytest

from libs.cli.terminal.output import Output
from libs.common.ids import new_id
from tollhouse.billing.v1.payment_pb2 import Payment
from tollhouse.common.v1.amount_pb2 import Amount

HOSTILE = "\x1b]0;paid\x07\x1b[2K\u202e\x9b1A\r"


def test_no_text_of_a_caller_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    payment = Payment(payment_id="p1", description=HOSTILE, metadata={HOSTILE: "1", "note": HOSTILE})
    output = Output(as_json=False)
    output.one(payment)
    output.many([payment], ("payment_id", "description", "metadata"), more=False)
    output.many_as([payment], ("text",), lambda one: [one.description], more=False)
    output.row(payment, lambda one: [one.metadata["note"]])
    output.line(HOSTILE)
    output.remark(HOSTILE)
    printed = "".join(capsys.readouterr())
    assert printed.count("paid") == 10
    assert [one for one in printed if not one.isprintable() and one != "\n"] == []


def test_amounts_are_printed_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    payment = Payment(payment_id="p1", amount=Amount(currency_code="USD", value="12.5"))
    Output(as_json=False).one(payment)
    Output(as_json=False).many([payment], ("payment_id", "amount", "refunded_amount"), more=False)
    assert capsys.readouterr().out.count("12.5 USD") == 2


def test_ids_are_whole_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    ids, columns = [new_id(), new_id()], ("payment_id", "organization_id", "user_id", "description")
    payments = [Payment(payment_id=one, organization_id=one, user_id=one, description="for two") for one in ids]
    Output(as_json=False).many(payments, columns, more=False)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in printed if line.startswith("payment id ")] == ids
    assert max(map(len, printed)) <= 80
    Output(as_json=False).many(payments, ("payment_id", "description"), more=False)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(payments), "what fits stays a table"
