"""`run`: any chain over many inputs, each at its own pace through all its steps, recorded and resumable.

    async for result in run(chain, inputs, ledger="reviews.ledger"):
        print(result.index, result.value if result.ok else result.error)

It decides what a row's function is, which client carries the run, and what makes two chains the same. The flow, the ledger
and the account are those of `Client.run`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sized
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from langchain_core.load.serializable import Serializable
from langchain_core.messages.base import TextAccessor
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from penstock.client import Client
from penstock.errors import UsageError
from penstock.integrations.langchain.chat import ChatPenstock
from penstock.integrations.langchain.clients import Clients, Settings, shared
from penstock.integrations.langchain.rows import Llm, RunRow, current_row, of_one_account
from penstock.options import Lane, positive
from penstock.ports import Ledger
from penstock.records import Result
from penstock.rules.tally import Tally

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_NOBODY = Settings(model="custom/none", base_url="http://127.0.0.1:9/v1")
"""Whose client carries a chain that asks no ChatPenstock: it is never asked for anything."""


async def run(
    chain: Runnable[Any, Any],
    inputs: Iterable[Any] | AsyncIterable[Any],
    *,
    ledger: str | Path | Ledger | None = None,
    max_concurrency: int | None = None,
    ordered: bool = False,
    retry_failed: bool = False,
    max_cost: float | None = None,
    lane: Lane | None = None,
    model: ChatPenstock | None = None,
    config: RunnableConfig | None = None,
    progress: bool = False,
) -> AsyncGenerator[Result, None]:
    """One `Result` for each input, as they complete (in order if `ordered`); its `value` is what the chain gave, as JSON.

    Rows do not wait for one another between steps. An input is a text or a mapping; inputs are drawn as they are used, of
    which `max_concurrency` go through the chain at once. A row that raises is a result with an `error`. With a `ledger` each
    answer of a ChatPenstock in the chain is recorded before the next step sees it, and a run that was cut goes on where it
    was, by the same call. After a change of the chain its rows are run again, and what they ask as before comes from the
    ledger. The limits are those of the ChatPenstock in the chain, or of the `model` that is given. `progress` shows on
    standard error how far the run is, as `penstock run` does.

    Raises `UsageError` for what cannot be right, and `RunStopped` where all rows are doomed (a refused key, no credit).
    """
    positive(max_concurrency=max_concurrency)
    clients = _clients_of(chain, model, records=ledger is not None)
    room = nullcontext() if max_concurrency is None else asyncio.Semaphore(max_concurrency)
    loop = asyncio.get_running_loop()

    async def through(row: Any, llm: Llm, *, chain_digest: str) -> Any:  # noqa: ARG001  it names the chain in the ledger
        token = current_row.set(RunRow(llm, clients.settings, ledger is not None, loop))
        try:
            async with room:
                return _plain(await chain.ainvoke(row, config))
        finally:
            current_row.reset(token)

    function, client, tally = partial(through, chain_digest=digest_of(chain)), clients.here(), Tally()
    options: dict[str, Any] = {"ordered": ordered, "retry_failed": retry_failed, "max_cost": max_cost, "lane": lane}
    results = client.run(function, inputs, ledger=ledger, tally=tally, **options)
    async with _shown(client, tally, inputs) if progress else nullcontext(), aclosing(results):
        async for result in results:
            yield result


def _shown(
    client: Client, tally: Tally, inputs: Iterable[Any] | AsyncIterable[Any]
) -> AbstractAsyncContextManager[None]:
    from penstock.jobs.progress import shown, view_of

    return shown(view_of(client, tally, len(inputs) if isinstance(inputs, Sized) else None))


def _plain(value: Any) -> Any:
    """The value with its texts as texts: those of messages, and so of `StrOutputParser`, can be called too, and are no JSON."""
    if isinstance(value, str):
        return str.__str__(value) if isinstance(value, TextAccessor) else value
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _clients_of(chain: Runnable[Any, Any], model: ChatPenstock | None, *, records: bool) -> Clients:
    """The clients of the model that is given, else of the first in the chain.

    Raises `UsageError` where answers are to be recorded and the models of the chain have not one account.
    """
    found = list(models_of(chain))
    if model is None and not found:
        return shared(_NOBODY)
    first = model or found[0]
    others = [other.model for other in found if not of_one_account(first.settings(), other.settings())]
    if records and others:
        raise UsageError(
            f"{first.model!r} and {', '.join(map(repr, others))} have not the same account and settings, and a ledger is of one "
            "account: give them the same key, address, limits, retries and time-out, or run the parts of the chain one by one"
        )
    return first.clients


def models_of(value: Any) -> Iterator[ChatPenstock]:
    """Each ChatPenstock that a chain is made of, in order; those that a function makes as it runs are not seen."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        part = waiting.pop(0)
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, ChatPenstock):
            yield part
        elif isinstance(part, Runnable):
            waiting += [*getattr(part, "deps", ()), *vars(part).values()]
        elif isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part


def digest_of(chain: Runnable[Any, Any]) -> str:
    """What tells a chain from another: its steps, prompts, parameters, and the sources of its functions.

    Where a model is asked (address, key, limits, time-outs) is no part of it, nor are functions that its functions call.
    """
    told = json.dumps(chain, default=_told, sort_keys=True)
    return blake2b(_ADDRESS.sub("", told).encode(), digest_size=8).hexdigest()


def _told(part: Any) -> Any:
    if isinstance(part, ChatPenstock):
        asked = ("model", "temperature", "max_tokens", "stop", "model_kwargs")
        return {name: getattr(part, name) for name in asked}
    if isinstance(part, RunnableLambda):
        functions = (getattr(part, "func", None), getattr(part, "afunc", None))
        return {"function": [_source(function) for function in functions if function is not None]}
    if isinstance(part, Serializable):
        return part.to_json()
    return _source(part) if callable(part) else repr(part)


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt, or written in C
        return repr(function)
