"""A small real CONNECT proxy on loopback."""

from __future__ import annotations

import asyncio

from tests.kit.hostile import Peer


class ConnectProxy:
    """A small real proxy: tunnels CONNECT to where it says, and notes what it heard."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        head = await peer.head()
        self.heard.append(head)
        host, _, port = head.split()[1].decode().rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_pipe(peer.reader, writer), _pipe(reader, peer.writer))
        finally:
            writer.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while (data := await reader.read(65536)) and not writer.is_closing():
        writer.write(data)
    writer.transport.abort()
