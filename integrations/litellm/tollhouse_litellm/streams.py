"""Reads what a stream has used while it passes, in the three forms in which LiteLLM streams."""

import json
from collections.abc import Mapping
from typing import Final

from tollhouse_litellm.usage import Fields, Used, fields_of, tier_of, used_of_answer, used_of_anthropic, used_of_counts

# A text longer than this is not kept whole; what lies beyond is counted by its length.
_TEXT_MAX_BYTES: Final = 4 * 1024 * 1024
_EVENT_MAX_BYTES: Final = 16 * 1024 * 1024
_ENDS: Final = ("response.completed", "response.incomplete", "response.failed")


class StreamReading:
    """One stream. `used` is what the provider said it has used, if it has said so."""

    def __init__(self, request: Fields) -> None:
        self._request = request
        self._texts: list[str] = []
        self._kept_bytes = 0
        self.dropped_bytes = 0
        self._rest = b""
        self._tier = ""
        self._start: Fields = {}
        self._delta: Fields | None = None
        self.used: Used | None = None

    @property
    def text(self) -> str:
        """What the provider has written so far: text, reasoning and arguments of tools."""
        return "".join(self._texts)

    @property
    def began(self) -> Used | None:
        """What Anthropic says at the beginning of a stream: its input, and as good as no output."""
        return used_of_anthropic(self._start, None, self._request) if self._start else None

    def read(self, chunk: object) -> None:
        """Take notice of a chunk: a chat chunk or answer, an event of a response, or bytes of Anthropic's events."""
        if isinstance(chunk, (bytes, str)):
            self._read_bytes(chunk if isinstance(chunk, bytes) else chunk.encode("utf-8", "replace"))
            return
        choices = getattr(chunk, "choices", None)
        if choices is not None:
            self._read_chat(chunk, choices)
        elif isinstance(chunk, Mapping):
            self._read_anthropic(chunk)
        else:
            self._read_response(chunk)

    def _read_chat(self, chunk: object, choices: object) -> None:
        self._tier = tier_of(getattr(chunk, "service_tier", None)) or self._tier
        for choice in choices if isinstance(choices, list) else []:
            delta = getattr(choice, "delta", None) or getattr(choice, "message", None)
            for name in ("content", "reasoning_content"):
                self._write(getattr(delta, name, None))
            for tool in getattr(delta, "tool_calls", None) or []:
                self._write(getattr(getattr(tool, "function", None), "arguments", None))
            self._write(getattr(choice, "text", None))
        # Where the end user has not asked for the usage LiteLLM hides it, and leaves out what tools did.
        usage = getattr(chunk, "usage", None) or fields_of(getattr(chunk, "_hidden_params", None)).get("usage")
        self._note_usage(usage)

    def end(self, response: object) -> None:
        """Read what LiteLLM has kept of a chat's stream, which is complete."""
        kept = getattr(response, "chunks", None)
        for chunk in kept if isinstance(kept, list) else []:
            self._note_usage(getattr(chunk, "usage", None))

    def _note_usage(self, usage: object) -> None:
        if usage is not None and (counts := fields_of(usage)).get("total_tokens"):
            self.used = used_of_counts(counts, self._request, self._tier)

    def _read_response(self, event: object) -> None:
        # The type is an enumeration of text.
        kind = getattr(getattr(event, "type", None), "value", getattr(event, "type", None))
        if kind in _ENDS:
            answer = getattr(event, "response", None)
            if getattr(answer, "usage", None) is not None:
                self.used = used_of_answer(answer, self._request)
        elif isinstance(kind, str) and kind.endswith(".delta"):
            self._write(getattr(event, "delta", None))

    def _read_bytes(self, data: bytes) -> None:
        self._rest += data
        *events, self._rest = self._rest.split(b"\n")
        for line in events:
            if line.startswith(b"data:"):
                self._read_data(line[5:])
        if len(self._rest) > _EVENT_MAX_BYTES:
            self._rest = b""

    def _read_data(self, data: bytes) -> None:
        try:
            event = json.loads(data)
        except ValueError:
            return  # `[DONE]`, or what is no event of Anthropic's.
        if isinstance(event, Mapping):
            self._read_anthropic(event)

    def _read_anthropic(self, event: Mapping[str, object]) -> None:
        if event.get("type") == "message_start":
            self._start = fields_of(fields_of(event.get("message")).get("usage"))
        elif event.get("type") == "content_block_delta":
            delta = fields_of(event.get("delta"))
            for name in ("text", "thinking", "partial_json"):
                self._write(delta.get(name))
        elif event.get("type") == "message_delta" and fields_of(event.get("usage")):
            self._delta = fields_of(event.get("usage"))
            self.used = used_of_anthropic(self._start or self._delta, self._delta, self._request)

    def _write(self, text: object) -> None:
        if not isinstance(text, str) or not text:
            return
        size = len(text.encode("utf-8", "replace"))
        if self._kept_bytes + size > _TEXT_MAX_BYTES:
            self.dropped_bytes += size
            return
        self._kept_bytes += size
        self._texts.append(text)
