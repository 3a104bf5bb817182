"""A row of a workflow: a user's function, whose calls go through the run's gate and are recorded one by one.

It decides which answer a call gets: the one that is recorded under its row, its content and its occurrence; else one of an
earlier run; else it is sent. It sends nothing itself and knows nothing of what the function does between its calls.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import add
from typing import Any, TypeVar, overload

import msgspec

from penstock.engine.call import GIVEN_UP, Caller
from penstock.engine.recorder import Recorder
from penstock.engine.run import Task, gone, to_its_end
from penstock.engine.structured import answer
from penstock.errors import RequestError, RunStopped, UsageError, request_error
from penstock.ports import Marks, Prices
from penstock.records import Call, Calls, RawRow, Request, Response, Result, Row, Structured, Usage
from penstock.rules.asking import Prompt
from penstock.rules.entries import json_value, state_of, sums_in, to_entry, to_result
from penstock.rules.identity import ANSWERED, FAILED, REFUSED, options_digest, request_digest, row_digest
from penstock.rules.schema import Form, Native, form_of

T = TypeVar("T")


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """What a workflow is made of.

    `function(row, llm)` gives a row's value; `identity` is the digest of all that shapes it; `request_of` makes a request
    of what `Llm.generate` is given, `row_of` a row of what the input has; `trace` prints where an exception came from;
    `called` is told of each call that is over, also of what was recorded in this run before where it `tells_recorded`.
    """

    function: Callable[[Any, Llm], Awaitable[Any]]
    identity: bytes
    row_of: Callable[[RawRow], Row]
    request_of: Callable[[Prompt, str | None, str | None, dict[str, Any]], Request]
    trace: Callable[[BaseException], str]
    prices: Prices
    native: Native
    called: Callable[[Result], None] = lambda _: None
    tells_recorded: bool = False
    retry_failed: bool = False


def identity_of(options: Mapping[str, Any]) -> bytes:
    """The digest of what shapes the values of a run's rows: all options but those that shape OUTPUT alone."""
    return options_digest({name: value for name, value in options.items() if name not in ("id_column", "keep")})


def digest_of(identity: bytes, values: Any) -> bytes:
    """The identity of a row: what it holds, and what is done with it."""
    return row_digest(identity, values if isinstance(values, str) else dict(values))


class Workflow:
    """`engine.run.Work`: each row is run through a function. The caller's deadline is a row's, not that of each call."""

    def __init__(self, flow: Flow, caller: Caller) -> None:
        self.caller, self.flow = msgspec.structs.replace(caller, deadline=None), flow
        self._deadline = caller.deadline
        self.closed = False

    def prepare(self, raw: RawRow) -> Task:
        return Task(self.flow.row_of(raw), raw.values)

    def digest(self, task: Task) -> bytes:
        return digest_of(self.flow.identity, task.matter)

    async def carry_out(self, task: Task, recorder: Recorder | None) -> Result:
        row, clock = task.row, self.caller.account.clock
        recorded = await recorder.ledger.calls(row.index) if recorder is not None else ()
        llm = Llm(self, row, recorder, recorded)
        began = clock.now()
        try:
            value, error = await self._end_of(task.matter, llm)
        finally:
            await llm.aclose()
        took, unused = llm.took, llm.unused()
        return Result(
            index=row.index,
            id=row.id,
            value=value,
            error=error,
            attempts=took.attempts,
            ambiguous=took.ambiguous + unused.ambiguous,
            latency_s=clock.now() - began,
            cost=took.cost,
            columns=row.columns,
            calls=Calls(took.answers, took.dropped, took.usage, unused.answers, unused.cost),
        )

    def close(self) -> None:
        self.closed = True

    async def _end_of(self, given: Any, llm: Llm) -> tuple[Any, RequestError | None]:
        """The function's value, or why it has none. Raises `RunStopped` and cancellation, also those that it swallowed."""
        worker = asyncio.current_task()
        assert worker is not None
        cancelled_before = worker.cancelling()
        value, error = None, None
        try:
            async with asyncio.timeout(self._deadline) as deadline:
                llm.deadline = deadline
                value = json_value(await self.flow.function(given, llm))
        except asyncio.CancelledError as raised:
            # A task group that fails leaves its mark too (Python 3.11 and 3.12), so the count says nothing of a row that ends well.
            if worker.cancelling() > cancelled_before and not deadline.expired():
                raise
            error = self._reason_of(raised)
        except Exception as raised:  # noqa: BLE001  whatever a user's code raises is its row's
            error = self._reason_of(raised)
        if llm.stopped is not None:
            raise llm.stopped
        if self.closed:
            raise asyncio.CancelledError
        if deadline.expired():
            seconds = self._deadline
            late = request_error(
                "deadline", f"the workflow had not come to its end within the row's deadline of {seconds:g} s"
            )
            late.__cause__ = error
            return None, late
        return value, error

    def _reason_of(self, raised: BaseException) -> RequestError:
        """The row's error: that of a call as it is, anything else with its trace."""
        causes = list(_leaves(raised))
        failures = [cause for cause in causes if isinstance(cause, RequestError)]
        if len(failures) == len(causes):
            return next((failed for failed in failures if _is_for_now(failed)), failures[0])
        cause = next(cause for cause in causes if not isinstance(cause, RequestError))
        name = type(cause).__name__
        reason = request_error("workflow", f"{name}: {cause}", code=name, trace=self.flow.trace(raised))
        reason.__cause__ = raised
        return reason


