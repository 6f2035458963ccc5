"""Usage objects in the shapes that providers publish, with figures of our own, and what each comes to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from tollhouse.metering.v1.provider_usage import (
    ProviderUsage,
    anthropic_messages,
    bedrock_converse,
    gemini_generate_content,
    openai_chat,
    openai_embeddings,
    openai_images,
    openai_realtime,
    openai_responses,
    openai_transcription,
)

Reader = Callable[..., ProviderUsage]


@dataclass(frozen=True)
class Example:
    """A usage object, what is said about it beside, and the quantities it comes to."""

    name: str
    read: Reader
    usage: Mapping[str, object]
    quantities: Mapping[str, int | Decimal]
    total_tokens: int
    stated: Mapping[str, object] = field(default_factory=dict)


OPENAI: Final = (
    Example(
        "chat with text alone",
        openai_chat,
        {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
        {"input_tokens": 19, "output_tokens": 10},
        29,
    ),
    Example(
        "chat as a library dumps it, with every field null or zero that does not apply",
        openai_chat,
        {
            "completion_tokens": 42,
            "prompt_tokens": 2176,
            "total_tokens": 2218,
            "completion_tokens_details": {
                "accepted_prediction_tokens": 0,
                "audio_tokens": 0,
                "reasoning_tokens": 0,
                "rejected_prediction_tokens": 0,
                "text_tokens": None,
            },
            "prompt_tokens_details": {
                "audio_tokens": 0,
                "cache_write_tokens": None,
                "cached_tokens": 2048,
                "image_tokens": None,
                "text_tokens": None,
            },
        },
        {"input_tokens": 128, "cache_read_tokens": 2048, "output_tokens": 42},
        2218,
    ),
    Example(
        "chat with cache, reasoning and rejected predictions, which are text",
        openai_chat,
        {
            "prompt_tokens": 6000,
            "completion_tokens": 900,
            "total_tokens": 6900,
            "prompt_tokens_details": {"cached_tokens": 4096, "cache_write_tokens": 1500},
            "completion_tokens_details": {"reasoning_tokens": 320, "rejected_prediction_tokens": 50},
        },
        {
            "input_tokens": 404,
            "cache_read_tokens": 4096,
            "cache_write_30m_tokens": 1500,
            "output_tokens": 580,
            "reasoning_tokens": 320,
        },
        6900,
    ),
    Example(
        "chat whose cache writes were asked to be kept for twelve hours",
        openai_chat,
        {
            "prompt_tokens": 3000,
            "completion_tokens": 5,
            "total_tokens": 3005,
            "prompt_tokens_details": {"cache_write_tokens": 2900},
        },
        {"input_tokens": 100, "cache_write_12h_tokens": 2900, "output_tokens": 5},
        3005,
        {"cache_write_lifetime": "12h"},
    ),
    Example(
        "chat with audio in both directions",
        openai_chat,
        {
            "prompt_tokens": 150,
            "completion_tokens": 260,
            "total_tokens": 410,
            "prompt_tokens_details": {"audio_tokens": 110, "cached_tokens": 0, "image_tokens": 0, "text_tokens": 40},
            "completion_tokens_details": {"audio_tokens": 200, "reasoning_tokens": 0, "text_tokens": 60},
        },
        {"input_tokens": 40, "audio_input_tokens": 110, "output_tokens": 60, "audio_output_tokens": 200},
        410,
    ),
    Example(
        "chat with an image, whose cached part is stated to be text",
        openai_chat,
        {
            "prompt_tokens": 2500,
            "completion_tokens": 30,
            "total_tokens": 2530,
            "prompt_tokens_details": {"cached_tokens": 1024, "image_tokens": 765},
        },
        {"input_tokens": 711, "cache_read_tokens": 1024, "image_input_tokens": 765, "output_tokens": 30},
        2530,
        {"undivided_cache_is_text": True},
    ),
    Example(
        "response with cache reads, cache writes of both lifetimes, reasoning and searches",
        openai_responses,
        {
            "input_tokens": 9658,
            "input_tokens_details": {
                "cached_tokens": 2048,
                "cache_write_tokens": 7000,
                "cache_write_tokens_details": {"ttl_30m_tokens": 4000, "ttl_12h_tokens": 3000},
            },
            "output_tokens": 420,
            "output_tokens_details": {"reasoning_tokens": 256},
            "total_tokens": 10078,
        },
        {
            "input_tokens": 610,
            "cache_read_tokens": 2048,
            "cache_write_30m_tokens": 4000,
            "cache_write_12h_tokens": 3000,
            "output_tokens": 164,
            "reasoning_tokens": 256,
            "web_searches": 3,
        },
        10078,
        {"tool_usage": {"image_gen": {"input_tokens": 0, "total_tokens": 0}, "web_search": {"num_requests": 3}}},
    ),
    Example(
        "realtime response with cached text, audio and images",
        openai_realtime,
        {
            "total_tokens": 2400,
            "input_tokens": 1800,
            "output_tokens": 600,
            "input_token_details": {
                "text_tokens": 1000,
                "audio_tokens": 500,
                "image_tokens": 300,
                "cached_tokens": 1100,
                "cached_tokens_details": {"text_tokens": 896, "audio_tokens": 64, "image_tokens": 140},
            },
            "output_token_details": {"text_tokens": 110, "audio_tokens": 490},
        },
        {
            "input_tokens": 104,
            "cache_read_tokens": 896,
            "audio_input_tokens": 436,
            "cache_read_audio_tokens": 64,
            "image_input_tokens": 160,
            "cache_read_image_tokens": 140,
            "output_tokens": 110,
            "audio_output_tokens": 490,
        },
        2400,
    ),
    Example(
        "embeddings", openai_embeddings, {"prompt_tokens": 8191, "total_tokens": 8191}, {"input_tokens": 8191}, 8191
    ),
    Example(
        "transcription by tokens",
        openai_transcription,
        {
            "type": "tokens",
            "input_tokens": 114,
            "input_token_details": {"text_tokens": 14, "audio_tokens": 100},
            "output_tokens": 31,
            "total_tokens": 145,
        },
        {"input_tokens": 14, "audio_input_tokens": 100, "output_tokens": 31},
        145,
    ),
    Example(
        "transcription by duration",
        openai_transcription,
        {"type": "duration", "seconds": 90.5},
        {"input_seconds": Decimal("90.5")},
        0,
    ),
    Example(
        "images, whose undivided output is of images",
        openai_images,
        {
            "input_tokens": 373,
            "input_tokens_details": {"image_tokens": 323, "text_tokens": 50},
            "output_tokens": 4160,
            "total_tokens": 4533,
        },
        {"input_tokens": 50, "image_input_tokens": 323, "image_output_tokens": 4160},
        4533,
    ),
    Example(
        "images made by a tool of a response, with cached input",
        openai_images,
        {
            "input_tokens": 2000,
            "input_tokens_details": {"image_tokens": 1500, "text_tokens": 500},
            "cached_tokens": 1200,
            "cached_tokens_details": {"cached_image_tokens": 1000, "cached_text_tokens": 200},
            "output_tokens": 1100,
            "output_tokens_details": {"image_tokens": 1056, "text_tokens": 44},
            "total_tokens": 3100,
        },
        {
            "input_tokens": 300,
            "cache_read_tokens": 200,
            "image_input_tokens": 500,
            "cache_read_image_tokens": 1000,
            "output_tokens": 44,
            "image_output_tokens": 1056,
        },
        3100,
    ),
)

ANTHROPIC: Final = (
    Example(
        "message without cache",
        anthropic_messages,
        {"input_tokens": 2095, "output_tokens": 503, "service_tier": "standard", "inference_geo": "global"},
        {"input_tokens": 2095, "output_tokens": 503},
        2598,
    ),
    Example(
        "message with cache writes of both lifetimes, thinking and server tools",
        anthropic_messages,
        {
            "input_tokens": 50,
            "cache_read_input_tokens": 10000,
            "cache_creation_input_tokens": 700,
            "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 500},
            "output_tokens": 503,
            "output_tokens_details": {"thinking_tokens": 300},
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
            "service_tier": "batch",
        },
        {
            "input_tokens": 50,
            "cache_read_tokens": 10000,
            "cache_write_tokens": 200,
            "cache_write_1h_tokens": 500,
            "output_tokens": 203,
            "reasoning_tokens": 300,
            "web_searches": 2,
            "web_fetches": 1,
        },
        11253,
    ),
    Example(
        "message whose cache writes have no breakdown",
        anthropic_messages,
        {"input_tokens": 3, "cache_creation_input_tokens": 12304, "cache_read_input_tokens": 0, "output_tokens": 550},
        {"input_tokens": 3, "cache_write_tokens": 12304, "output_tokens": 550},
        12857,
    ),
    Example(
        "stream whose counts grew after its start",
        anthropic_messages,
        {
            "input_tokens": 25,
            "cache_creation_input_tokens": 400,
            "cache_creation": {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 0},
            "cache_read_input_tokens": 0,
            "output_tokens": 1,
        },
        {"input_tokens": 90, "cache_write_tokens": 400, "output_tokens": 77, "web_searches": 1},
        567,
        {"delta": {"input_tokens": 90, "output_tokens": 77, "server_tool_use": {"web_search_requests": 1}}},
    ),
    Example(
        "message with compaction, which its own counts leave out",
        anthropic_messages,
        {
            "input_tokens": 23000,
            "output_tokens": 1000,
            "iterations": [
                {
                    "type": "compaction",
                    "input_tokens": 180000,
                    "cache_read_input_tokens": 40,
                    "cache_creation_input_tokens": 7,
                    "output_tokens": 3500,
                },
                {
                    "type": "message",
                    "model": "some-model",
                    "input_tokens": 23000,
                    "cache_read_input_tokens": 0,
                    "cache_creation_input_tokens": 0,
                    "output_tokens": 1000,
                },
            ],
        },
        {"input_tokens": 203000, "cache_read_tokens": 40, "cache_write_tokens": 7, "output_tokens": 4500},
        207547,
    ),
)

GEMINI: Final = (
    Example(
        "content with thoughts",
        gemini_generate_content,
        {
            "promptTokenCount": 1000,
            "candidatesTokenCount": 200,
            "thoughtsTokenCount": 800,
            "totalTokenCount": 2000,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1000}],
            "trafficType": "ON_DEMAND",
        },
        {"input_tokens": 1000, "output_tokens": 200, "reasoning_tokens": 800},
        2000,
    ),
    Example(
        "content with a cache of text and audio, a document, and results of tools",
        gemini_generate_content,
        {
            "promptTokenCount": 5000,
            "cachedContentTokenCount": 2500,
            "candidatesTokenCount": 100,
            "toolUsePromptTokenCount": 330,
            "thoughtsTokenCount": 0,
            "totalTokenCount": 5430,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 2400},
                {"modality": "AUDIO", "tokenCount": 1600},
                {"modality": "DOCUMENT", "tokenCount": 1000},
            ],
            "cacheTokensDetails": [
                {"modality": "TEXT", "tokenCount": 2000},
                {"modality": "AUDIO", "tokenCount": 500},
            ],
            "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 100}],
            "toolUsePromptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 72},
                {"modality": "IMAGE", "tokenCount": 258},
            ],
        },
        {
            "input_tokens": 400,
            "cache_read_tokens": 2000,
            "audio_input_tokens": 1100,
            "cache_read_audio_tokens": 500,
            "document_tokens": 1000,
            "image_input_tokens": 258,
            "tool_use_prompt_tokens": 72,
            "output_tokens": 100,
        },
        5430,
    ),
    Example(
        "content as Google's library dumps it, with an image made and text that no detail names",
        gemini_generate_content,
        {
            "cache_tokens_details": None,
            "cached_content_token_count": None,
            "candidates_token_count": 1304,
            "candidates_tokens_details": [{"modality": "IMAGE", "token_count": 1290}],
            "prompt_token_count": 120,
            "prompt_tokens_details": [{"modality": "TEXT", "token_count": 120}],
            "thoughts_token_count": None,
            "tool_use_prompt_token_count": None,
            "tool_use_prompt_tokens_details": None,
            "total_token_count": 1424,
            "traffic_type": None,
        },
        {"input_tokens": 120, "output_tokens": 14, "image_output_tokens": 1290},
        1424,
    ),
    Example(
        "content with cached video, all of one modality",
        gemini_generate_content,
        {
            "promptTokenCount": 3000,
            "cachedContentTokenCount": 2048,
            "responseTokenCount": 9,
            "totalTokenCount": 3009,
            "promptTokensDetails": [{"modality": "VIDEO", "tokenCount": 3000}],
            "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 9}],
        },
        {"video_input_tokens": 952, "cache_read_video_tokens": 2048, "audio_output_tokens": 9},
        3009,
    ),
)

BEDROCK: Final = (
    Example(
        "Converse without cache",
        bedrock_converse,
        {"inputTokens": 30, "outputTokens": 628, "totalTokens": 658},
        {"input_tokens": 30, "output_tokens": 628},
        658,
    ),
    Example(
        "Converse with cache writes of both lifetimes",
        bedrock_converse,
        {
            "inputTokens": 50,
            "outputTokens": 503,
            "totalTokens": 11253,
            "cacheReadInputTokens": 10000,
            "cacheReadInputTokenCount": 10000,
            "cacheWriteInputTokens": 700,
            "cacheDetails": [{"ttl": "1h", "inputTokens": 500}, {"ttl": "5m", "inputTokens": 200}],
        },
        {
            "input_tokens": 50,
            "cache_read_tokens": 10000,
            "cache_write_tokens": 200,
            "cache_write_1h_tokens": 500,
            "output_tokens": 503,
        },
        11253,
    ),
    Example(
        "Converse whose cache writes have no details",
        bedrock_converse,
        {"inputTokens": 4, "outputTokens": 353, "totalTokens": 1882, "cacheWriteInputTokens": 1525, "cacheDetails": []},
        {"input_tokens": 4, "cache_write_tokens": 1525, "output_tokens": 353},
        1882,
    ),
)

EXAMPLES: Final = OPENAI + ANTHROPIC + GEMINI + BEDROCK
READERS: Final = tuple(dict.fromkeys(example.read for example in EXAMPLES))
