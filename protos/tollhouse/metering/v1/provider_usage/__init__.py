"""Turns the usage objects that model providers answer with into quantities of units.

One function for each kind of object. It takes what `json.loads` gives, or a library's `model_dump()`, and returns each
token in exactly one unit. An object that does not add up, or that has a count this version does not know, is refused
with `UsageRefused`, which names every field at fault and both figures of a contradiction; it is never turned into a
part of what was used. docs/units.md has the table of units and worked examples.

It imports the standard library alone.
"""

from tollhouse.metering.v1.provider_usage.anthropic import anthropic_messages
from tollhouse.metering.v1.provider_usage.bedrock import bedrock_converse
from tollhouse.metering.v1.provider_usage.gemini import gemini_generate_content
from tollhouse.metering.v1.provider_usage.openai import (
    openai_chat,
    openai_embeddings,
    openai_images,
    openai_realtime,
    openai_responses,
    openai_transcription,
)
from tollhouse.metering.v1.provider_usage.pools import CacheLifetime
from tollhouse.metering.v1.provider_usage.reading import Fault, ProviderUsage, UsageRefused

__all__ = [
    "CacheLifetime",
    "Fault",
    "ProviderUsage",
    "UsageRefused",
    "anthropic_messages",
    "bedrock_converse",
    "gemini_generate_content",
    "openai_chat",
    "openai_embeddings",
    "openai_images",
    "openai_realtime",
    "openai_responses",
    "openai_transcription",
]
