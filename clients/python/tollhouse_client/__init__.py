"""Authorize, meter and charge calls with Tollhouse. README.md has an example of each part."""

from tollhouse_client.batching import Batching
from tollhouse_client.call import AuthorizedCall, Call
from tollhouse_client.client import Client
from tollhouse_client.connection import Tls
from tollhouse_client.credentials import ApiKey, Credentials, SigningKey, Token
from tollhouse_client.key_cache import KeyAnswer, KeyCache, VerifiedKey
from tollhouse_client.leases import Lease
from tollhouse_client.meter import Meter
from tollhouse_client.recorder import Recorder
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
    "Lease",
    "Meter",
    "Recorder",
    "Retries",
    "SigningKey",
    "Tls",
    "Token",
    "VerifiedKey",
]
