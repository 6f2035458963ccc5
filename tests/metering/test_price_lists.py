"""What the readers of price lists make of odd, hostile and wrong entries: one of them never fails another."""

import json
from dataclasses import replace
from decimal import Decimal

import pytest

from libs.common.errors import InvalidArgument
from services.metering.model.price_list import ListedModel, PriceList, SkippedEntry, Terms, read_litellm, read_yaml
from services.metering.model.units import SEEDED_UNITS

GOOD_JSON = '"good": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}'
GOOD_YAML = "  - {model_id: good, currency_code: USD, prices: {input: 1, output: 2}}\n"
YAML = "  - {{model_id: odd, currency_code: USD, prices: {{input: {input}, output: 2}}, description: {description}}}\n"


def litellm(*entries: str) -> PriceList:
    return read_litellm(("{" + ", ".join([*entries, GOOD_JSON]) + "}").encode("utf-8", "surrogatepass"))


def yaml(*entries: str) -> PriceList:
    return read_yaml(("models:\n" + "".join([*entries, GOOD_YAML])).encode("utf-8", "surrogatepass"))


def only_skipped(entries: PriceList) -> SkippedEntry:
    """The one entry that was skipped, after making sure that the good one was read."""
    (skipped,) = (entry for entry in entries if isinstance(entry, SkippedEntry))
    assert [entry.model_id for entry in entries if isinstance(entry, ListedModel)] == ["good"]
    skipped.reason.encode()
    skipped.model_id.encode()
    assert "\0" not in skipped.model_id + skipped.reason
    return skipped


def listed(entries: PriceList, name: str) -> ListedModel:
    (found,) = (entry for entry in entries if entry.model_id == name)
    assert isinstance(found, ListedModel), found
    return found


ODD_PRICES = {
    "huge_exponent": ("1e999999999", "is not a number of at most 80 digits"),
    "tiny_exponent": ("1e-999999999", "is not a number of at most 80 digits"),
    "million_digits": ("9" * 900_000, "is not a number of at most 80 digits"),
    "large": ("1e900", "too large"),
    "fine": ("1e-900", "finer than a billionth"),
    # Rounded to 28 digits, this would be a price like any other.
    "fine_at_the_fortieth_digit": ("0.0000010000000000000000000000000000000001", "finer"),
    "negative": ("-1e-06", "negative"),
    "not_a_number": ("NaN", "is not a number"),
    "infinite": ("Infinity", "is not a number"),
    "minus_infinite": ("-Infinity", "is not a number"),
    "true": ("true", "is not a number"),
    "text": ('"abc"', "is not a number"),
    "underscores": ('"1_000"', "is not a number"),
    "other_digits": ('"\u0661"', "is not a number"),
    "list": ("[1]", "is not a number"),
    "mapping": ('{"a": 1}', "is not a number"),
}


@pytest.mark.parametrize("name", ODD_PRICES)
def test_litellm_price_that_is_not_a_price_skips_its_entry_alone_and_is_named(name: str) -> None:
    text, reason = ODD_PRICES[name]
    skipped = only_skipped(litellm(f'"odd": {{"input_cost_per_token": {text}, "output_cost_per_token": 0}}'))
    assert skipped.model_id == "odd"
    assert reason in skipped.reason
    assert "input_cost_per_token" in skipped.reason


@pytest.mark.parametrize(
    "text", ["1e999999999", "9" * 500_000, ".nan", ".inf", "true", "[1]", "{a: 1}", "1:30", "0x1F"]
)
def test_yaml_price_that_is_not_a_price_skips_its_entry_alone(text: str) -> None:
    skipped = only_skipped(yaml(YAML.format(input=text, description="d")))
    assert skipped.model_id == "odd"
    assert "is not a number" in skipped.reason


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud800", "\\udfff\\ud800"])
@pytest.mark.parametrize(
    "entry",
    [
        '"odd": {{"input_cost_per_token": 1, "output_cost_per_token": 1, "litellm_provider": "a{0}"}}',
        '"odd": {{"input_cost_per_token": 1, "output_cost_per_token": 1, "mode": "{0}"}}',
        '"odd": {{"input_cost_per_token": 1, "output_cost_per_token": 1, "supports_{0}": true}}',
        '"odd": {{"input_cost_per_token": 1, "output_cost_per_token": 1, "source": {{"x": ["{0}"]}}}}',
        '"odd": {{"input_cost_per_token": "1{0}", "output_cost_per_token": 1}}',
        '"odd{0}": {{"input_cost_per_token": 1, "output_cost_per_token": 1}}',
    ],
)
def test_text_that_cannot_be_stored_skips_its_entry_alone_in_json(entry: str, escape: str) -> None:
    assert only_skipped(litellm(entry.format(escape))).reason


