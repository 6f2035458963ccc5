"""Lines of FOCUS keep the rules that FOCUS 1.2 publishes for its columns, and add up to what is charged."""

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal

from libs.common.ids import is_id, new_id
from services.metering.usage.export.focus import FOCUS_COLUMNS
from tests.metering.corrections.calls import amend, tokens, void
from tests.metering.export.calls import FOCUS, export, exported, values
from tests.metering.support import Metering, Platform, stamp, usage, usd
from tollhouse.metering.v1 import model_pb2, unit_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

Line = Mapping[str, str]

# The 21 columns that FOCUS 1.2 calls mandatory.
MANDATORY = {
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd"),
    *("BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd"),
    *("ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity"),
    *("PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName"),
}
NULL_ALLOWED = {"BillingAccountName", "ChargeClass"}
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def number(line: Line, name: str) -> Decimal:
    return Decimal(line[name])


RULES: dict[str, Callable[[Line], bool]] = {
    "costs are decimals": lambda line: all(is_number(line[name]) for name in line if name.endswith("Cost")),
    "quantities are decimals": lambda line: all(is_number(line[name]) for name in line if name.endswith("Quantity")),
    "unit prices are not negative": lambda line: (
        min(number(line, "ListUnitPrice"), number(line, "ContractedUnitPrice")) >= 0
    ),
    "times are in UTC as in ISO 8601": lambda line: all(
        _TIME.fullmatch(line[name]) for name in line if name.endswith(("PeriodStart", "PeriodEnd"))
    ),
    "a charge period is before its end": lambda line: line["ChargePeriodStart"] < line["ChargePeriodEnd"],
    "a billing period is before its end": lambda line: line["BillingPeriodStart"] < line["BillingPeriodEnd"],
    "a billing period is a month": lambda line: line["BillingPeriodStart"].endswith("-01T00:00:00Z"),
    "the currency is a national one": lambda line: re.fullmatch("[A-Z]{3}", line["BillingCurrency"]) is not None,
    "the charge category is known": lambda line: (
        line["ChargeCategory"] in {"Usage", "Purchase", "Tax", "Credit", "Adjustment"}
    ),
    "the charge class is null or a correction": lambda line: line["ChargeClass"] in {"", "Correction"},
    "the charge frequency is known": lambda line: line["ChargeFrequency"] in {"One-Time", "Recurring", "Usage-Based"},
    "the pricing category is known": lambda line: (
        line["PricingCategory"] in {"Standard", "Dynamic", "Committed", "Other"}
    ),
    "the service category is known": lambda line: line["ServiceCategory"] == "AI and Machine Learning",
    "list cost is unit price times quantity": lambda line: (
        number(line, "ListCost") == number(line, "ListUnitPrice") * number(line, "PricingQuantity")
    ),
    "contracted cost is unit price times quantity": lambda line: (
        number(line, "ContractedCost") == number(line, "ContractedUnitPrice") * number(line, "PricingQuantity")
    ),
    "a price has an SKU": lambda line: bool(line["SkuId"] and line["SkuPriceId"] and line["SkuMeter"]),
    "consumption has a unit": lambda line: bool(line["ConsumedUnit"]) == bool(line["ConsumedQuantity"]),
    "a sub account has a type": lambda line: bool(line["SubAccountType"]) == bool(line["SubAccountId"]),
    "tags are an object of texts": lambda line: all(isinstance(one, str) for one in json.loads(line["Tags"]).values()),
    "details of the price are an object": lambda line: isinstance(json.loads(line["SkuPriceDetails"]), dict),
    "the account is the organization": lambda line: is_id(line["BillingAccountId"]),
    "what must be there is there": lambda line: all(line[name] for name in MANDATORY - NULL_ALLOWED),
}


def test_mandatory_columns_are_there_and_others_of_our_own_are_marked() -> None:
    assert set(FOCUS_COLUMNS) >= MANDATORY
    assert len(set(FOCUS_COLUMNS)) == len(FOCUS_COLUMNS)
    assert all(re.fullmatch(r"(x_)?([A-Z][a-z]+)+", name) for name in FOCUS_COLUMNS)


async def test_lines_keep_the_rules_and_share_out_what_is_charged(platform: Platform, metering: Metering) -> None:
    organization_id, project_id = new_id(), new_id()
    await metering.add_model("awkward")
    await metering.set_price("awkward", price_in="0.333333333", price_out="0.777777777", per_request="0.000000001")
    counts = model_pb2.TokenCounts(input=7, output=11, cache_read=13)
    for number_, labels in enumerate(({}, {"team": 'a "b"'}, {"x": "=1"})):
        one = usage(
            organization_id, f"op-{number_}", model="awkward", tokens=counts, labels=labels, project_id=project_id
        )
        await metering.record(one)
    await metering.record(usage(organization_id, "free", model="awkward", tokens=model_pb2.TokenCounts()))
    images = [unit_pb2.Quantity(unit="images", value="2")]
    await metering.record(usage(organization_id, "stated", stated_amount=usd("0.1"), quantities=images))
    await metering.record(usage(organization_id, "test", environment=pb.ENVIRONMENT_TEST))
    await metering.record(usage(organization_id, "unpriced", model="nothing"))
    await amend(metering, organization_id, "op-0", tokens=tokens(5, 3))
    await void(metering, organization_id, "op-1")
    file = await exported(metering, export(organization_id, FOCUS, issuer_name="Acme"))
    lines = file.table()
    broken = {rule: line for rule, holds in RULES.items() for line in lines if not holds(line)}
    assert broken == {}
    billed = sum(Decimal(line["BilledCost"]) for line in lines)
    test_cost = Decimal("0.0035")
    assert billed == values(file.manifest.costs)["USD"] - test_cost
    assert billed == values(file.manifest.charges)["USD"]
    assert {line["BilledCost"] for line in lines if line["x_Environment"] == "TEST"} == {"0"}
    shares = [line for line in lines if line["x_OperationId"] == "op-2"]
    assert [line["SkuMeter"] for line in shares] == ["Input tokens", "Output tokens", "Cache read tokens", "Requests"]
    assert sum(Decimal(line["ConsumedQuantity"]) for line in lines if line["x_OperationId"] == "op-1") == 0
    assert file.manifest.unpriced_count == 1
    assert {line["ChargeClass"] for line in lines} == {""}
    assert {line["PublisherName"] for line in lines} >= {"Acme"}


async def test_correction_in_a_later_month_is_called_one_and_billed_then(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "old"))
    earlier = "SET {0} = {0} - interval '35 days' WHERE organization_id = $1::uuid"
    for table, column in (("records", "occur_time"), ("operations", "occur_time"), ("records", "create_time")):
        await platform.execute(f"UPDATE metering.usage_{table} {earlier.format(column)}", organization_id)
    await amend(metering, organization_id, "old", tokens=tokens(1, 1))
    file = await exported(metering, export(organization_id, FOCUS, start_time=stamp(days=-60)))
    classes = [
        (line["ChargeClass"], line["BillingPeriodStart"][:7] == line["ChargePeriodStart"][:7]) for line in file.table()
    ]
    assert classes[:2] == [("", True)] * 2
    assert set(classes[2:]) == {("Correction", False)}
