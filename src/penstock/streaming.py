"""What `Client.stream` gives back: the pieces of one answer as they come, and the whole answer at the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self

from penstock.engine.stream import Streaming
from penstock.errors import UsageError
from penstock.records import Chunk, Response


class Stream:
    """Iterate it once for its chunks; then `response` is the whole answer.

        async with client.stream("Write a short story.") as stream:
            async for chunk in stream:
                print(chunk.text, end="")
        print(stream.response.usage, stream.first_token_s)

    A bare `async for chunk in client.stream(...)` works too. Iterating raises a `RequestError` where the answer broke off (its
    text so far is `text`) or none came after the retries. Leaving early closes the connection at once, surely so with
    `async with` or `aclose()`.
    """

    def __init__(self, begin: Callable[[], Awaitable[Streaming]]) -> None:
        self._begin = begin
        self._streaming: Streaming | None = None
        self._chunks = self._all()
        self._texts: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self._chunks

    async def aclose(self) -> None:
        """Give up what is under way. Calling it twice does no harm."""
        await self._chunks.aclose()

    @property
    def text(self) -> str:
        """What came so far."""
        return "".join(self._texts)

    @property
    def response(self) -> Response:
        """The whole answer. Raises `UsageError` before the end, and the `RequestError` that ended it where there is none."""
        outcome = self._streaming.outcome if self._streaming is not None else None
        if outcome is not None and outcome.error is not None:
            raise outcome.error
        if outcome is None or outcome.response is None:
            raise UsageError("the answer is not whole yet: iterate the stream to its end first")
        return outcome.response

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the send to the first piece; None before it came."""
        return self._streaming.outcome.first_token_s if self._streaming is not None else None

    @property
    def longest_gap_s(self) -> float | None:
        """The longest wait for a chunk after the first ones, in seconds, without what the reader took for himself."""
        return self._streaming.pace.longest_gap if self._streaming is not None and self._streaming.pace.chunks else None

    @property
    def time_per_output_chunk_s(self) -> float | None:
        """The mean of these waits for each chunk after the first ones; several may come together."""
        if self._streaming is None or not self._streaming.pace.chunks:
            return None
        return self._streaming.pace.waited / self._streaming.pace.chunks

    async def _all(self) -> AsyncGenerator[Chunk, None]:
        self._streaming = await self._begin()
        texts = self._texts
        async with aclosing(self._streaming.pieces()) as pieces:
            async for chunks in pieces:
                for chunk in chunks:
                    if chunk.restarted:
                        texts.clear()
                    texts.append(chunk.text)
                    yield chunk
        if self._streaming.outcome.error is not None:
            raise self._streaming.outcome.error
