"""A settlement that was kept survives the process; none is taken twice, and none is lost to a broken line."""

import os
from pathlib import Path

import pytest

from tollhouse.metering.v1.admission_pb2 import SettleRequest
from tollhouse_litellm import spool as spool_module
from tollhouse_litellm.spool import Spool, SpoolFull


def _settlement(name: str) -> SettleRequest:
    return SettleRequest(operation_id=name, organization_id="one", model="gpt-5")


def test_what_is_not_done_is_there_after_a_start(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for name in ("a", "b", "c"):
        spool.keep(_settlement(name))
    spool.done("b")
    spool.close()
    again = Spool(tmp_path)
    assert again.pending == {name: _settlement(name) for name in ("a", "c")}
    again.close()


def test_processes_have_files_of_their_own_and_take_over_those_of_ended_ones(tmp_path: Path) -> None:
    first, second = Spool(tmp_path), Spool(tmp_path)
    first.keep(_settlement("of the first"))
    second.keep(_settlement("of the second"))
    third = Spool(tmp_path)
    assert third.pending == {}
    second.close()
    third.close()
    fourth = Spool(tmp_path)
    assert set(fourth.pending) == {"of the second"}
    first.close()
    fourth.close()
    last = Spool(tmp_path)
    assert set(last.pending) == {"of the first", "of the second"}
    last.close()


def test_line_that_a_crash_cut_off_harms_no_other(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.keep(_settlement("whole"))
    spool.close()
    file = tmp_path / "settlements-0.jsonl"
    file.write_bytes(file.read_bytes() + b'{"settle": "Zm9')
    again = Spool(tmp_path)
    again.keep(_settlement("next"))
    again.close()
    last = Spool(tmp_path)
    assert set(last.pending) == {"whole", "next"}
    last.close()


def test_full_spool_takes_no_more_and_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_PENDING_MAX", 2)
    spool = Spool(tmp_path)
    spool.keep(_settlement("a"))
    spool.keep(_settlement("b"))
    with pytest.raises(SpoolFull):
        spool.keep(_settlement("c"))
    spool.done("a")
    assert set(spool.pending) == {"b"}
    spool.close()


def test_refused_settlement_is_set_aside_for_people(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.keep(_settlement("a"))
    spool.refuse(_settlement("a"), "AUTHORIZATION_LAPSED")
    assert spool.pending == {}
    assert "AUTHORIZATION_LAPSED" in (tmp_path / "refused.jsonl").read_text()
    spool.close()


def test_file_and_folder_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    Spool(folder).close()
    assert os.stat(folder).st_mode & 0o077 == 0
    assert os.stat(folder / "settlements-0.jsonl").st_mode & 0o077 == 0
