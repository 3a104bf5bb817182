"""What a type checker makes of the public names. Checked by mypy, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator
from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

from penstock import (
    Chunk,
    Client,
    Limits,
    Llm,
    PenstockError,
    Refused,
    Request,
    RequestError,
    Response,
    Result,
    RowChunk,
    RunStopped,
    ToolCall,
    Usage,
    UsageError,
)
from penstock.blocking import Client as BlockingClient
from penstock.errors import Kind
from penstock.records import Calls, Structured


async def one_request() -> None:
    """A text, messages or a request give a Response."""
    limits = Limits(requests_per_minute=3_000, tokens_per_minute=2_000_000)
    async with Client("openai/m", limits=limits, max_concurrency=10, timeout=60, deadline=600.0) as client:
        assert_type(client, Client)
        response = await client.generate("Why?", system="Be brief.", temperature=0)
        assert_type(response, Response)
        assert_type(await client.generate([{"role": "user", "content": "Why?"}]), Response)
        assert_type(await client.generate(Request([{"role": "user", "content": "Why?"}])), Response)
        await client.generate(7)  # type: ignore[call-overload]  # a number is no prompt
    assert_type(response.text, str)
    assert_type(response.usage, Usage | None)
    assert_type(response.tool_calls, tuple[ToolCall, ...])
    Limits(3_000)  # type: ignore[call-arg]  # limits are given by name


@dataclass
class Label:
    """What an answer may be."""

    topic: str


class Point(TypedDict):
    """The same as a mapping."""

    x: float


async def a_value(client: Client, blocking: BlockingClient) -> None:
    """A `response_model` says what `value` is; without one, and for a JSON schema, it may be anything."""
    response = await client.generate("Why?", response_model=Label, repairs=1, temperature=0)
    assert_type(response, Structured[Label])
    assert_type(response.value, Label)
    assert_type(response.text, str)
    assert_type(response.discarded, tuple[Usage | None, ...])
    assert_type((await client.generate("Why?", response_model=list[Label])).value, list[Label])
    assert_type((await client.generate("Why?", response_model=Point)).value, Point)
    assert_type((await client.generate("Why?", response_model={"type": "object"})).value, Any)
    assert_type(await client.generate("Why?", response_model=None), Response)
    assert_type(blocking.generate("Why?", response_model=Label).value, Label)
    assert_type(blocking.generate("Why?", system="Be brief."), Response)
    _ = response.value.subject  # type: ignore[attr-defined]  # a label has a topic


async def many_requests(client: Client, rows: list[str], stream: AsyncIterator[str]) -> None:
    """Results one by one or as a list, from an iterable of either kind."""
    results = client.map(rows, prompt="Summarise: {text}", ledger="summaries.ledger", ordered=True)
    assert_type(results, AsyncGenerator[Result, None])
    async for result in client.map(stream):
        assert_type(result, Result)
    assert_type(await client.gather(rows, dedupe=True), list[Result])
    assert_type(client.statistics(), dict[str, float])


async def as_they_come(client: Client, rows: list[str]) -> None:
    """Chunks of one answer; chunks of many, and their results between them."""
    stream = client.stream("Why?", on_break="restart", temperature=0)
    async for chunk in stream:
        assert_type(chunk, Chunk)
    assert_type(stream.longest_gap_s, float | None)
    async for item in client.stream_many(rows, prompt="{text}", max_cost=1.0):
        assert_type(item, RowChunk | Result)
        if isinstance(item, RowChunk):
            assert_type(item.chunk, Chunk)
        else:
            assert_type(item, Result)
    client.stream("Why?", on_break="again")  # type: ignore[arg-type]  # it restarts, or it is an error


async def workflow(client: Client, blocking: BlockingClient, rows: list[str]) -> None:
    """A function over rows; inside it `llm.generate` is typed as the client's own."""

    async def review(row: str, llm: Llm) -> dict[str, str]:
        assert_type(await llm.generate(row, temperature=0), Response)
        labels = await llm.generate(row, response_model=Label)
        assert_type(labels.value, Label)
        return {"topic": labels.value.topic}

    async for result in client.run(review, rows, ledger="reviews.ledger", max_cost=1.0):
        assert_type(result, Result)
        assert_type(result.usage, Usage | None)
        assert_type(result.calls, Calls | None)
    assert_type(blocking.run(review, rows), Generator[Result, None, None])
    client.run(len, rows)  # type: ignore[arg-type]  # a workflow is an async function of two arguments


def one_result(result: Result) -> None:
    """A response or an error, and the short ways to both."""
    assert_type(result.response, Response | None)
    assert_type(result.error, RequestError | None)
    assert_type(result.text, str | None)
    assert_type(result.ok, bool)
    assert_type(result.id, str | int)
    assert_type(result.cost, float | None)
    assert_type(result.unwrap(), Response)
    result.text = "other"  # type: ignore[misc]  # a result is a value


def without_a_loop(rows: list[str]) -> None:
    """The same names without `async`."""
    with BlockingClient("openai/m", limits=Limits()) as client:
        assert_type(client, BlockingClient)
        assert_type(client.generate("Why?"), Response)
        assert_type(client.map(rows, prompt="{text}"), Generator[Result, None, None])
        assert_type(client.stream_many(rows), Generator[RowChunk | Result, None, None])
        assert_type(client.gather(rows), list[Result])


def errors(error: RequestError, stopped: RunStopped) -> PenstockError:
    """The tree, and the fields that its members carry."""
    assert_type(error.kind, Kind)
    assert_type(error.status, int | None)
    assert_type(error.maybe_billed, bool)
    assert_type(stopped.reason, str)
    if isinstance(error, Refused):
        return error
    return UsageError("no option of that name")
