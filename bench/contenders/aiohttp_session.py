"""Bare aiohttp, as lightly as it can be used: workers, one session, bytes in and out by msgspec; `--uvloop` on that loop."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import uvloop
from completion import Completion, Message
from contest import KEY, TIMEOUT_SECONDS, AnswerAll, Work, by_workers, perform, request

DATA, DONE = b"data: ", b"data: [DONE]"


class PieceChoice(msgspec.Struct):
    delta: Message
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    completion_tokens: int


class Piece(msgspec.Struct):
    choices: list[PieceChoice]
    usage: Usage | None = None


decode, decode_piece = msgspec.json.Decoder(Completion).decode, msgspec.json.Decoder(Piece).decode


async def text_of(lines: aiohttp.StreamReader) -> str:
    """The text of a stream, read by lines; it must tell its usage and come to its end."""
    parts, usage, done = [], None, False
    async for line in lines:
        if line.startswith(DONE):
            done = True
        elif line.startswith(DATA):
            piece = decode_piece(line[len(DATA) :])
            usage = piece.usage or usage
            if piece.choices and piece.choices[0].delta.content:
                parts.append(piece.choices[0].delta.content)
    assert done
    assert usage is not None
    return "".join(parts)


@asynccontextmanager
async def opened(work: Work) -> AsyncIterator[AnswerAll]:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connector, timeout = aiohttp.TCPConnector(limit=work.in_flight), aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:

        async def answer(prompt: str) -> str | None:
            body = msgspec.json.encode(request(prompt, work.streams))
            async with session.post(f"{work.base_url}/chat/completions", data=body) as response:
                assert response.status == 200
                if work.streams:
                    return await text_of(response.content)
                return decode(await response.read()).choices[0].message.content

        yield by_workers(answer, work.in_flight)


if __name__ == "__main__":
    on_uvloop = "--uvloop" in sys.argv
    perform(opened, "aiohttp", *["uvloop"] * on_uvloop, loop_factory=uvloop.new_event_loop if on_uvloop else None)
