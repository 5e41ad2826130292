"""An asyncio client for many WebSockets at once, which reads and writes raw frames."""

import asyncio
import itertools
import json
import os
import time
from collections.abc import Awaitable, Iterable
from typing import Any, NamedTuple, Self, TypeVar

from tests.client import CHATS, TenantAccess

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA

T = TypeVar("T")


class RefusedError(Exception):
    """The handshake was answered by another status than 101; 0 if the connection was cut."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Closed(NamedTuple):
    """How a connection ended: the code and the reason of the close frame, or 1006 if the connection was cut."""

    code: int
    reason: str


class Line:
    """One open connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.opened_at = time.monotonic()

    @classmethod
    async def open(cls, port: int, path: str, access: TenantAccess, limit: int = 2**16) -> Self:
        """Connect and do the handshake; `path` is the chat's id and may have a query."""
        chat_id, _, query = path.partition("?")
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
        target = f"{CHATS}/{chat_id}/ws{'?' * bool(query)}{query}"
        writer.write(
            f"GET {target} HTTP/1.1\r\nHost: x\r\nX-API-Key: {access.key}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            raise RefusedError(0) from None
        status = int(head.split()[1])
        if status != 101:
            writer.close()
            raise RefusedError(status)
        return cls(reader, writer)

    async def read(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; the end of the stream counts as a close with 1006."""
        try:
            head = await self.reader.readexactly(2)
            size = head[1] & 0x7F
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
            return head[0] & 0x0F, await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return CLOSE, (1006).to_bytes(2)

    async def frame(self) -> dict[str, Any] | Closed:
        """Return the next text frame's JSON, or the close; answer pings and the close."""
        while True:
            opcode, payload = await self.read()
            if opcode == TEXT:
                message: dict[str, Any] = json.loads(payload)
                return message
            if opcode == PING:
                self.send(payload, PONG)
            if opcode == CLOSE:
                code = int.from_bytes(payload[:2])
                if code != 1006:
                    self.send(payload, CLOSE)
                self.writer.close()
                return Closed(code, payload[2:].decode())

    async def closed(self) -> Closed:
        """Wait for the close, and ignore all frames before it."""
        while True:
            frame = await self.frame()
            if isinstance(frame, Closed):
                return frame

    def send(self, payload: bytes, opcode: int = TEXT) -> None:
        """Send one frame of up to 64 KiB, masked."""
        size = len(payload)
        head = bytes([0x80 | opcode, 0x80 | size]) if size < 126 else bytes([0x80 | opcode, 0xFE]) + size.to_bytes(2)
        mask = os.urandom(4)
        body = bytes(byte ^ key for byte, key in zip(payload, itertools.cycle(mask), strict=False))
        self.writer.write(head + mask + body)

    def post(self, content: str) -> None:
        """Post a message."""
        self.send(json.dumps({"type": "message.create", "content": content}).encode())

    def hang_up(self) -> None:
        """Cut the connection without a close frame."""
        self.writer.transport.abort()


async def together(work: Iterable[Awaitable[T]], at_once: int = 50) -> list[T]:
    """Await all of `work`, at most `at_once` at a time; return the results in the given order."""
    slots = asyncio.Semaphore(at_once)

    async def limited(item: Awaitable[T]) -> T:
        async with slots:
            return await item

    return await asyncio.gather(*(limited(item) for item in work))
