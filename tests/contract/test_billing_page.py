"""docs/billing.md shows the states of a subscription, and names every kind of event."""

from typing import Final

from scripts import billing_page
from services.billing.subscription.creation import ANCHOR_MAX, START_MAX
from services.billing.subscription.offers import LIMITS_OF_MODELS
from services.billing.subscription.states import EventKind, State

PAGE: Final = billing_page.PAGE.read_text(encoding="utf-8")


def test_diagram_shows_the_table_of_transitions() -> None:
    assert billing_page.render() == PAGE


def test_page_explains_every_state_and_every_kind_of_event() -> None:
    assert [state for state in State if f"| `{state}` |" not in PAGE] == []
    assert [kind for kind in EventKind if f"`{kind}`" not in PAGE] == []


def test_page_says_the_limits_of_times_and_of_models() -> None:
    assert (START_MAX.days, ANCHOR_MAX.days) == (366, 3_653)
    assert "a year back or ahead" in PAGE
    assert "ten years before" in PAGE
    for one in LIMITS_OF_MODELS:
        limit = one.value
        assert not isinstance(limit, bool | str)
        assert f"{getattr(limit, 'maximum', None):,} `{one.entitlement_code}`" in PAGE
