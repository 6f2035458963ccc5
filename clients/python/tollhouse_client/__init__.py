"""Authorize, meter and charge calls with Tollhouse. README.md has an example of each part."""

from tollhouse_client.batching import Batching
from tollhouse_client.client import Client
from tollhouse_client.connection import Tls
from tollhouse_client.credentials import ApiKey, Credentials, SigningKey, Token
from tollhouse_client.key_cache import KeyAnswer, KeyCache, VerifiedKey
from tollhouse_client.meter import AuthorizedCall, Call, Meter
from tollhouse_client.retries import Retries

__all__ = [
    "ApiKey",
    "AuthorizedCall",
    "Batching",
    "Call",
    "Client",
    "Credentials",
    "KeyAnswer",
    "KeyCache",
    "Meter",
    "Retries",
    "SigningKey",
    "Tls",
    "Token",
    "VerifiedKey",
]
