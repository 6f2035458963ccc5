"""The form in which names are compared: without differences of case or of compatible characters."""

import unicodedata


def fold(text: str) -> str:
    """Return the form of a text that unique indexes store: casefolded and NFKC-normalised."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()
