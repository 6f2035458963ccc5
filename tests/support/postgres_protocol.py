"""Messages of Postgres's protocol, as the proxies of the tests read and write them."""

import asyncio
import struct

PROTOCOL_3 = 196608
_SSL_REQUEST = 80877103

Message = tuple[bytes, bytes]
"""The kind of a message, and what follows its length."""


async def startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, str]:
    """Read a client's first message, and return the parameters in it."""
    texts = (await read_startup(reader, writer))[8:].decode().rstrip("\0").split("\0")
    return dict(zip(texts[::2], texts[1::2], strict=False))


async def read_startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Read a client's first message with its length, after refusing encryption."""
    while True:
        head = await reader.readexactly(4)
        body = await reader.readexactly(struct.unpack("!i", head)[0] - 4)
        if struct.unpack("!i", body[:4])[0] != _SSL_REQUEST:
            return head + body
        writer.write(b"N")


async def read(reader: asyncio.StreamReader) -> Message:
    head = await reader.readexactly(5)
    return head[:1], await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


def packed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def error(text: str) -> bytes:
    return packed(b"E", f"SFATAL\0C08P01\0M{text}\0\0".encode())
