"""What is wrong with a field, in words: the sentence for each rule that the protos use.

protovalidate's own messages repeat regular expressions and say "at least 1 characters". A rule that brings a message of
its own (CEL) keeps it.
"""

from collections.abc import Callable, Mapping
from typing import Final

import protovalidate

_NAME_WORDS: Final = "must begin with a letter or digit and hold only letters, digits and . _ : / -"

PATTERN_WORDS: Final[Mapping[str, str]] = {
    r"^[12][0-9]{3}-(0[1-9]|1[0-2])$": "must be a month such as 2026-01",
    r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$": "must begin with a letter or digit and hold only letters, digits and . _ -",
    r"^([A-Za-z0-9][A-Za-z0-9._:/-]*)?$": _NAME_WORDS,
    r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$": _NAME_WORDS,
    r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$": (
        "must begin with a letter or digit and hold only letters, digits and . _ : / @ + -"
    ),
    r"^([A-Za-z0-9][A-Za-z0-9._:/@+-]*\*?|\*)$": (
        "must be a name of letters, digits and . _ : / @ + -, which may end in *, or * alone"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9._-]{1,31}$": (
        "must have 2 to 32 characters, begin with a letter or digit and hold only letters, digits and . _ -"
    ),
    r"^[a-z0-9][a-z0-9._-]{0,63}$": (
        "must have 1 to 64 characters, begin with a lower-case letter or digit and hold only those and . _ -"
    ),
    r"^[a-z][a-z0-9._-]*$": "must begin with a lower-case letter and hold only those, digits and . _ -",
    r"^[a-z][a-z0-9_.:-]*$": "must begin with a lower-case letter and hold only those, digits and . _ : -",
    r"^[A-Z][A-Z0-9]{1,11}$": "must be a code of 2 to 12 upper-case letters and digits, such as USD or CREDIT",
    r"^([a-z][a-z0-9_]{0,63})?$": (
        "must be at most 64 lower-case letters, digits and underscores, beginning with a letter, or empty"
    ),
    r"^[a-z0-9][a-z0-9_.-]{0,63}$": (
        "must be 1 to 64 lower-case letters, digits and _ . -, beginning with a letter or digit"
    ),
    r"^([a-z0-9][a-z0-9_.-]{0,63})?$": (
        "must be at most 64 lower-case letters, digits and _ . -, beginning with a letter or digit, or empty"
    ),
    r"^([0-9]{1,15}(\.[0-9]{1,9})?)?$": (
        "must be a plain decimal of at most 15 integer and 9 fraction digits, not negative, or empty"
    ),
    r"^([A-Z][A-Z0-9]{1,11})?$": "must be a code of 2 to 12 upper-case letters and digits, such as USD, or empty",
    r"^-?[0-9]{1,15}(\.[0-9]{1,9})?$": "must be a plain decimal of at most 15 integer and 9 fraction digits",
    r"^[0-9]{1,15}(\.[0-9]{1,9})?$": (
        "must be a plain decimal of at most 15 integer and 9 fraction digits, not negative"
    ),
    r"^(https?://[^\s\x00-\x1f\x7f]+)?$": "must be an http or https address without spaces",
    r"^([0-9]{1,9}(\.[0-9]{1,9})?)?$": (
        "must be a plain decimal of at most 9 integer and 9 fraction digits, not negative, or empty"
    ),
    r"^([0-9]{1,15}(\.[0-9]{1,3})?)?$": (
        "must be a plain decimal of at most 15 integer and 3 fraction digits, not negative, or empty"
    ),
    r"^[0-9]{1,9}(\.[0-9]{1,9})?$": "must be a plain decimal of at most 9 integer and 9 fraction digits, not negative",
    r"^[0-9]{1,10}(\.[0-9]{1,9})?$": "must be a decimal of at most 10 integer and 9 fraction digits, not negative",
    r"^[0-9]{1,6}(\.[0-9]{1,6})?$": "must be a plain decimal of at most 6 integer and 6 fraction digits, not negative",
    r"^-?[0-9]{1,6}(\.[0-9]{1,6})?$": "must be a plain decimal of at most 6 integer and 6 fraction digits",
    r"^-?[0-9]{1,6}(\.[0-9]{1,4})?$": "must be a plain decimal of at most 6 integer and 4 fraction digits",
    r"^\$(\.[A-Za-z_][A-Za-z0-9_-]{0,63}){1,8}$": (
        "must be a plain path such as $.tokens.input: at most 8 names of letters, digits, _ -, no brackets, no *"
    ),
    r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$": (
        "must be 1 to 64 letters, digits and _ . -, beginning with a letter or underscore"
    ),
    r"^(1|0\.1|0\.01|0\.001)?$": "must be 1, 0.1, 0.01 or 0.001",
    r"^[a-z][a-z0-9_]{0,63}$": ("must be 1 to 64 lower-case letters, digits and underscores, beginning with a letter"),
    r"^[a-z][a-z0-9_-]{0,63}$": (
        "must be 1 to 64 lower-case letters, digits, underscores and hyphens, beginning with a letter"
    ),
    r"^([a-z][a-z0-9_-]{0,63})?$": (
        "must be at most 64 lower-case letters, digits, underscores and hyphens, beginning with a letter"
    ),
    r"^[a-z][a-z0-9_-]{0,31}$": (
        "must be 1 to 32 lower-case letters, digits, underscores and hyphens, beginning with a letter"
    ),
    r"^([01][0-9]|2[0-3]):[0-5][0-9]$": "must be a time of day such as 06:00, from 00:00 to 23:59",
    r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$": "must be a time of day such as 06:00, from 00:00 to 24:00",
    r"^([a-z][a-z0-9_-]{0,31})?$": (
        "must be at most 32 lower-case letters, digits, underscores and hyphens, beginning with a letter"
    ),
    r"^[0-9a-f]{32}$": "must be 32 lower-case hexadecimal digits",
    r"^[0-9a-f]{64}$": "must be 64 lower-case hexadecimal digits",
    r"^[0-9A-Fa-f]{64}$": "must be 64 hexadecimal digits",
    r"^([\x21-\x29\x2b-\x7e]+\*?|\*)$": "must hold only visible ASCII characters, and * only at its end",
    r"^[\x21-\x7e]*$": "must hold only visible ASCII characters, without spaces",
    r"^[\x21-\x7e]+$": "must not be empty, and hold only visible ASCII characters, without spaces",
    r"^[a-z0-9][a-z0-9._-]{0,99}$": (
        "must have 1 to 100 characters, begin with a lower-case letter or digit and hold only those and . _ -"
    ),
    r"^[!-~]*$": "must hold only visible ASCII characters, without spaces",
    r"^[^\x00]*$": "must not hold the character U+0000",
    r"^[^\x00-\x1f\x7f]*$": "must not hold control characters or line breaks",
    r"^[^\x00-\x1f\x7f]+$": "must not be empty, nor hold control characters or line breaks",
    r"^[^\x00-\x20\x7f]*$": "must not hold spaces, control characters or line breaks",
    r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$": (
        "must not be blank, nor hold control characters or line breaks"
    ),
    r"^[!-9;-~]+$": "must not be empty, and hold only visible ASCII characters, without spaces and colons",
    r"^[\t -~]*$": "must hold only visible ASCII characters, spaces and tabs",
    r"^[A-Za-z0-9_=-]*$": "must hold only letters, digits and _ = -",
    r"^[A-Za-z0-9_-]{1,256}$": "must be 1 to 256 letters, digits, underscores and hyphens",
    r"^[a-z][a-z_]{0,31}$": "must be 1 to 32 lower-case letters and underscores, beginning with a letter",
    r"^([a-z][a-z_]{0,31})?$": "must be at most 32 lower-case letters and underscores, beginning with a letter",
    r"^(https://[!-~]+)?$": "must begin with https://, and hold no spaces",
    r"^(https://|http://localhost)[!-~]+$": "must begin with https://, or http://localhost, and hold no spaces",
    r"^([0-9]{1,3}(\.[0-9]{1,4})?)?$": "must be a percentage such as 19 or 7.25, with at most four fraction digits",
    r"^[A-Za-z0-9./_-]{0,31}[A-Za-z./_-]$": ("must be 1 to 32 letters, digits and . / _ -, and not end in a digit"),
    r"^([A-Za-z0-9./_-]{0,31}[A-Za-z./_-])?$": (
        "must be at most 32 letters, digits and . / _ -, and not end in a digit"
    ),
    r"^tollhouse[.][a-z][a-z0-9_]{0,40}[.]([a-z][a-z0-9_]{0,40}|[*])$": (
        "must be a type of events such as tollhouse.invoice.issued, or all of a noun such as tollhouse.invoice.*"
    ),
    r"^(en|de|fr|es)?$": "must be en, de, fr or es",
}
"""The words for every regular expression in the protos; a contract test looks for one that is missing."""