@pytest.mark.parametrize("escape", ["\\0", "\\u0000", "\\ud800"])
@pytest.mark.parametrize(
    "key",
    [
        *("provider", "display_name", "description", "capabilities", "metadata", "model_id", "currency_code"),
        *("rates", "fallbacks", "provider_currency_code", "factor"),
    ],
)
def test_text_that_cannot_be_stored_skips_its_entry_alone_in_yaml(key: str, escape: str) -> None:
    values = {
        "capabilities": f'["a{escape}"]',
        "metadata": f'{{k: "v{escape}"}}',
        "rates": f'[{{unit: "a{escape}", price: 1}}]',
        "fallbacks": f'{{"a{escape}": input_tokens}}',
    }
    fields = {"model_id": "odd", "currency_code": "USD", "prices": "{input: 1, output: 2}"}
    fields[key] = values.get(key, f'"odd{escape}"')
    entry = ", ".join(f"{name}: {value}" for name, value in fields.items())
    assert only_skipped(yaml(f"  - {{{entry}}}\n")).reason


def test_raw_nul_and_bytes_that_are_not_utf8_skip_their_entry_alone() -> None:
    for raw in (b"a\0b", b"\xff", b"\xed\xa0\x80"):
        entry = b'{"odd": {"input_cost_per_token": 1, "output_cost_per_token": 1, "mode": "%s"}, ' % raw
        assert only_skipped(read_litellm(entry + GOOD_JSON.encode() + b"}")).model_id == "odd"


def test_pair_of_surrogates_is_a_character() -> None:
    entry = '"odd": {"input_cost_per_token": 1, "output_cost_per_token": 1, "litellm_provider": "\\ud83d\\ude00"}'
    assert listed(litellm(entry), "odd").provider == "😀"


@pytest.mark.parametrize("value", ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000])
def test_entry_nested_ten_thousand_deep_is_skipped_alone(value: str) -> None:
    assert only_skipped(litellm(f'"odd": {value}')).reason == "is nested more than 32 deep"
    within = f'"odd": {{"input_cost_per_token": 1, "output_cost_per_token": 1, "x": {value}}}'
    assert only_skipped(litellm(within)).reason == "is nested more than 32 deep"


def test_yaml_nested_too_deep_is_refused_at_once() -> None:
    assert only_skipped(yaml(YAML.format(input=1, description="[" * 100 + "]" * 100))).model_id == "odd"
    with pytest.raises(InvalidArgument, match="nested more than 1000 deep"):
        yaml(YAML.format(input=1, description="[" * 100_000))


def test_large_entry_is_skipped_alone() -> None:
    assert "is larger than" in only_skipped(litellm(f'"odd": {{"source": "{"x" * 1_000_000}"}}')).reason
    assert "is larger than" in only_skipped(yaml(YAML.format(input=1, description="x" * 1_000_001))).reason


def test_yaml_aliases_are_not_followed() -> None:
    levels = "".join(f"  - [{', '.join([f'*a{n}'] * 10)}]\n".replace("- [", f"- &a{n + 1} [") for n in range(30))
    entries = yaml("  - &a0 {model_id: bomb, currency_code: USD, prices: {input: 1, output: 1}}\n" + levels)
    assert len(entries) == 32
    assert listed(entries, "good").model_id == "good"
    assert {entry.reason for entry in entries if isinstance(entry, SkippedEntry)} <= {
        "has a name that is not a model id: 1 to 256 visible ASCII characters",
        "has a YAML alias, which is not supported",
    }
    aliased = "  - {model_id: odd, currency_code: USD, prices: {input: 1, output: 1}, provider: &p x, mode: *p}\n"
    assert "alias" in only_skipped(yaml(aliased)).reason
    assert "tag" in only_skipped(yaml(YAML.format(input=1, description="!!python/name:os.system x"))).reason


