"""Client: the one place that puts the parts together. It holds them, starts them, and lets go of them; it decides nothing.

    async with Client("openai/gpt-5-mini") as client:
        response = await client.generate("Explain quantum computing in simple terms.")
        async for result in client.map(rows, prompt="Summarise: {text}", ledger="summaries.ledger"): ...

A Client belongs to one event loop. People share limits by sharing the Client.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from penstock.access import Access
from penstock.edges.functions import Function, require_workflow
from penstock.edges.prices import GenaiPrices
from penstock.launching import Launcher, send
from penstock.options import Lane, Limits, Retry, Timeouts
from penstock.ports import Clock, Ledger, Prices, Transport
from penstock.records import Response, Result, RowChunk, Structured
from penstock.rules.asking import Asking, Prompt
from penstock.rules.hedge import Hedging
from penstock.rules.tally import Tally, Uncounted

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.engine.run import Run
    from penstock.engine.stream import OnBreak, Streaming
    from penstock.planning import Forecast
    from penstock.rules.schema import Form
    from penstock.streaming import Stream

T = TypeVar("T")


class Client(Launcher):
    """Sends requests to one model of one provider, within the account's limits.

    `model` is `provider/model` (a bare name is OpenAI's); `api_key` defaults to the provider's usual variable; `base_url`
    includes `/v1`. `timeout` bounds one attempt, `deadline` one row with all its attempts, both in seconds.
    Without `max_concurrency`, how many go at once follows the limits, or where there are none, what the server can use.
    `hedge` sends a request again that is slower than nearly all, at most two in a hundred; both may be billed.
    `stream_end` is for a server that leaves out `[DONE]`: `finish_reason` or `close` is the least that ends its streams well.
    With more than one of `processes`, so many others do the sending, on cores of their own; limits, retries and ledger stay here.
    `transport`, `clock` and `prices` replace the world, for tests. Raises `UsageError` for what cannot be right.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        limits: Limits | None = None,
        max_concurrency: int | None = None,
        max_retries: int = 5,
        timeout: float | None = None,
        deadline: float | None = None,
        hedge: bool = False,
        stream_end: str | None = None,
        processes: int = 1,
        transport: Transport | None = None,
        clock: Clock | None = None,
        prices: Prices | None = None,
    ) -> None:
        access = Access(
            model,
            api_key=api_key,
            base_url=base_url,
            limits=limits or Limits(),
            max_concurrency=max_concurrency,
            timeouts=Timeouts(total=timeout),
            transport=transport,
            clock=clock,
            stream_end=stream_end,
            processes=processes,
        )
        retry = Retry(max_retries=max_retries, deadline=deadline)
        super().__init__(access, retry, Hedging() if hedge else None, prices or GenaiPrices(access.service.name))
        self._runs: dict[Run, Callable[[], Awaitable[None]]] = {}
        """What is under way, and how it is closed."""

    def __repr__(self) -> str:
        account = self._access.account
        state = "new" if account is None else f"{account.gate.in_flight} in flight"
        return f"<Client {self._service.name}/{self.model}, {state}>"

    async def __aenter__(self) -> Self:
        await self._access.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End runs that are still open, then close every connection. Calling it twice does no harm."""
        while self._runs:
            _, close = self._runs.popitem()
            await close()
        await self._access.aclose()

    @overload
    async def generate(self, prompt: Prompt, *, response_model: type[T], **options: Any) -> Structured[T]: ...
    @overload
    async def generate(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        model: str | None = None,
        lane: Lane | None = None,
        response_model: Any = None,
        repairs: int = 2,
        **params: Any,
    ) -> Response: ...
    async def generate(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        model: str | None = None,
        lane: Lane | None = None,
        response_model: Any = None,
        repairs: int = 2,
        **params: Any,
    ) -> Response:
        """One answer. `params` go into the body as they are (`temperature=0`, `max_tokens=200`, ...).

        Its `lane` is one of its own by default, so that it does not wait behind the rows of a run. With a `response_model`
        (see `rules.schema`) its `value` is one; an answer that does not fit is asked for again, at most `repairs` times.

        Raises a `RequestError` (`Refused`, `NoAnswer`, `BadAnswer`, ...) when there is none after the retries.
        """
        request = self._request(prompt, system, model, params)
        if response_model is None:
            return await send(await self.caller(lane), request)
        from penstock.engine.structured import answer
        from penstock.rules.schema import form_of

        form = form_of(response_model)
        return await answer(partial(send, await self.caller(lane)), request, form, self._service.native, repairs)

    def stream(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        model: str | None = None,
        lane: Lane | None = None,
        on_break: OnBreak = "error",
        **params: Any,
    ) -> Stream:
        """One answer as it comes: `async for chunk in client.stream(...)`; see `Stream`.

        Until the first chunk it is tried again as `generate` does. A break after it is raised, or, with `on_break="restart"`,
        a chunk says `restarted` and the answer begins anew.
        """
        from penstock.engine.stream import Streaming
        from penstock.streaming import Stream

        request = self._request(prompt, system, model, params)

        async def begin() -> Streaming:
            caller = await self.caller(lane)
            body = self.provider.encode(request, request.model or self.model)
            return Streaming(caller, request, body, on_break=on_break)

        return Stream(begin)

    # -- many requests

    async def map(
        self,
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        prompt: str | None = None,
        system: str | None = None,
        params: Mapping[str, Any] | None = None,
        ledger: str | Path | Ledger | None = None,
        ordered: bool = False,
        dedupe: bool = False,
        retry_failed: bool = False,
        max_cost: float | None = None,
        lane: Lane | None = None,
        response_model: Any = None,
        repairs: int = 2,
    ) -> AsyncGenerator[Result, None]:
        """One `Result` for each row, as they complete, or in input order if `ordered`.

        A row is a text, a mapping (columns for `prompt`'s fields, or `messages`), or an OpenAI batch line; rows are drawn
        only as fast as they are used. With a `ledger` every answer is recorded durably before it is yielded, and a row
        whose answer is recorded is not sent again. `dedupe` sends equal rows once. Nothing raises for a row; what dooms
        all of them (a refused key, no credit) raises `RunStopped`, and the same call with the same ledger goes on later.
        `max_cost` is in US dollars: it is reserved before sending, and the run stops before it would be exceeded. Where several
        runs share the client, turns are shared by the weights of their lanes.

        With a `response_model` each row's answer is asked for, checked and repaired as by `generate`, and `result.value` is
        one; `result.calls` tells how many answers were dropped, and attempts, usage and cost count these too.
        """
        asking = Asking(prompt=prompt, system=system, params=dict(params or {}))
        choices: dict[str, Any] = {"ordered": ordered, "dedupe": dedupe, "retry_failed": retry_failed}
        if response_model is not None:
            from penstock.rules.schema import form_of

            form = choices["form"] = form_of(response_model)
            choices["work"] = self.structured(asking, form, repairs, retry_failed=retry_failed)
        async with aclosing(self._results(rows, asking, ledger, max_cost, lane, **choices)) as results:
            async for result in results:
                yield result

    async def stream_many(
        self,
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        prompt: str | None = None,
        system: str | None = None,
        params: Mapping[str, Any] | None = None,
        ledger: str | Path | Ledger | None = None,
        dedupe: bool = False,
        retry_failed: bool = False,
        max_cost: float | None = None,
        lane: Lane | None = None,
        on_break: OnBreak = "error",
    ) -> AsyncGenerator[RowChunk | Result, None]:
        """The answers of many rows as they come: a `RowChunk` for each piece, and the row's `Result` once it is over.

        All else is as with `map`: a result is recorded before it is yielded, and a row whose answer was there already has
        no chunks. While nothing is taken the rows under way wait, and hold back their sockets. A row that breaks off after
        its first piece fails, or, with `on_break="restart"`, begins anew with a chunk that says `restarted`.
        """
        from penstock.engine.streamed_rows import HandOver, StreamedRequests, interleaved

        asking = Asking(prompt=prompt, system=system, params=dict(params or {}))
        hand = HandOver[RowChunk | Result]()
        choices: dict[str, Any] = {"dedupe": dedupe, "retry_failed": retry_failed}
        choices["work"] = partial(StreamedRequests, hand, on_break)
        results = self._results(rows, asking, ledger, max_cost, lane, **choices)
        async with aclosing(interleaved(hand, results)) as items:
            async for item in items:
                yield item

    async def run(
        self,
        function: Function,
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        ledger: str | Path | Ledger | None = None,
        ordered: bool = False,
        retry_failed: bool = False,
        max_cost: float | None = None,
        lane: Lane | None = None,
        tally: Tally | None = None,
    ) -> AsyncGenerator[Result, None]:
        """One `Result` for each row, whose `value` is what `async def function(row, llm)` gave back for it.

        Inside it `llm.generate` asks as `Client.generate` does. With a `ledger` each answer is recorded before the function
        gets it; where a run is cut, the same call runs what is left again, and answers that are recorded come from there.
        A `RequestError` that the function lets through is its row's error, and so is any other exception, as `WorkflowFailed`.
        A `tally` is kept up to date for whoever shows how far the run is. All else is as with `map`; `docs/workflows.md`
        has more.
        """
        require_workflow(function)
        asking, tally = Asking(), tally or Tally()
        choices: dict[str, Any] = {"ordered": ordered, "retry_failed": retry_failed, "tally": tally}
        told = {"called": tally.called, "tells_recorded": True}
        choices["work"] = self.workflow(function, asking, retry_failed=retry_failed, **told)
        async with aclosing(self._results(rows, asking, ledger, max_cost, lane, function, **choices)) as results:
            async for result in results:
                yield result

    def _results(
        self,
        rows: Iterable[Any] | AsyncIterable[Any],
        asking: Asking,
        ledger: str | Path | Ledger | None,
        max_cost: float | None,
        lane: Lane | None,
        function: Function | None = None,
        tally: Tally | None = None,
        form: Form | None = None,
        **choices: Any,
    ) -> AsyncGenerator[Result, None]:
        """What becomes of the rows; `choices` are those of `start`."""
        from penstock.engine.source import raw_rows
        from penstock.recording import results_of

        async def start(store: Ledger | None, *, look_up: bool) -> Run:
            if max_cost is not None:
                await self.load_prices()
            self.check_max_cost(max_cost)
            scope = self.scope(lane, max_cost, store)
            more: dict[str, Any] = {"ledger": store, "look_up": look_up, **choices}
            return await self.start(raw_rows(rows), asking, tally or Uncounted(), scope, **more)

        asking.template()
        results = results_of(start, ledger, self.options(asking, function, form), self._runs)
        if form is None:
            return results
        from penstock.engine.structured_rows import with_values

        return with_values(results, form)

    async def gather(self, prompts: Iterable[Any], **options: Any) -> list[Result]:
        """All results in input order; takes what `map` takes."""
        return [result async for result in self.map(prompts, ordered=True, **options)]

    async def plan(
        self,
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        prompt: str | None = None,
        system: str | None = None,
        params: Mapping[str, Any] | None = None,
        ledger: str | Path | None = None,
    ) -> Forecast:
        """What `map` over these rows would take: requests, tokens, money, time, each with its range. Sends nothing.

        It simulates the run on virtual time. With the `ledger` of an interrupted run it learns from the answers in it and
        plans the rest. Raises `InputError` for rows of its sample that can never be sent.
        """
        from penstock import planning

        asking = Asking(prompt=prompt, system=system, params=dict(params or {}))
        past = planning.NO_PAST if ledger is None else await planning.past_in(ledger)
        return await planning.plan(self.conditions(), self.render(asking), planning.given(rows), past=past)
