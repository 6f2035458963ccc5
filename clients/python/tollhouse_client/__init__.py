"""Authorize, meter and charge calls with Tollhouse. README.md has an example of each part."""

from tollhouse_client.batching import Batching
from tollhouse_client.client import Client
from tollhouse_client.connection import Tls
from tollhouse_client.credentials import ApiKey, Credentials, SigningKey, Token
from tollhouse_client.retries import Retries

__all__ = ["ApiKey", "Batching", "Client", "Credentials", "Retries", "SigningKey", "Tls", "Token"]