def test_model_that_stands_twice_is_named_and_neither_is_read() -> None:
    odd = '"odd": {"input_cost_per_token": %d, "output_cost_per_token": 0}'
    for entries in (
        litellm(odd % 1, odd % 2),
        litellm(odd % 1, '"\\u006fdd": {}'),
        yaml(YAML.format(input=1, description="a"), YAML.format(input=2, description="b")),
    ):
        skipped = [entry for entry in entries if isinstance(entry, SkippedEntry)]
        assert [(one.model_id, one.reason) for one in skipped] == [("odd", "stands twice in the list")] * 2
        assert listed(entries, "good").model_id == "good"


def test_key_that_stands_twice_skips_its_entry_and_is_named() -> None:
    price = "input_cost_per_token"
    assert only_skipped(litellm(f'"odd": {{"{price}": 1, "output_cost_per_token": 1, "{price}": 2}}')).reason == (
        f"has the key {price} twice"
    )
    nested = f'"odd": {{"{price}": 1, "output_cost_per_token": 1, "x": [{{"low": 1, "low": 2}}]}}'
    assert only_skipped(litellm(nested)).reason == "has the key low twice"
    doubled = "  - {model_id: odd, currency_code: USD, prices: {input: 1, output: 1, input: 2}}\n"
    assert only_skipped(yaml(doubled)).reason == "has the key input twice"
    with pytest.raises(InvalidArgument, match="`models` twice"):
        read_yaml(f"models:\n{GOOD_YAML}models: []\n".encode())


@pytest.mark.parametrize(
    "name",
    [
        "@cf/meta/llama-3.1-8b-instruct",
        "~anthropic/claude-x",
        "accounts/a/models/m#accounts/a/deployments/d",
        "models/gemini=1",
        "bedrock/*/1-month-commitment/x",
        "!" * 256,
    ],
)
def test_names_of_models_are_visible_ascii(name: str) -> None:
    entry = f'{json.dumps(name)}: {{"input_cost_per_token": 1, "output_cost_per_token": 1}}'
    assert listed(litellm(entry), name).model_id == name
    quoted = json.dumps(name)
    entry = f"  - {{model_id: {quoted}, currency_code: USD, prices: {{input: 1, output: 1}}}}\n"
    assert listed(yaml(entry), name).model_id == name


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 257, "a\tb", "\x7f", "\u200d"])
def test_names_that_are_no_model_ids_are_skipped_with_the_reason(name: str) -> None:
    entry = f'{json.dumps(name)}: {{"input_cost_per_token": 1, "output_cost_per_token": 1}}'
    assert "is not a model id" in only_skipped(litellm(entry)).reason


@pytest.mark.parametrize(
    "count", ["-1", '"many"', "1.5", "1e999999", "9" * 100_000, "NaN", "true", "[1]", "2000000000"]
)
def test_count_that_makes_no_sense_is_named_and_taken_as_unknown(count: str) -> None:
    entry = f'"odd": {{"input_cost_per_token": 1, "output_cost_per_token": 1, "max_input_tokens": {count}}}'
    model = listed(litellm(entry), "odd")
    assert model.context_length == 0
    assert model.warnings == (
        "max_input_tokens is not a whole number from 0 to 1,000,000,000 and is treated as unknown",
    )


@pytest.mark.parametrize(
    ("count", "read"), [("128000", 128000), ("12.0", 12), ('"7"', 7), ("1e6", 1_000_000), ("null", 0)]
)
def test_count_that_is_a_whole_number_is_read_however_it_is_written(count: str, read: int) -> None:
    entry = f'"odd": {{"input_cost_per_token": 1, "output_cost_per_token": 1, "max_output_tokens": {count}}}'
    model = listed(litellm(entry), "odd")
    assert (model.max_output_tokens, model.warnings) == (read, ())


def test_whatever_is_cut_or_left_out_is_named() -> None:
    prices = "currency_code: USD, prices: {input: 1, output: 1}"
    capabilities = ", ".join(f"c{number}" for number in range(65))
    metadata = ", ".join(f"k{number}: v" for number in range(33))
    entry = (
        f"  - {{model_id: odd, {prices}, provider: {'p' * 101}, description: {'d' * 5000}, context_lenght: 1, "
        f"capabilities: [{capabilities}], metadata: {{{metadata}}}, display_name: [x], max_output_tokens: -5}}\n"
    )
    model = listed(yaml(entry), "odd")
    assert model.warnings == (
        "unknown keys are left out: context_lenght",
        "provider is cut to 100 characters",
        "display_name is not a text and is left out",
        "description is cut to 4096 characters",
        "capabilities beyond the first 64 are left out",
        "max_output_tokens is not a whole number from 0 to 1,000,000,000 and is treated as unknown",
        "metadata is left out: k32",
    )
    assert (len(model.description), model.description[-1], len(model.metadata)) == (4096, "…", 32)


