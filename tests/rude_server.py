"""A server that answers as it is told to, request by request: with a status, by hanging, by hanging up, with no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Manners = Callable[[int], str]
"""Number of a request, from 0 -> what becomes of it: a status, hang, close, nonsense, chunks, or bye (200, and closed)."""


class RudeServer:
    """Counts requests and connections; `url` is where it listens."""

    def __init__(self, manners: Manners) -> None:
        self.manners = manners
        self.requests = self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self.answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        manner = self.manners(self.requests)
        self.requests += 1
        if manner == "close":
            return False
        if manner == "hang":
            await reader.read()
            return False
        if manner == "nonsense":
            writer.write(b"what?\r\n\r\n")
        elif manner == "bye":
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
        elif manner == "chunks":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 %s X\r\ncontent-length: 2\r\n\r\n{}" % manner.encode())
        await writer.drain()
        return manner != "bye"


@asynccontextmanager
async def rude_server(manners: Manners) -> AsyncIterator[RudeServer]:
    """Serve for as long as the context lasts."""
    rude = RudeServer(manners)
    server = await asyncio.start_server(rude.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    rude.url = f"http://{host}:{port}/infer"
    async with server:
        yield rude
