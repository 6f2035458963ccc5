"""`tollhouse webhook`: what providers told is listed, tried again, and made up for."""

import json

from libs.common.ids import new_id
from tests.system.commands import done, found, refused
from tests.system.installation import Installation


def test_webhooks_are_listed_and_none_is_tried_again_that_there_is_not(installation: Installation) -> None:
    for options in ((), ("--state", "set-aside"), ("--provider", "stripe", "--state", "parked")):
        assert found(installation, "webhook", "list", *options) == []
    assert "no such webhook" in refused(installation, 1, "webhook", "retry", new_id())


def test_providers_without_a_key_are_not_asked(installation: Installation) -> None:
    assert json.loads(done(installation, "webhook", "reconcile", "--since", "7d", "--json")) == []
    assert "No provider was asked" in installation.command("webhook", "reconcile").stderr
    assert "no such provider" in refused(installation, 1, "webhook", "reconcile", "--provider", "stripe")
