"""Where the next page of a list begins, when the list runs along one id."""

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import is_id
from libs.common.pages import decode_page_token


def id_in_token(token: str, fingerprint: str) -> str | None:
    """Return the id after which the page begins, or None for the first page.

    Raises:
        InvalidArgument: the token is not one of ours, or belongs to another list.
    """
    if not token:
        return None
    key = decode_page_token(token, fingerprint)
    if len(key) != 1 or not is_id(key[0]):
        raise InvalidArgument([FieldViolation("page_token", "is not a token of this list")])
    return key[0]