class Llm:
    """What a workflow's function asks. Its calls share the run's limits; each answer is recorded before it is given.

    Equal requests of one row are told apart by the order in which they are asked.
    """

    def __init__(self, work: Workflow, row: Row, recorder: Recorder | None, recorded: Sequence[Call]) -> None:
        self._work, self._caller, self._flow = work, work.caller, work.flow
        self._row, self._recorder = row, recorder
        self._recorded = {(call.entry.request, call.occurrence): call for call in recorded}
        self._asked: Counter[bytes] = Counter()
        self._worker = asyncio.current_task()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over = False
        self._sends = 0
        self.deadline = asyncio.timeout(None)
        self.took = Took()
        self.stopped: RunStopped | None = None

    def __repr__(self) -> str:
        return f"<Llm of row {self._row.index}, {self._asked.total()} calls>"

    @overload
    async def generate(self, prompt: Prompt, *, response_model: type[T], **options: Any) -> Structured[T]: ...
    @overload
    async def generate(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        model: str | None = None,
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
        response_model: Any = None,
        repairs: int = 2,
        **params: Any,
    ) -> Response:
        """One answer, as `Client.generate` gives it; recorded, and from the ledger where it was recorded before.

        Raises a `RequestError` where there is none after the retries: caught, the row goes on; else it is the row's error.
        """
        self._check_in()
        request = self._flow.request_of(prompt, system, model, params)
        if response_model is None:
            return await self._answer(request)
        form, sends = _form(response_model), self._sends
        try:
            return await self._structured(request, form, repairs)
        except RequestError:
            if sends != self._sends or not self._flow.retry_failed:
                raise
            # All of it was recorded by an earlier session, and another try is what is wanted.
            return await self._structured(request, form, repairs)

    async def _structured(self, request: Request, form: Form, repairs: int) -> Response:
        try:
            response = await answer(self._answer, request, form, self._flow.native, repairs)
        except RequestError as error:
            self.took.dropped += len(error.discarded)
            raise
        self.took.dropped += len(response.discarded)
        return response

    def _check_in(self) -> None:
        """Remember whose call it is: no task that calls outlives its row. A row that is cancelled, or late, sends no more."""
        task = asyncio.current_task()
        assert task is not None
        if self._over:
            raise UsageError("this row of the workflow is over: await every call before the function returns")
        if task is not self._worker:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._work.closed or self.deadline.expired():
            raise asyncio.CancelledError

    async def _answer(self, request: Request) -> Response:
        account = self._caller.account
        body = account.provider.encode(request, request.model or account.model)
        digest = request_digest(account.provider.name, body)
        key = digest, self._asked[digest]
        self._asked[digest] += 1
        result = await self._known(key)
        if result is None:
            result = await self._sent(request, body, key)
            if self._recorder is not None:
                await self._recorder.certain()
        return result.unwrap()

    async def _known(self, key: tuple[bytes, int]) -> Result | None:
        """What is recorded of this place and content, or an answer of an earlier run, which stands here from now on."""
        call, told = self._recorded.get(key), self._flow.tells_recorded
        if call is not None and (
            call.entry.state == FAILED or (call.entry.state == REFUSED and self._flow.retry_failed)
        ):
            return None
        if call is None and self._recorder is not None:
            call, told = await self._recorder.ledger.claim(self._row.index, *key), True
        if call is None:
            return None
        result = to_result(call.entry, self._caller.account.provider.revive)
        self.took.take_in(result)
        if told:
            self._flow.called(result)
        return result

    async def _sent(self, request: Request, body: bytes, key: tuple[bytes, int]) -> Result:
        """What came of a request that is sent. A send that is cut off is noted all the same: it may be billed."""
        self._sends += 1
        marks = _Sends(self._caller.marks)
        caller = msgspec.structs.replace(self._caller, marks=marks)
        result = None
        try:
            outcome = await caller.call(request, body, self._row.index)
            model, response = request.model or caller.account.model, outcome.response
            result = Result(
                index=self._row.index,
                id=self._row.id,
                response=response,
                error=outcome.error,
                attempts=outcome.attempts,
                ambiguous=outcome.ambiguous,
                latency_s=outcome.latency_s,
                cost=self._flow.prices.cost(model, response.usage) if response is not None else None,
            )
        except RunStopped as stopped:
            self.stopped = stopped
            raise
        finally:
            if result is None and marks.sends:
                cut = Result(self._row.index, self._row.id, error=GIVEN_UP, attempts=marks.sends, ambiguous=marks.sends)
                self._over_with(cut, key)
        self._over_with(result, key)
        return result

    def _over_with(self, result: Result, key: tuple[bytes, int]) -> None:
        """A call was sent and is over, one way or the other. It takes the place of the same call that was given up before."""
        self.took.take_in(result)
        self._flow.called(result)
        if self._recorder is not None:
            request, occurrence = key
            before = self._recorded.get(key)
            number = before.number if before is not None else 0
            entry = to_entry(result, request, self._caller.account.clock.wall())
            self._recorder.call(Call(entry, occurrence, number))

    async def aclose(self) -> None:
        """The row is over: whoever still calls in its name is cancelled and gone."""
        self._over = True
        tasks = set(self._tasks)
        if tasks:
            await to_its_end(asyncio.create_task(gone(tasks)))
            for task in tasks:
                if not task.cancelled():
                    task.exception()  # nobody waits for it any more

    def unused(self) -> Took:
        """What stands recorded of earlier sessions and was not asked for again."""
        left = Took()
        for (request, occurrence), call in self._recorded.items():
            if occurrence >= self._asked[request]:
                sums = sums_in(call.entry.meta)
                left.add(call.entry.state == ANSWERED, sums.ambiguous, sums.cost, sums.usage)
        return left