_UNKNOWN_PATTERN: Final = "has characters that are not allowed here, or not in this order"


def describe(violation: protovalidate.Violation) -> str:
    """Return what is wrong with the field, in words that go after its name."""
    rule = violation.proto.rule_id or ""
    words = _WORDS.get(rule)
    if words is not None:
        return words(violation.rule_value)
    message = violation.proto.message or rule
    return message.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")


def _length(unit: str) -> Callable[[object], str]:
    return lambda length: f"must have exactly {_count(length, unit)}"


def _at_least(unit: str) -> Callable[[object], str]:
    return lambda length: "must not be empty" if length == 1 else f"must have at least {_count(length, unit)}"


def _at_most(unit: str) -> Callable[[object], str]:
    return lambda length: f"must have at most {_count(length, unit)}"


def _count(number: object, unit: str) -> str:
    return f"{number} {unit}" if number != 1 else f"1 {unit.removesuffix('s') if unit != 'entries' else 'entry'}"


def _fixed(words: str) -> Callable[[object], str]:
    return lambda _: words


_WORDS: Final[Mapping[str, Callable[[object], str]]] = {
    "required": _fixed("is required"),
    "string.len": _length("characters"),
    "string.min_len": _at_least("characters"),
    "string.max_len": _at_most("characters"),
    "string.min_bytes": _at_least("bytes"),
    "string.max_bytes": _at_most("bytes"),
    "string.pattern": lambda pattern: PATTERN_WORDS.get(str(pattern), _UNKNOWN_PATTERN),
    "string.uuid": _fixed("must be a UUID"),
    "string.uuid_empty": _fixed("must be a UUID"),
    "string.email": _fixed("must be an email address"),
    "string.email_empty": _fixed("must be an email address"),
    "string.ip": _fixed("must be an IP address"),
    "string.ip_empty": _fixed("must be an IP address"),
    "bytes.len": _length("bytes"),
    "bytes.min_len": _at_least("bytes"),
    "bytes.max_len": _at_most("bytes"),
    "repeated.min_items": _at_least("entries"),
    "repeated.max_items": _at_most("entries"),
    "repeated.unique": _fixed("must not hold the same entry twice"),
    "map.min_pairs": _at_least("entries"),
    "map.max_pairs": _at_most("entries"),
    "enum.defined_only": _fixed("must be one of the values that the enum names"),
    "enum.not_in": _fixed("must be set to one of the values that the enum names"),
}
