"""`tollhouse periods`: what is due is worked off, and told."""

import json

from tests.system.commands import done, refused
from tests.system.installation import Installation


def test_what_is_due_is_worked_off(installation: Installation) -> None:
    told = json.loads(done(installation, "periods", "run", "--json"))
    assert told["due_count"] == "0"
    lines = done(installation, "periods", "run", "--until", "1d").splitlines()
    assert lines[0].split() == ["done", "set", "aside", "left", "still", "due"]
    assert lines[1].split() == ["0", "0", "0", "0"]


def test_time_to_come_is_refused(installation: Installation) -> None:
    assert "must not be in the future" in refused(installation, 2, "periods", "run", "--until", "2999-01-01T00:00:00Z")
