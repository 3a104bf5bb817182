"""Some rows for all: which rows of an input are looked at, and what of them the forecast needs.

Every row is counted, few are decoded and rendered, and of those only a few figures are kept. It never decides what follows
from them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from penstock.engine.source import raw_rows
from penstock.errors import InputError, RequestError
from penstock.ports import Provider
from penstock.records import RawRow, Request, Row
from penstock.rules.forecast import Shape
from penstock.rules.identity import ABSENT, FAILED, request_digest

T = TypeVar("T")

ROWS = 2_000
"""At least so many rows are looked at, where there are so many, and at most twice as many."""

SEED = 0
ERRORS_SHOWN = 20
ROWS_A_TURN = 1_000

OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens")
ASKED_BESIDE = ("tools", "functions", "response_format")
"""Parameters whose text the model reads too."""


class Sampler(Generic[T]):
    """An even sample of a sequence whose length nobody knows: one item of each stratum, drawn by a seed.

    Ask `wants` once for every item in order, and `add` those that it wants. When twice `size` are there, one of each two is
    let go and the strata become twice as long.
    """

    def __init__(self, size: int = ROWS, seed: int = SEED) -> None:
        self._size = size
        self._chance = random.Random(seed)
        self._stride, self._offset = 1, 0
        self.seen = 0
        self.items: list[T] = []

    def wants(self) -> bool:
        """Whether the next item is one of the sample."""
        place = self.seen % self._stride
        if place == 0:
            self._begin_stratum()
        self.seen += 1
        return place == self._offset

    def add(self, item: T) -> None:
        """The item that was wanted last."""
        self.items.append(item)

    @property
    def whole(self) -> bool:
        """True while nothing was left out."""
        return self._stride == 1

    def _begin_stratum(self) -> None:
        if len(self.items) >= 2 * self._size:
            self.items = [pair[self._chance.random() < 0.5] for pair in zip(*[iter(self.items)] * 2, strict=True)]
            self._stride *= 2
        self._offset = self._chance.randrange(self._stride)


class Recorded(msgspec.Struct, frozen=True):
    """A row of which something is recorded, with what must agree with it; `gaps` rows before it have nothing recorded."""

    index: int
    request: bytes
    shape: Shape
    gaps: int


class Sample:
    """What was seen of an input: `left` are rows to be sent, `done` rows whose answer is recorded.

    `first_body` is the first body to be sent. `errors` are the rows that can never be sent, some of them where there are many.
    """

    def __init__(self, render: Callable[[RawRow], Row], provider: Provider, model: str) -> None:
        self._render, self._provider, self._model = render, provider, model
        self.left: Sampler[Shape] = Sampler()
        self.done: Sampler[Recorded] = Sampler()
        self.first_body: bytes | None = None
        self.errors: list[InputError] = []
        self._gaps = 0

    @property
    def rows(self) -> int:
        """All rows, looked at or not."""
        return self.left.seen + self.done.seen

    def wants(self, state: int) -> bool:
        """Whether the next row is to be looked at; `state` is what is recorded of it."""
        self._gaps += state == ABSENT
        return (self.left if _is_left(state) else self.done).wants()

    def add(self, raw: RawRow, state: int) -> None:
        """Look at a row that was wanted."""
        try:
            request = self._render(raw).request
            model = request.model or self._model
            body = self._provider.encode(request, model)
        except InputError as error:
            self.errors.append(error)
            return
        except RequestError as error:
            self.errors.append(InputError(raw.where, error.message))
            return
        shape = shape_of(request, model)
        if _is_left(state):
            self.first_body = self.first_body or body
            self.left.add(shape)
        else:
            self.done.add(Recorded(raw.index, request_digest(self._provider.name, body), shape, self._gaps))


def _is_left(state: int) -> bool:
    return state in (ABSENT, FAILED)


def shape_of(request: Request, model: str) -> Shape:
    """What of a request changes the forecast. Parts that are no text, such as images, are counted and not measured."""
    text = others = 0
    for message in request.messages:
        size, parts = _content(message.get("content"))
        text, others = text + size, others + parts
    asked = [request.params[name] for name in ASKED_BESIDE if name in request.params]
    text += sum(len(msgspec.json.encode(value)) for value in asked)
    most = next((request.params[name] for name in OUTPUT_LIMITS if name in request.params), None)
    return Shape(text, len(request.messages), model, most if type(most) is int and most > 0 else None, others)


def _content(content: Any) -> tuple[int, int]:
    """Bytes of text in a message's content, and how many of its parts are no text."""
    if isinstance(content, str):
        return len(content.encode("utf-8", "replace")), 0
    if not isinstance(content, list):
        return 0, 0
    texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return sum(len(text.encode("utf-8", "replace")) for text in texts), len(content) - len(texts)


Source: TypeAlias = Callable[[Callable[[int], bool]], Iterator[RawRow] | AsyncIterator[RawRow]]
"""`rows` of a `ports.Source`: gives the rows whose index the function passed in is not true of."""


async def draw(sample: Sample, source: Source, state: Callable[[int], int], limit: int | None = None) -> None:
    """Let a sample see the rows of a source, up to `limit` of them. `state` tells what is recorded of a row.

    It ends early where more rows are bad than anybody wants to read of.
    """

    def skip(index: int) -> bool:
        # The row at the limit is asked for, so that reading can end there.
        return index != limit and not sample.wants(state(index))

    async with aclosing(_in_turns(source(skip))) as rows:
        async for raw in rows:
            if raw.index == limit or len(sample.errors) >= ERRORS_SHOWN:
                break
            sample.add(raw, state(raw.index))


async def _in_turns(rows: Iterator[RawRow] | AsyncIterator[RawRow]) -> AsyncGenerator[RawRow, None]:
    """The rows of an iterator of either kind, letting others run now and then."""
    if isinstance(rows, AsyncIterator):
        async for raw in rows:
            yield raw
        return
    for count, raw in enumerate(rows):
        yield raw
        if count % ROWS_A_TURN == 0:
            await asyncio.sleep(0)


def given(rows: Iterable[Any] | AsyncIterable[Any]) -> Source:
    """The source of rows that a program passes in. Raises `UsageError` for a single prompt in place of rows."""
    numbered = raw_rows(rows)
    if isinstance(numbered, AsyncIterator):
        return lambda skip: (raw async for raw in numbered if not skip(raw.index))
    return lambda skip: (raw for raw in numbered if not skip(raw.index))
