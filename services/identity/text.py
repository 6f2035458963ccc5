"""Which characters are harmful in what people are called.

Letters of every script are kept, and so are the joiners (U+200C, U+200D) without which names in Persian, Sinhala or
Malayalam are misspelt. Harmful are characters that a reader cannot see and that break or falsify what is around them:

- control characters, NUL among them: they break logs and terminals, and Postgres stores no NUL;
- lone surrogates: no text in UTF-8 may hold them;
- controls of the writing direction (U+202A to U+202E, U+2066 to U+2069): they make a text read as another one;
- line and paragraph separators (U+2028, U+2029): they are line breaks in disguise.
"""

from typing import Final

_HARMFUL: Final = frozenset(
    chr(code)
    for codes in (
        range(0x20),
        range(0x7F, 0xA0),
        range(0x2028, 0x202F),
        range(0x2066, 0x206A),
        range(0xD800, 0xE000),
    )
    for code in codes
)


def is_harmful(character: str) -> bool:
    """Tell whether a character must not stand in a name."""
    return character in _HARMFUL


def has_harmful(text: str) -> bool:
    """Tell whether any character of a text must not stand in a name."""
    return not _HARMFUL.isdisjoint(text)


def without_harmful(text: str) -> str:
    """Return a text without the characters that must not stand in a name."""
    return "".join(character for character in text if character not in _HARMFUL)
