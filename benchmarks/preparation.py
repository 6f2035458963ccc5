"""Setup before the rounds and checks after them.

They are scripts as well, so that the same client runs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from benchmarks.load import Exchange, LoadError, Step
from benchmarks.traffic import CURRENCY, MODELS, model_of, tokens_of
from tollhouse.billing.v1 import account_pb2, credit_pb2, ledger_pb2
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import model_pb2, quota_pb2

FUNDS = Decimal(1_000_000_000)

# Dollars per million tokens, for input and output. With these prices no charge needs rounding.
PRICES = {model: (Decimal(step) * 5 / 4, Decimal(step) * 5) for step, model in enumerate(MODELS, start=1)}


@dataclass(frozen=True, slots=True)
class Credits:
    """Opens each organization's account with a credit."""

    organization_ids: tuple[str, ...]

    def steps(self) -> tuple[Step, ...]:
        return (Step("/tollhouse.billing.v1.LedgerService/Credit", ledger_pb2.CreditResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [(self._request(organization_id),) for organization_id in self.organization_ids[first : first + count]]

    def _request(self, organization_id: str) -> ledger_pb2.CreditRequest:
        amount = amount_pb2.Amount(currency_code=CURRENCY, value=str(FUNDS))
        return ledger_pb2.CreditRequest(organization_id=organization_id, operation_id="opening", amount=amount)

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (reply,) in replies:
            if not isinstance(reply, ledger_pb2.CreditResponse) or reply.balance.sequence != 1:
                raise LoadError(f"an account was not new: {reply}")


@dataclass(frozen=True, slots=True)
class Grants:
    """Opens each organization's account with some grants of credits, of `FUNDS` each and with an end of its own."""

    organization_ids: tuple[str, ...]
    each: int

    def steps(self) -> tuple[Step, ...]:
        return (Step("/tollhouse.billing.v1.CreditService/GrantCredits", credit_pb2.GrantCreditsResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [(self._request(number),) for number in range(first, first + count)]

    def _request(self, number: int) -> credit_pb2.GrantCreditsRequest:
        place = number % self.each
        request = credit_pb2.GrantCreditsRequest(
            organization_id=self.organization_ids[number // self.each],
            operation_id=f"grant-{place}",
            amount=amount_pb2.Amount(currency_code=CURRENCY, value=str(FUNDS)),
            kind=credit_pb2.GRANT_KIND_PURCHASED,
            priority=place,
        )
        request.expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=30 + place))
        return request

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (reply,) in replies:
            if not isinstance(reply, credit_pb2.GrantCreditsResponse):
                raise LoadError(f"no grant: {reply}")


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected state of an organization's account, which begins with some movements of `FUNDS` each."""

    organization_id: str
    movements: int
    spent: Decimal
    openings: int = 1


@dataclass(frozen=True, slots=True)
class Balances:
    """Checks that each account has exactly the expected balance."""

    expected: tuple[Expected, ...]

    def steps(self) -> tuple[Step, ...]:
        return (Step("/tollhouse.billing.v1.AccountService/GetBalance", account_pb2.GetBalanceResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [
            (account_pb2.GetBalanceRequest(organization_id=account.organization_id, currency_code=CURRENCY),)
            for account in self.expected[first : first + count]
        ]

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for account, (reply,) in zip(self.expected, replies, strict=True):
            if not isinstance(reply, account_pb2.GetBalanceResponse):
                raise LoadError(f"no balance: {reply}")
            balance = reply.balance
            if balance.sequence != account.movements + account.openings:
                made = balance.sequence - account.openings
                raise LoadError(f"{made} movements, but {account.movements} were acknowledged")
            if (
                Decimal(balance.posted.value) != account.openings * FUNDS - account.spent
                or Decimal(balance.held.value) != 0
            ):
                raise LoadError(f"{account.spent} was charged, but the balance is {balance}")


@dataclass(frozen=True, slots=True)
class PriceList:
    """Imports the models and their prices."""

    def steps(self) -> tuple[Step, ...]:
        return (Step("/tollhouse.metering.v1.ModelService/ImportModels", model_pb2.ImportModelsResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        lines = ["models:"]
        for model, (input_price, output_price) in PRICES.items():
            lines.append(f"  - model_id: {model}")
            lines.append(f"    currency_code: {CURRENCY}")
            lines.append(f'    prices: {{input: "{input_price}", output: "{output_price}"}}')
        return [(model_pb2.ImportModelsRequest(yaml="\n".join(lines).encode()),)]

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (reply,) in replies:
            if not isinstance(reply, model_pb2.ImportModelsResponse) or reply.imported_count != len(PRICES):
                raise LoadError(f"the price list was not imported: {reply}")


# High enough to refuse nothing: metric, window, scope. Several windows, and counters for all, for each key and model.
LIMITS = (
    ("requests", quota_pb2.LIMIT_WINDOW_MINUTE, quota_pb2.LIMIT_SCOPE_ORGANIZATION),
    ("requests", quota_pb2.LIMIT_WINDOW_HOUR, quota_pb2.LIMIT_SCOPE_ORGANIZATION),
    ("requests", quota_pb2.LIMIT_WINDOW_MONTH, quota_pb2.LIMIT_SCOPE_ORGANIZATION),
    ("requests", quota_pb2.LIMIT_WINDOW_MINUTE, quota_pb2.LIMIT_SCOPE_API_KEY),
    ("requests", quota_pb2.LIMIT_WINDOW_DAY, quota_pb2.LIMIT_SCOPE_MODEL),
    ("total_tokens", quota_pb2.LIMIT_WINDOW_MINUTE, quota_pb2.LIMIT_SCOPE_ORGANIZATION),
    ("total_tokens", quota_pb2.LIMIT_WINDOW_DAY, quota_pb2.LIMIT_SCOPE_API_KEY),
    ("output_tokens", quota_pb2.LIMIT_WINDOW_MINUTE, quota_pb2.LIMIT_SCOPE_MODEL),
    ("spend", quota_pb2.LIMIT_WINDOW_DAY, quota_pb2.LIMIT_SCOPE_ORGANIZATION),
    ("spend", quota_pb2.LIMIT_WINDOW_MONTH, quota_pb2.LIMIT_SCOPE_API_KEY),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Sets `count` of `LIMITS` for each organization, from one on."""

    organization_ids: tuple[str, ...]
    count: int
    first: int = 0

    def steps(self) -> tuple[Step, ...]:
        return (Step("/tollhouse.metering.v1.QuotaService/SetLimit", quota_pb2.SetLimitResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [(self._request(number),) for number in range(first, first + count)]

    def _request(self, number: int) -> quota_pb2.SetLimitRequest:
        metric, window, scope = LIMITS[self.first + number % self.count]
        return quota_pb2.SetLimitRequest(
            organization_id=self.organization_ids[number // self.count],
            name=f"limit-{number % self.count}",
            metric=metric,
            window=window,
            scope=scope,
            currency_code=CURRENCY if metric == "spend" else "",
            value="1000000000000",
        )

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (reply,) in replies:
            if not isinstance(reply, quota_pb2.SetLimitResponse):
                raise LoadError(f"a limit was not set: {reply}")


@dataclass(frozen=True, slots=True)
class Used:
    """Checks that the one limit of each organization has counted exactly what was acknowledged."""

    expected: tuple[tuple[str, int], ...]

    def steps(self) -> tuple[Step, ...]:
        path = "/tollhouse.metering.v1.QuotaService/GetUsageAgainstLimits"
        return (Step(path, quota_pb2.GetUsageAgainstLimitsResponse),)

    def requests(self, first: int, count: int) -> list[Exchange]:
        return [
            (quota_pb2.GetUsageAgainstLimitsRequest(organization_id=organization_id),)
            for organization_id, _ in self.expected[first : first + count]
        ]

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        for (_, made), (reply,) in zip(self.expected, replies, strict=True):
            if not isinstance(reply, quota_pb2.GetUsageAgainstLimitsResponse):
                raise LoadError(f"no limits: {reply}")
            counted = [limit.used for limit in reply.limits]
            if counted != [str(made)]:
                raise LoadError(f"{made} requests were let pass, but the limits have counted {counted}")


def cost_of(number: int, tenants: int) -> Decimal:
    """Returns the expected cost of a call, computed here and not asked of the service."""
    tokens = tokens_of(number)
    input_price, output_price = PRICES[model_of(number, tenants)]
    return (tokens.input * input_price + tokens.output * output_price) / 1_000_000