PARTIAL = (
    '"odd": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "output_cost_per_image": 0.04, '
    '"off_peak_pricing": {"input_cost_per_token": 5e-07}, "output_cost_per_dream": 1, "input_cost_per_pixel": null, '
    '"fedramp_uplift_multiplier": 1.2, "mode": "chat"}'
)


def test_entry_with_prices_that_no_rate_holds_is_skipped_with_each_of_them_named() -> None:
    reason = only_skipped(litellm(PARTIAL)).reason
    assert "off_peak_pricing has no hours" in reason
    assert "output_cost_per_dream is not a price that this import knows" in reason


def test_prices_that_are_not_charged_are_named_where_an_entry_comes_in_without_them() -> None:
    entries = read_litellm(("{" + PARTIAL + "}").encode(), Terms(allow_partial=True))
    model = listed(entries, "odd")
    assert model.ignored_price_keys == ("off_peak_pricing", "output_cost_per_dream")
    assert {rate.unit_id for rate in model.card.rates} == {"input_tokens", "output_tokens", "images"}
    assert [warning.split()[0] for warning in model.warnings] == ["fedramp_uplift_multiplier"]


def test_prices_left_out_beyond_sixty_four_are_counted() -> None:
    unknown = ", ".join(f'"cost_{number:03}": 1' for number in range(70))
    entries = read_litellm(f'{{"odd": {{"input_cost_per_token": 1, {unknown}}}}}'.encode(), Terms(allow_partial=True))
    ignored = listed(entries, "odd").ignored_price_keys
    assert ignored == (*(f"cost_{number:03}" for number in range(64)), "and 6 more")


def test_alias_has_the_prices_of_an_entry_that_is_not_wanted() -> None:
    entries = read_litellm(('{"other": {"alias_of": "good"}, ' + GOOD_JSON + "}").encode(), Terms(["other"]))
    (other,) = entries
    assert isinstance(other, ListedModel)
    assert {rate.unit_id: rate.price for rate in other.card.rates} == {"input_tokens": 1, "output_tokens": 2}


def test_price_of_an_archived_unit_skips_its_entry_alone_in_json() -> None:
    units = {**SEEDED_UNITS, "images": replace(SEEDED_UNITS["images"], archived=True)}
    content = '{"odd": {"output_cost_per_image": 1, "mode": "image_generation"}, ' + GOOD_JSON + "}"
    skipped = only_skipped(read_litellm(content.encode(), Terms(units=units)))
    assert skipped.reason == "has prices of archived units: images"


def test_wanted_model_that_the_list_does_not_have_is_named() -> None:
    entries = read_litellm(("{" + GOOD_JSON + "}").encode(), Terms(["good", "gone"]))
    assert entries[1:] == [SkippedEntry("gone", "is not in the list")]


@pytest.mark.parametrize(
    "document",
    [
        *(b"{", b'{"a"', b'{"a":', b'{"a": {', b'{"a": 1', b'{"a": 1,}', b'{"a": {}} x', b'{"a": {"b": 01}}', b"nul"),
        *(
            b'{"a": {"b" 1}}',
            b'{"a": [}]}',
            b"{'a': 1}",
            b'{"a": "',
            b'{"a\\x": 1}',
            b'{"a": {"b": "c}}',
            b"\xff\xfe{\0}\0",
        ),
    ],
)
def test_document_that_is_not_a_json_object_is_refused_as_a_whole(document: bytes) -> None:
    with pytest.raises(InvalidArgument, match="is not "):
        read_litellm(document)


def test_json_is_split_as_it_would_be_parsed() -> None:
    document = {
        'a"b\\': {"x": '}{"', "y": ["]", {"z": "\\"}]},
        "plain": 1,
        "": None,
        "deep": [[[{}]]],
        "input": {"input_cost_per_token": "0.5", "output_cost_per_token": 1},
    }
    entries = read_litellm(("\ufeff " + json.dumps(document, indent=1)).encode())
    assert [entry.model_id for entry in entries] == list(document)
    assert listed(entries, "input").card.rates[0].price == Decimal(500_000)


def test_list_of_too_many_entries_is_refused() -> None:
    document = "{" + ",".join(f'"{number}":0' for number in range(200_001)) + "}"
    with pytest.raises(InvalidArgument, match="more than 200000 entries"):
        read_litellm(document.encode())
