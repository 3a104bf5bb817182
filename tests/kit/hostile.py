"""A server on loopback that does exactly what a test scripts, byte by byte, and whatever no honest server would do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias


class Peer:
    """One accepted connection, as the script sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """The next request, head and body (of `Content-Length`); raises IncompleteReadError at the end."""
        head = await self.head()
        length = next(
            (line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b"0"
        )
        return head + await self.reader.readexactly(int(length))

    async def head(self) -> bytes:
        """The next request's head alone, its body left unread."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def send(self, *pieces: bytes) -> None:
        """Write pieces, one packet each as far as the kernel allows."""
        for piece in pieces:
            if self.writer.is_closing():
                raise ConnectionResetError("the client is gone")
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    def end(self) -> None:
        """Close in good order."""
        self.writer.close()

    def reset(self) -> None:
        """Close with a reset instead of an end."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Until the client has closed its side, whatever it still sends."""
        try:
            while await self.reader.read(65536):
                pass
        except OSError:
            return


Script: TypeAlias = Callable[[Peer], Awaitable[None]]


class HostileServer:
    """Where it listens, and how often it was called."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.port = 0
        self.scheme = "http"
        self.failures: list[Exception] = []

    def url(self, path: str = "/v1/chat/completions") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._run(Peer(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, peer: Peer) -> None:
        try:
            await self._script(peer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away, which is what most scripts end with
        except Exception as failure:  # noqa: BLE001 - told to the test at the end of the block
            self.failures.append(failure)
        finally:
            peer.writer.transport.abort()

    async def aclose(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def hostile(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[HostileServer]:
    """A server that runs `script` for each connection; a failed assertion in a script fails the test."""
    server = HostileServer(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    server.scheme = "https" if tls else "http"
    try:
        yield server
    finally:
        listener.close()
        await server.aclose()
    if server.failures:
        raise server.failures[0]


def answer(body: bytes = b"{}", *, status: str = "200 OK", headers: tuple[str, ...] = ()) -> bytes:
    """A well-formed answer with `Content-Length`."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body
