"""Looking up users by email address, and keys by the visible beginning of their secret."""

import re
from collections.abc import Sequence
from typing import Final

from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.terminal.calling import listed
from libs.cli.terminal.connection import Channels
from tollhouse.identity.v1 import api_key_pb2, api_key_pb2_grpc, user_pb2, user_pb2_grpc

_ID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SECRET: Final = re.compile(r"th_(live|test)_[0-9A-Za-z]{20,}")
_VISIBLE_MIN: Final = 8
_KEYS_LOOKED_AT: Final = 100_000
_CANDIDATES_SHOWN: Final = 5


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


async def find_user_id(channels: Channels, text: str) -> str | None:
    """Return the id of the user with this email address, or None. A text that is an id is returned as it is."""
    if is_id(text):
        return text
    if "@" not in text:
        raise WrongUse(f"{text!r} is neither a user's id nor an email address.")
    stub = user_pb2_grpc.UserServiceStub(channels.identity)
    found = await stub.ListUsers(user_pb2.ListUsersRequest(email=text, page_size=1))
    return found.users[0].user_id if found.users else None


async def user_id_of(channels: Channels, text: str) -> str:
    """Return the id of the user with this email address; raises CommandFailed if there is none."""
    user_id = await find_user_id(channels, text)
    if user_id is None:
        raise CommandFailed(f"There is no user with the email address {text}.")
    return user_id


async def api_key_id_of(channels: Channels, organization_id: str, text: str) -> str:
    """Return the id of the key that is named by its id or by the visible beginning of its secret."""
    if is_id(text):
        return text
    if _SECRET.match(text):
        raise WrongUse("Do not put a secret on the command line: name the key by its id or its visible beginning.")
    beginning = text.removesuffix("…").removesuffix("...")
    if len(beginning) <= _VISIBLE_MIN:
        raise WrongUse(f"{text!r} is neither a key's id nor the visible beginning of its secret, such as th_live_0aB1.")
    stub = api_key_pb2_grpc.ApiKeyServiceStub(channels.identity)
    keys, _ = await listed(
        stub.ListApiKeys,
        api_key_pb2.ListApiKeysRequest(organization_id=organization_id),
        lambda page: page.api_keys,
        _KEYS_LOOKED_AT,
    )
    return _only([key for key in keys if key.secret_prefix.startswith(beginning)], text)


def _only(keys: Sequence[api_key_pb2.ApiKey], text: str) -> str:
    if not keys:
        raise CommandFailed(f"No key of the organization begins with {text}.")
    if len(keys) > 1:
        ids = ", ".join(key.api_key_id for key in keys[:_CANDIDATES_SHOWN])
        raise WrongUse(f"{len(keys)} keys begin with {text}; name one by its id: {ids}.")
    return keys[0].api_key_id
