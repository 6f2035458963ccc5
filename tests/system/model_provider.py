"""A provider for tests: it answers as OpenAI and Anthropic do, over HTTP, and remembers what it was asked.

Every request carries a mark, `user` of OpenAI or `metadata.user_id` of Anthropic, by which a test finds it again. What
stands before its colon says how the request goes:

    down      every request for the model that was asked first fails
    flaky     the first request fails
    refused   the request is refused
    uncounted a whole answer of a chat has no usage
    breaking  the connection of a stream breaks after its second piece
    slow      a stream waits after its second piece for `go_on`

Counts are fixed, so that a test can say by hand what a call costs.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

# What a plain answer of OpenAI counts for one choice; the prompt includes what was read from the cache.
PROMPT: Final = 120
CACHED: Final = 20
COMPLETION: Final = 30
REASONING: Final = 10
PIECES: Final = ("The ", "quick ", "brown ", "fox.")

ANTHROPIC_USAGE: Final[Mapping[str, object]] = {
    "input_tokens": 50,
    "cache_read_input_tokens": 1000,
    "cache_creation_input_tokens": 300,
    "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
    "output_tokens": 40,
    "server_tool_use": {"web_search_requests": 2},
    "service_tier": "standard",
}


@dataclass(frozen=True)
class Request:
    """What the provider was asked."""

    path: str
    body: Mapping[str, object]

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def mark(self) -> str:
        """What the test wrote into the request."""
        metadata = self.body.get("metadata")
        of_anthropic = metadata.get("user_id") if isinstance(metadata, dict) else None
        return str(self.body.get("user") or of_anthropic or "")

    @property
    def way(self) -> str:
        """How the request goes."""
        return self.mark.partition(":")[0]


@dataclass
class Upstream:
    """The provider. `asked` counts requests by mark, `answered` those that were answered to their end."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    first_models: dict[str, str] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, until its client closes it."""
        self._connections[writer] = asyncio.current_task()
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                self.asked[request.mark] += 1
                self.first_models.setdefault(request.mark, request.model)
                await self._answer(request, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            del self._connections[writer]
            writer.close()

    async def close(self) -> None:
        """Close every connection, and let streams that wait go on."""
        self.go_on.set()
        tasks = [task for task in self._connections.values() if task is not None]
        for writer in self._connections:
            writer.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        is_first_model = request.model == self.first_models[request.mark]
        if (request.way == "down" and is_first_model) or (request.way == "flaky" and self.asked[request.mark] == 1):
            await _send(writer, 500, {"error": {"message": "overloaded", "type": "server_error", "code": None}})
            return
        if request.way == "refused":
            await _send(writer, 400, {"error": {"message": "no", "type": "invalid_request_error", "code": None}})
            return
        if request.body.get("stream"):
            events = _anthropic_events(request) if request.path.endswith("/messages") else _openai_events(request)
            await self._stream(request, events, writer)
            return
        await _send(writer, 200, _document(request))
        self.answered[request.mark] += 1

    async def _stream(self, request: Request, events: list[str], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, event in enumerate(events):
            if number == 3 and request.way == "breaking":
                raise ConnectionResetError
            if number == 3 and request.way == "slow":
                await self.go_on.wait()
            data = event.encode()
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.answered[request.mark] += 1


def chat_usage(choices: int = 1) -> dict[str, object]:
    """Return the usage of a chat completion of so many choices."""
    return {
        "prompt_tokens": PROMPT,
        "completion_tokens": COMPLETION * choices,
        "total_tokens": PROMPT + COMPLETION * choices,
        "prompt_tokens_details": {"cached_tokens": CACHED, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": REASONING * choices, "audio_tokens": 0},
    }


def _document(request: Request) -> Mapping[str, object]:
    body = request.body
    if request.path.endswith("/messages"):
        return _message(request)
    if request.path.endswith("/responses"):
        return _response(request)
    if request.path.endswith("/embeddings"):
        vectors = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
        return {
            "object": "list",
            "model": request.model,
            "data": vectors,
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        }
    if request.path.endswith("/images/generations"):
        usage = {
            "input_tokens": 15,
            "output_tokens": 4160,
            "total_tokens": 4175,
            "input_tokens_details": {"text_tokens": 15, "image_tokens": 0},
        }
        return {"created": 1, "data": [{"b64_json": "aGk="}], "usage": usage}
    if request.path.endswith("/rerank"):
        return {
            "id": "r-1",
            "results": [{"index": 0, "relevance_score": 0.9}],
            "meta": {"billed_units": {"search_units": 1}},
        }
    count = body.get("n")
    choices = [
        {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": "".join(PIECES)}}
        for index in range(count if isinstance(count, int) else 1)
    ]
    answer: dict[str, object] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": request.model,
        "choices": choices,
        **({} if request.way == "uncounted" else {"usage": chat_usage(len(choices))}),
    }
    if body.get("service_tier"):
        # Whoever lets OpenAI choose and has bought its scale tier is served in it.
        answer["service_tier"] = "scale" if body["service_tier"] == "auto" else body["service_tier"]
    return answer


def _message(request: Request) -> Mapping[str, object]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [{"type": "text", "text": "".join(PIECES)}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": ANTHROPIC_USAGE,
    }


def _response(request: Request) -> Mapping[str, object]:
    search = {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "fox"},
    }
    text = {"type": "output_text", "text": "".join(PIECES), "annotations": []}
    message = {"type": "message", "id": "m_1", "role": "assistant", "status": "completed", "content": [text]}
    given = request.body.get("tools")
    tools = given if isinstance(given, list) else []
    runs = [_code_run(number) for number in range(2) if any(tool["type"] == "code_interpreter" for tool in tools)]
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": request.model,
        "output": [search, *runs, message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": tools,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "service_tier": request.body.get("service_tier", "default"),
        "error": None,
        "usage": {
            "input_tokens": PROMPT,
            "input_tokens_details": {"cached_tokens": CACHED},
            "output_tokens": COMPLETION,
            "output_tokens_details": {"reasoning_tokens": REASONING},
            "total_tokens": PROMPT + COMPLETION,
        },
    }


def _code_run(number: int) -> Mapping[str, object]:
    """Return one run of code in the one container of a response."""
    run = {"type": "code_interpreter_call", "id": f"ci_{number}", "status": "completed"}
    return {**run, "code": "print(1)", "container_id": "cntr_1", "outputs": None}


def _openai_events(request: Request) -> list[str]:
    if request.path.endswith("/responses"):
        document = _response(request)
        events = [
            {"type": "response.created", "sequence_number": 0, "response": {**document, "status": "in_progress"}},
            {
                "type": "response.output_text.delta",
                "sequence_number": 1,
                "item_id": "m_1",
                "output_index": 1,
                "content_index": 0,
                "delta": PIECES[0],
                "logprobs": [],
            },
            {"type": "response.completed", "sequence_number": 2, "response": document},
        ]
        return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]

    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": request.model}
    if request.body.get("service_tier"):
        base["service_tier"] = str(request.body["service_tier"])
    deltas: list[Mapping[str, object]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in PIECES]
    chunks = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    options = request.body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        chunks.append({**base, "choices": [], "usage": chat_usage()})
    return [*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks), "data: [DONE]\n\n"]


def _anthropic_events(request: Request) -> list[str]:
    started = {
        **_message(request),
        "content": [],
        "stop_reason": None,
        "usage": {**ANTHROPIC_USAGE, "output_tokens": 1},
    }
    events: list[Mapping[str, object]] = [
        {"type": "message_start", "message": started},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    events += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in PIECES
    ]
    events += [
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": ANTHROPIC_USAGE["output_tokens"]},
        },
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]


async def _read(reader: asyncio.StreamReader) -> Request | None:
    line = await reader.readline()
    if not line:
        return None
    path = line.decode().split(" ")[1]
    length = 0
    while (header := await reader.readline()).strip():
        name, _, value = header.decode().partition(":")
        if name.lower() == "content-length":
            length = int(value)
    body = await reader.readexactly(length)
    return Request(path, json.loads(body) if body.startswith(b"{") else {})


async def _send(writer: asyncio.StreamWriter, status: int, document: Mapping[str, object]) -> None:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


@asynccontextmanager
async def running_upstream() -> AsyncIterator[Upstream]:
    """Serve on a free port for as long as the context lasts."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.handle, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        await upstream.close()
        await server.wait_closed()
