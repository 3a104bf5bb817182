"""The Client for code without an event loop: scripts, threads, notebooks. One thread with a loop; no second implementation.

    from penstock.blocking import Client

    with Client("openai/gpt-5-mini") as client:
        for result in client.map(rows, prompt="Summarise: {text}"): ...

Ctrl-C and an abandoned iterator cancel what is under way; an exit without `close()` closes too.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import CancelledError
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from penstock.client import Client as AsyncClient
from penstock.records import Chunk, Response, Result, RowChunk, Structured
from penstock.streaming import Stream as AsyncStream

if TYPE_CHECKING:
    from penstock.edges.functions import Function
    from penstock.planning import Forecast
    from penstock.rules.asking import Prompt

T = TypeVar("T")


class _Loop:
    """A loop in a daemon thread of its own."""

    def __init__(self) -> None:
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="penstock-loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The value of a coroutine. An interrupt of the waiting thread cancels it, and waits until it is gone."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():
                asyncio.run_coroutine_threadsafe(_gone(work), self._loop).result()
            raise

    @property
    def runs_here(self) -> bool:
        """True in the loop's own thread."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _gone(work: Coroutine[Any, Any, Any]) -> None:
    """Return once no task is busy with this coroutine any more."""
    tasks = [task for task in asyncio.all_tasks() if task.get_coro() is work]
    if tasks:
        await asyncio.wait(tasks)


class Client:
    """`penstock.Client` without `async`: the same arguments, the same names, the same results."""

    def __init__(self, model: str, **options: Any) -> None:
        self._client = AsyncClient(model, **options)
        self._loop = _Loop()
        # At exit daemon threads are frozen, not ended: the finalizer runs before that and closes connections and ledgers.
        self._finalizer = weakref.finalize(self, _close, self._client, self._loop)

    def __repr__(self) -> str:
        return f"<blocking {self._client!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and end the thread. Calling it twice does no harm."""
        self._finalizer()

    @overload
    def generate(self, prompt: Prompt, *, response_model: type[T], **options: Any) -> Structured[T]: ...
    @overload
    def generate(self, prompt: Prompt, **options: Any) -> Response: ...
    def generate(self, prompt: Prompt, **options: Any) -> Response:
        """See `penstock.Client.generate`."""
        work: Coroutine[Any, Any, Response] = self._client.generate(prompt, **options)
        return self._loop.run(work)

    def stream(self, prompt: Prompt, **options: Any) -> Stream:
        """See `penstock.Client.stream`; iterate it with a plain `for`."""
        return Stream(self._client.stream(prompt, **options), self._loop)

    def map(self, rows: Iterable[Any], **options: Any) -> Generator[Result, None, None]:
        """See `penstock.Client.map`."""
        return self._each(self._client.map(rows, **options))

    def stream_many(self, rows: Iterable[Any], **options: Any) -> Generator[RowChunk | Result, None, None]:
        """See `penstock.Client.stream_many`."""
        return self._each(self._client.stream_many(rows, **options))

    def run(self, function: Function, rows: Iterable[Any], **options: Any) -> Generator[Result, None, None]:
        """See `penstock.Client.run`. The function is async; it runs in the client's own thread."""
        return self._each(self._client.run(function, rows, **options))

    def gather(self, prompts: Iterable[Any], **options: Any) -> list[Result]:
        """See `penstock.Client.gather`."""
        return self._loop.run(self._client.gather(prompts, **options))

    def _each(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        try:
            while True:
                try:
                    yield self._loop.run(_next(items.__anext__))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run(items.aclose())

    def plan(self, rows: Iterable[Any], **options: Any) -> Forecast:
        """See `penstock.Client.plan`."""
        return self._loop.run(self._client.plan(rows, **options))


class Stream:
    """`penstock.streaming.Stream` without `async`. Leaving a `with` block, or `close()`, gives up what is under way."""

    def __init__(self, stream: AsyncStream, loop: _Loop) -> None:
        self._stream, self._loop = stream, loop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Generator[Chunk, None, None]:
        chunks = aiter(self._stream)
        try:
            while True:
                try:
                    yield self._loop.run(_next(chunks.__anext__))
                except StopAsyncIteration:
                    return
        finally:
            self.close()

    def close(self) -> None:
        """Give up what is under way. Calling it twice does no harm."""
        self._loop.run(self._stream.aclose())

    @property
    def text(self) -> str:
        """What came so far."""
        return self._stream.text

    @property
    def response(self) -> Response:
        """See `penstock.streaming.Stream.response`."""
        return self._stream.response

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the send to the first piece; None before it came."""
        return self._stream.first_token_s

    @property
    def longest_gap_s(self) -> float | None:
        """See `penstock.streaming.Stream.longest_gap_s`."""
        return self._stream.longest_gap_s

    @property
    def time_per_output_chunk_s(self) -> float | None:
        """See `penstock.streaming.Stream.time_per_output_chunk_s`."""
        return self._stream.time_per_output_chunk_s


async def _next(step: Callable[[], Awaitable[T]]) -> T:
    return await step()


def _close(client: AsyncClient, loop: _Loop) -> None:
    if loop.runs_here:
        # The collector came by in the loop's own thread, which cannot wait for itself.
        threading.Thread(target=_close, args=(client, loop), name="penstock-close").start()
        return
    try:
        loop.run(client.aclose())
    except CancelledError:
        pass  # interrupted while closing: the loop is closed below all the same
    finally:
        loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