class Took(msgspec.Struct):
    """What calls took; a sum with an unknown part is None."""

    answers: int = 0
    dropped: int = 0
    attempts: int = 0
    ambiguous: int = 0
    cost: float | None = 0.0
    usage: Usage | None = Usage()

    def take_in(self, result: Result) -> None:
        """One more call."""
        self.attempts += result.attempts
        self.add(result.ok, result.ambiguous, result.cost, result.usage)

    def add(self, answered: bool, ambiguous: int, cost: float | None, usage: Usage | None) -> None:
        self.ambiguous += ambiguous
        if answered:
            self.answers += 1
            self.cost = None if self.cost is None or cost is None else self.cost + cost
            self.usage = None if self.usage is None or usage is None else _sum(self.usage, usage)


class _Sends:
    """`ports.Marks` of one call: counts its sends that may be billed, and passes them on."""

    def __init__(self, marks: Marks | None) -> None:
        self._marks, self.sends = marks, 0

    def sending(self, index: int) -> None:
        self.sends += 1
        if self._marks is not None:
            self._marks.sending(index)

    def not_sent(self, index: int) -> None:
        self.sends -= 1
        if self._marks is not None:
            self._marks.not_sent(index)


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(*map(add, msgspec.structs.astuple(one), msgspec.structs.astuple(other)))


def _leaves(raised: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, however deep; any other is its own."""
    if not isinstance(raised, BaseExceptionGroup):
        yield raised
        return
    for part in raised.exceptions:
        yield from _leaves(part)


def _is_for_now(error: RequestError) -> bool:
    """True where a later session runs the row again by itself."""
    return state_of(Result(0, 0, error=error)) == FAILED


def _form(response_model: Any) -> Form:
    return _form_of_type(response_model) if isinstance(response_model, type) else form_of(response_model)


@lru_cache(maxsize=64)
def _form_of_type(response_model: type) -> Form:
    """A workflow asks for the same form in each of its rows."""
    return form_of(response_model)
