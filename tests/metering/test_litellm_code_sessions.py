"""The price of code sessions, which LiteLLM's price map has once for a provider."""

from decimal import Decimal
from typing import Final

import pytest

from services.metering.model.litellm_prices import read_price_map
from tests.metering.test_litellm_prices import entries_of

CONTAINERS: Final = b"""{
 "maker/container": {"code_interpreter_cost_per_session": 0.03, "litellm_provider": "maker", "mode": "chat"},
 "vague/container": {"code_interpreter_cost_per_session": "0.03 a day", "litellm_provider": "vague", "mode": "chat"},
 "runs-code": {"input_cost_per_token": 1e-06, "litellm_provider": "maker", "mode": "responses"},
 "runs-code-alias": {"alias_of": "runs-code"},
 "runs-code-for-more": {"input_cost_per_token": 1e-06, "code_interpreter_cost_per_session": 0.05,
  "litellm_provider": "maker", "mode": "chat"},
 "embeds": {"input_cost_per_token": 1e-06, "litellm_provider": "maker", "mode": "embedding"},
 "runs-vague-code": {"input_cost_per_token": 1e-06, "litellm_provider": "vague", "mode": "chat"},
 "runs-no-code": {"input_cost_per_token": 1e-06, "litellm_provider": "other", "mode": "chat"}
}"""


@pytest.mark.parametrize(
    ("name", "price"),
    [
        ("runs-code", "0.03"),
        ("runs-code-alias", "0.03"),
        ("runs-code-for-more", "0.05"),
        ("maker/container", "0.03"),
        ("embeds", None),
        ("runs-vague-code", None),
        ("runs-no-code", None),
    ],
)
def test_code_sessions_cost_what_the_entry_of_the_providers_containers_says(name: str, price: str | None) -> None:
    card = read_price_map(entries_of(CONTAINERS).items())[name].card
    assert card is not None
    rates = [rate for rate in card.rates if rate.unit_id == "code_sessions"]
    found = [(rate.price, rate.provider_cost, rate.per, rate.service_tier) for rate in rates]
    assert found == ([] if price is None else [(Decimal(price), Decimal(price), 1, "any")])


def test_price_of_code_sessions_that_cannot_be_read_is_named_with_each_model() -> None:
    prices = read_price_map(entries_of(CONTAINERS).items())
    notes = {note.key: note.text for note in prices["runs-vague-code"].notes}
    assert notes["vague/container"].startswith("gives no price of code_sessions: it has prices that no rate holds")
    assert prices["vague/container"].card is None
    assert {note.key: note.text for note in prices["runs-code"].notes} == {
        "maker/container": "gives the price of code_sessions"
    }
