"""Ids are UUIDv7: unique, and sorted by the millisecond of their creation."""

import os
import time
from uuid import UUID

from libs.common.ids import is_id, new_id


def test_ids_are_version_7_of_the_standard_variant() -> None:
    for made in (UUID(new_id()) for _ in range(1_000)):
        assert made.version == 7
        assert made.variant == "specified in RFC 4122"
        assert str(made) == str(made).lower()


def test_ids_never_repeat() -> None:
    assert len({new_id() for _ in range(20_000)}) == 20_000


def test_ids_sort_by_creation_time() -> None:
    earlier = new_id()
    time.sleep(0.002)

    assert earlier < new_id()


def test_forked_processes_do_not_share_randomness() -> None:
    new_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, "".join(new_id() for _ in range(20)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    text = os.read(read, 4096).decode()
    theirs = {text[at + 15 : at + 36] for at in range(0, len(text), 36)}

    assert not theirs & {new_id()[15:] for _ in range(300)}


def test_only_canonical_text_is_an_id() -> None:
    assert is_id(new_id())
    for text in ("", new_id().upper(), new_id().replace("-", ""), new_id() + "\n", "x" * 36):
        assert not is_id(text)
