"""Lists over all organizations, shard by shard, and how they are divided into pages."""

from collections.abc import Sequence

from libs.common.database import Database
from libs.common.ids import is_id
from libs.common.pages import decode_page_token, encode_page_token, foreign_token
from libs.common.shards import Shards

Key = tuple[str, ...]
"""The sort key of a row: the organization's id and what follows."""


def place_in_token(page_token: str, fingerprint: str, first: Key, shard_count: int) -> tuple[int, Key]:
    """Return the number of the shard in which a page begins, and the key after which it does.

    `first` is the key before the first row of each shard.

    Raises:
        InvalidArgument: the token is not one of ours, or belongs to another query.
    """
    if not page_token:
        return 0, first
    number, *key = decode_page_token(page_token, fingerprint) or ("",)
    if len(key) != len(first) or not is_id(key[0]) or not _is_number(number) or int(number) >= shard_count:
        raise foreign_token()
    return int(number), tuple(key)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3


def token_after(number: int, last: Key | None, fingerprint: str, first: Key, shard_count: int) -> str:
    """Return the token of the next page: after `last` in the same shard, or, if that has no more, of the next shard.

    It is empty after the last row of the last shard.
    """
    if last is not None:
        return encode_page_token(str(number), *last, fingerprint=fingerprint)
    if number + 1 < shard_count:
        return encode_page_token(str(number + 1), *first, fingerprint=fingerprint)
    return ""


def by_shard(shards: Shards, organization_ids: Sequence[str]) -> list[tuple[Database, list[str]]]:
    """Return the shards in which the organizations are, by number, each with the organizations in it, sorted by id."""
    inside: dict[int, list[str]] = {}
    for organization_id in sorted(set(organization_ids)):
        inside.setdefault(shards.number_of(organization_id), []).append(organization_id)
    return [(shards[number], inside[number]) for number in sorted(inside)]
