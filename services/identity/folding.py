"""When two texts are the same name to a person."""

import unicodedata


def fold(text: str) -> str:
    """Return the text without differences of case and of compatible characters, for unique keys."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()
