"""A function over many rows on virtual time: every call through the gate, every answer recorded, each row for itself."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from datetime import date
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.client import Client
from penstock.engine.workflow import Llm
from penstock.errors import (
    DeadlineExceeded,
    LedgerFailed,
    Refused,
    RequestError,
    RunStopped,
    UsageError,
    WorkflowFailed,
)
from penstock.options import Limits
from penstock.records import Call, Entry, Request, Usage
from penstock.rules.identity import ANSWERED, FAILED, REFUSED
from penstock.simulator.behaviour import Faults, Settings, expected_text
from penstock.simulator.clock import VirtualClock, run
from penstock.testing import MemoryLedger, ScriptedTransport, completion
from tests.kit.rows import VirtualClient, tasks_left
from tests.kit.workflows import (
    DyingLedger,
    RememberingTransport,
    prompt_in,
    run_all,
    texts,
    two_steps,
    value_of_two_steps,
)


class Remembering(VirtualClient):
    """A client whose provider remembers the prompts: `asked`."""

    def __init__(self, settings: Settings | None = None, **options: Any) -> None:
        transport = RememberingTransport(settings or Settings(), VirtualClock())
        super().__init__(transport=transport, **options)
        self.asked = transport.asked
        self.provided = transport


# -- values


def test_each_row_has_the_value_of_its_own_function() -> None:
    async def main() -> None:
        async with VirtualClient(Settings(latency=1.0), max_concurrency=20) as client:
            results = await run_all(client, two_steps, texts(90))
            assert [result.value for result in results] == [value_of_two_steps(row["text"]) for row in texts(90)]
            assert all((result.ok, result.attempts, result.response) == (True, 2, None) for result in results)
            assert all(result.calls is not None and result.calls.answers == 2 for result in results)
            assert not tasks_left()

    run(main())


def test_rows_do_not_wait_for_one_another_between_steps() -> None:
    """A barrier after each step would take the slowest answer of each; here only the slowest chain counts."""
    latency: dict[str, float] = {}

    async def main() -> tuple[float, float]:
        class Slow(RememberingTransport):
            async def send(self, call: Any, timeouts: Any) -> Any:
                prompt = prompt_in(call)
                latency[prompt] = 10.0 if prompt in ("Classify 1", "Summarise 2") else 1.0
                await self._clock.sleep(latency[prompt])
                return await super().send(call, timeouts)

        async def steps(row: str, llm: Llm) -> None:
            await llm.generate(f"Summarise {row}")
            await llm.generate(f"Classify {row}")

        clock = VirtualClock()
        async with VirtualClient(transport=Slow(Settings(latency=0.0), clock), max_concurrency=10) as client:
            await run_all(client, steps, list("0123456789"))
            barrier = sum(max(t for p, t in latency.items() if p.startswith(s)) for s in ("Summarise", "Classify"))
            return client.clock.now(), barrier

    wall, barrier = run(main())
    assert barrier == 20.0
    assert wall == pytest.approx(11.0, abs=0.1)


def test_calls_of_one_row_may_go_at_once() -> None:
    async def several(row: str, llm: Llm) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(llm.generate(f"{row} {part}")) for part in range(5)]
        return [task.result().text for task in tasks]

    async def main() -> None:
        async with VirtualClient(Settings(latency=1.0), max_concurrency=100) as client:
            results = await run_all(client, several, ["a", "b"])
            assert [result.value for result in results] == [
                [expected_text(f"{row} {part}") for part in range(5)] for row in "ab"
            ]
            assert client.clock.now() == pytest.approx(1.0, abs=0.1)
            assert not tasks_left()

    run(main())


def test_a_call_may_have_a_model_a_system_message_and_parameters_of_its_own() -> None:
    async def main() -> None:
        bodies = []

        def answer(call: Any) -> Any:
            bodies.append(msgspec.json.decode(call.body))
            return completion("x")

        async def asks(row: str, llm: Llm) -> None:
            await llm.generate(row, system="Be brief.", model="openai/large", temperature=0)
            await llm.generate([{"role": "user", "content": row}], model="small")
            await llm.generate(Request([{"role": "user", "content": row}], params={"top_p": 1}))

        async with VirtualClient(transport=ScriptedTransport(answer)) as client:
            assert [result.ok for result in await run_all(client, asks, ["Why?"])] == [True]
        assert [body["model"] for body in bodies] == ["large", "small", "m"]
        assert [message["role"] for message in bodies[0]["messages"]] == ["system", "user"]
        assert (bodies[0]["temperature"], bodies[2]["top_p"]) == (0, 1)

    run(main())


@dataclasses.dataclass
class Labels:
    topic: str
    day: date


async def _as_it_is(row: Any, llm: Llm) -> Any:
    return row()


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (None, None),
        ("text", "text"),
        ((1, 2.5, True), [1, 2.5, True]),
        ({1: {"a"}}, {"1": ["a"]}),
        (Labels("x", date(2026, 1, 2)), {"topic": "x", "day": "2026-01-02"}),
        (Usage(1, 2), {"input_tokens": 1, "output_tokens": 2, "cached_tokens": 0, "reasoning_tokens": 0}),
    ],
)
def test_a_value_is_what_it_will_be_when_it_is_read_again(given: Any, value: Any) -> None:
    """Records, dates and tuples become what they are in JSON, with a ledger and without."""

    async def gives(row: Any, llm: Llm) -> Any:
        return given

    async def main() -> None:
        async with VirtualClient() as client:
            ledger = MemoryLedger()
            assert [result.value for result in await run_all(client, gives, ["a"])] == [value]
            for _ in range(2):
                assert [result.value for result in await run_all(client, gives, ["a"], ledger=ledger)] == [value]

    run(main())


def test_an_answer_that_is_given_back_is_its_text() -> None:
    async def gives(row: str, llm: Llm) -> Any:
        return await llm.generate(row)

    async def main() -> None:
        async with VirtualClient() as client:
            assert [result.value for result in await run_all(client, gives, ["Why?"])] == [expected_text("Why?")]

    run(main())


@pytest.mark.parametrize("given", [object(), float("nan"), {"a": [float("inf")]}, {"a": lambda: 0}])
def test_a_value_that_is_no_json_is_an_error_of_its_row(given: Any) -> None:
    async def gives(row: str, llm: Llm) -> Any:
        await llm.generate(row)
        return given

    async def main() -> None:
        async with VirtualClient() as client:
            (result,) = await run_all(client, gives, ["Why?"])
            assert isinstance(result.error, WorkflowFailed)
            assert "JSON" in result.error.message
            assert (result.value, result.cost, result.attempts) == (None, 0.0, 1)

    run(main())


# -- recording


class SlowLedger(MemoryLedger):
    """A disk that takes its time."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    async def commit(self, entries: Sequence[Entry], calls: Sequence[Call] = ()) -> None:
        await self._clock.sleep(5.0)
        await super().commit(entries, calls)


def test_an_answer_is_recorded_before_the_function_gets_it() -> None:
    async def main() -> None:
        async with VirtualClient(Settings(latency=1.0)) as client:
            ledger = SlowLedger(client.clock)
            seen = []

            async def looks(row: str, llm: Llm) -> None:
                answer = await llm.generate(row)
                seen.extend([call.entry.body == answer.raw for call in ledger.called.values()])

            await run_all(client, looks, ["Why?"], ledger=ledger)
            assert seen == [True]
            assert client.clock.now() == pytest.approx(11.0, abs=0.1)

    run(main())


def test_rows_that_are_over_are_not_run_again() -> None:
    async def main() -> None:
        ledger = MemoryLedger()
        async with Remembering() as client:
            first = await run_all(client, two_steps, texts(10), ledger=ledger)
        async with Remembering() as client:
            again = await run_all(client, two_steps, texts(10), ledger=ledger)
            assert not client.asked
        assert [result.value for result in again] == [result.value for result in first]
        assert all(result.reused for result in again)
        assert [result.calls for result in again] == [result.calls for result in first]
        assert ledger.marked == {}

    run(main())


@given(
    at=st.integers(1, 60),
    durable=st.booleans(),
    concurrency=st.integers(1, 8),
    seed=st.integers(0, 5),
    faulty=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_run_that_dies_at_any_commit_comes_to_the_same_end_and_asks_for_nothing_twice(
    at: int, durable: bool, concurrency: int, seed: int, faulty: bool
) -> None:
    """Whatever was recorded when it died is not sent again, and the values are those of a run that nothing disturbed."""

    async def chain(row: dict[str, str], llm: Llm) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(llm.generate(f"Part {part % 2} of {row['text']}")) for part in range(3)]
        parts = [task.result().text for task in tasks]
        return [*parts, (await llm.generate(f"All of {' '.join(parts)}")).text]

    faults = Faults(error_500=0.1, reset=0.05) if faulty else Faults()
    provider = Settings(latency=1.0, faults=faults, seed=seed)

    async def undisturbed() -> list[Any]:
        async with Remembering(provider) as client:
            return [result.value for result in await run_all(client, chain, texts(12))]

    async def disturbed() -> list[Any]:
        ledger: MemoryLedger = DyingLedger(at, durable=durable)
        async with Remembering(provider, max_concurrency=concurrency) as client:
            try:
                await run_all(client, chain, texts(12), ledger=ledger)
            except LedgerFailed:
                pass
            assert not tasks_left()
        recorded = Counter(call.entry.request for call in ledger.called.values() if call.entry.state == ANSWERED)
        before = dict(ledger.called)
        after: Counter[bytes] = Counter()

        class Second(RememberingTransport):
            async def send(self, call: Any, timeouts: Any) -> Any:
                after[call.body] += 1
                return await super().send(call, timeouts)

        transport = Second(provider, VirtualClock())
        async with VirtualClient(transport=transport, max_concurrency=concurrency) as client:
            results = await run_all(client, chain, texts(12), ledger=ledger)
            whole = Counter(call.entry.request for call in ledger.called.values())
            if not faulty:
                assert after.total() == (whole - recorded).total()
        assert all(ledger.called[key] == call for key, call in before.items() if call.entry.state == ANSWERED)
        assert all(result.calls is not None and result.calls.unused == 0 for result in results)
        assert ledger.marked == {} or not durable
        return [result.value for result in results]

    assert run(disturbed(), seed=seed) == run(undisturbed(), seed=seed)


def test_equal_requests_of_one_row_keep_one_answer_each() -> None:
    async def thrice(row: str, llm: Llm) -> list[str]:
        return [(await llm.generate(row)).text for _ in range(3)]

    async def main() -> None:
        script = iter(["one", "two", "three"])
        ledger = DyingLedger(3, durable=True)
        async with VirtualClient(transport=ScriptedTransport(lambda _: completion(next(script)))) as client:
            with pytest.raises(LedgerFailed):
                await run_all(client, thrice, ["Why?"], ledger=ledger)
            (result,) = await run_all(client, thrice, ["Why?"], ledger=ledger)
            assert result.value == ["one", "two", "three"]
            assert [call.occurrence for call in ledger.called.values()] == [0, 1, 2]

    run(main())


def test_an_answer_that_is_not_asked_for_again_is_told_and_kept() -> None:
    """A function that is not deterministic ends right all the same."""
    asked = iter(["first way", "second way"])

    async def wavers(row: str, llm: Llm) -> str:
        answer = await llm.generate(f"{row} {next(asked)}")
        if "first" in answer.text:
            raise ValueError("not this way")
        return answer.text

    async def main() -> None:
        ledger = MemoryLedger()
        async with VirtualClient() as client:
            (failed,) = await run_all(client, wavers, ["Why?"], ledger=ledger)
            assert (failed.ok, failed.calls.answers, failed.calls.unused) == (False, 1, 0)
            (result,) = await run_all(client, wavers, ["Why?"], ledger=ledger)
            assert result.value == expected_text("Why? second way")
            assert (result.calls.answers, result.calls.unused, result.calls.unused_cost) == (1, 1, 0.0)
            assert len(ledger.called) == 2

    run(main())


def test_a_refused_call_is_not_asked_again_unless_it_is_wanted() -> None:
    """A function that catches a refusal goes the same way again without sending it."""

    async def falls_back(row: str, llm: Llm) -> str:
        try:
            await llm.generate(f"[[simulate:too-long]] {row}")
        except Refused:
            pass
        answer = await llm.generate(f"Shorter: {row}")
        if not again:
            raise ValueError
        return answer.text

    async def main() -> None:
        nonlocal again
        ledger = MemoryLedger()
        async with Remembering() as client:
            await run_all(client, falls_back, ["Why?"], ledger=ledger)
            assert [call.entry.state for call in ledger.called.values()] == [REFUSED, ANSWERED]
            await run_all(client, falls_back, ["Why?"], ledger=ledger)
            assert client.asked.total() == 2
            again = True
            (result,) = await run_all(client, falls_back, ["Why?"], ledger=ledger, retry_failed=True)
            assert result.value == expected_text("Shorter: Why?")
            assert client.asked["[[simulate:too-long]] Why?"] == 2
            assert client.asked["Shorter: Why?"] == 1

    again = False
    run(main())


# -- errors


def test_the_error_of_a_call_is_raised_in_the_function_and_is_its_rows_if_it_gets_out() -> None:
    async def asks(row: str, llm: Llm) -> str:
        await llm.generate(f"First {row}")
        return (await llm.generate(f"{row} second")).text

    async def main() -> None:
        async with VirtualClient(max_retries=1) as client:
            rows = ["a", "[[simulate:400]]", "b", "[[simulate:content-filter]]"]
            results = await run_all(client, asks, rows, ledger=MemoryLedger())
            assert [result.ok for result in results] == [True, False, True, False]
            assert isinstance(results[1].error, Refused)
            assert (results[1].error.kind, results[3].error.kind) == ("invalid_request", "content_blocked")
            assert (results[1].value, results[1].error.trace) == (None, "")

    run(main())


def test_errors_of_several_calls_at_once_are_one_error_of_the_row() -> None:
    async def asks(row: str, llm: Llm) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(llm.generate(f"[[simulate:400]] {row} {number}"))

    async def main() -> None:
        async with VirtualClient() as client:
            (result,) = await run_all(client, asks, ["a"])
            assert isinstance(result.error, Refused)
            assert not tasks_left()

    run(main())


def test_any_other_exception_is_its_rows_error_with_its_trace_and_the_row_is_run_again() -> None:
    mended = False

    async def breaks(row: str, llm: Llm) -> str:
        answer = await llm.generate(row)
        if row == "b" and not mended:
            raise KeyError("no such label")
        return answer.text

    async def main() -> None:
        nonlocal mended
        ledger = MemoryLedger()
        async with Remembering() as client:
            results = await run_all(client, breaks, list("abc"), ledger=ledger)
            assert [result.ok for result in results] == [True, False, True]
            failed = results[1].error
            assert isinstance(failed, WorkflowFailed)
            assert (failed.kind, failed.code, failed.message) == ("workflow", "KeyError", "KeyError: 'no such label'")
            assert 'raise KeyError("no such label")' in failed.trace
            assert "engine/workflow.py" not in failed.trace
            assert ledger.state(1) == FAILED
            mended = True
            results = await run_all(client, breaks, list("abc"), ledger=ledger)
            assert [result.value for result in results] == [expected_text(row) for row in "abc"]
            assert client.asked == Counter("abc")

    run(main())


def test_a_group_of_errors_with_one_of_the_code_itself_is_told_by_that() -> None:
    async def breaks(row: str, llm: Llm) -> None:
        async def bug() -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError("oops")

        async with asyncio.TaskGroup() as group:
            group.create_task(llm.generate(row))
            group.create_task(bug())

    async def main() -> None:
        async with VirtualClient() as client:
            (result,) = await run_all(client, breaks, ["a"])
            assert (result.error.kind, result.error.code) == ("workflow", "ZeroDivisionError")
            assert "oops" in result.error.trace
            assert not tasks_left()

    run(main())


def test_a_failed_row_never_gets_another_rows_answer() -> None:
    """Some rows fail at a step, some are tried again; each of the others has what was made of its own text."""
    faults = Faults(error_500=0.2, reset=0.1, truncate=0.05)

    async def main(seed: int) -> None:
        rows = [{"text": f"{'[[simulate:400]] ' if index % 7 == 0 else ''}text {index}"} for index in range(200)]
        async with VirtualClient(Settings(latency=0.5, faults=faults, seed=seed), max_retries=2) as client:
            results = await run_all(client, two_steps, rows, ledger=MemoryLedger())
            failed = [result for result in results if not result.ok]
            assert {index for index in range(200) if index % 7 == 0} <= {result.index for result in failed}
            assert all(result.value is None for result in failed)
            good = [result for result in results if result.ok]
            assert [result.value for result in good] == [value_of_two_steps(f"text {result.index}") for result in good]
            assert len(good) > 100

    for seed in range(3):
        run(main(seed), seed=seed)


def test_what_dooms_all_rows_ends_the_run_even_if_the_function_swallows_it() -> None:
    async def swallows(row: str, llm: Llm) -> str:
        try:
            return (await llm.generate(row)).text
        except Exception:  # noqa: BLE001  that is what is tested
            return "made up"

    async def main() -> None:
        ledger = MemoryLedger()
        async with VirtualClient(Settings(latency=0.1, key_refused_after=5), max_concurrency=2) as client:
            with pytest.raises(RunStopped, match="refused the key"):
                await run_all(client, swallows, [str(index) for index in range(50)], ledger=ledger)
            assert b'"made up"' not in {entry.body for entry in ledger.entries.values()}
            assert len(ledger.entries) == 5
            assert not tasks_left()

    run(main())


def test_a_function_may_swallow_the_error_of_a_call() -> None:
    async def swallows(row: str, llm: Llm) -> str:
        try:
            return (await llm.generate(row)).text
        except RequestError as failed:
            return failed.kind

    async def main() -> None:
        async with VirtualClient(max_retries=0, timeout=1.0) as client:
            results = await run_all(client, swallows, ["a", "[[simulate:400]]", "[[simulate:stall]]"])
            assert [result.value for result in results] == [expected_text("a"), "invalid_request", "timeout"]
            assert [result.ambiguous for result in results] == [0, 0, 1]

    run(main())


# -- time and cancellation


def test_a_deadline_is_that_of_the_whole_row() -> None:
    async def asks(row: str, llm: Llm) -> str:
        for step in range(5):
            await llm.generate(f"{row} {step}")
        return row

    async def main() -> None:
        ledger = MemoryLedger()
        async with Remembering(Settings(latency=1.0), deadline=3.5) as client:
            (late,) = await run_all(client, asks, ["a"], ledger=ledger)
            assert isinstance(late.error, DeadlineExceeded)
            assert late.latency_s == pytest.approx(3.5, abs=0.1)
            assert (late.calls.answers, late.ambiguous, ledger.state(0)) == (3, 1, FAILED)
            (result,) = await run_all(client, asks, ["a"], ledger=ledger)
            assert result.value == "a"
            assert client.asked == Counter({f"a {step}": 2 if step == 3 else 1 for step in range(5)})

    run(main())


def test_a_function_that_swallows_its_deadline_has_none_the_less_missed_it() -> None:
    async def clings(row: str, llm: Llm) -> str:
        try:
            await llm.generate(row)
        except asyncio.CancelledError:
            pass
        return "made up"

    async def main() -> None:
        async with VirtualClient(Settings(latency=10.0), deadline=1.0) as client:
            (result,) = await run_all(client, clings, ["a"])
            assert isinstance(result.error, DeadlineExceeded)

    run(main())


@pytest.mark.parametrize("recorded", [False, True])
def test_no_call_outlives_its_row(recorded: bool) -> None:
    """A function that returns while a call is under way: the call is cancelled, and counted as one that may be billed."""
    strays = []

    async def leaves(row: str, llm: Llm) -> str:
        strays.append(asyncio.create_task(llm.generate(f"{row} slow")))
        await llm.generate(row)
        return "done"

    async def main() -> None:
        ledger = MemoryLedger() if recorded else None
        async with VirtualClient(transport=None, settings=Settings(latency=2.0)) as client:

            async def leaves_early(row: str, llm: Llm) -> str:
                strays.append(asyncio.create_task(llm.generate(f"{row} slow")))
                await client.clock.sleep(1.0)
                return "done"

            (result,) = await run_all(client, leaves_early, ["a"], ledger=ledger)
            assert (result.value, result.ambiguous, result.attempts) == ("done", 1, 1)
            assert client.clock.now() == pytest.approx(1.0, abs=0.1)
            assert all(stray.cancelled() for stray in strays)
            assert client.statistics()["in_flight"] == 0
            if ledger is not None:
                assert [call.entry.state for call in ledger.called.values()] == [FAILED]
            assert not tasks_left()

    run(main())


def test_a_call_that_comes_when_its_row_is_over_is_refused() -> None:
    async def main() -> None:
        late: list[asyncio.Task[Any]] = []

        async def leaves(row: str, llm: Llm) -> None:
            late.append(asyncio.create_task(llm.generate(row)))

        async with Remembering() as client:
            (result,) = await run_all(client, leaves, ["a"])
            assert result.ok
            with pytest.raises(UsageError, match="await every call before the function returns"):
                await late[0]
            assert not client.asked

    run(main())


def test_a_cancellation_of_its_own_making_is_the_rows_error_and_loses_no_row() -> None:
    async def cancels(row: str, llm: Llm) -> str:
        if row == "b":
            task = asyncio.create_task(llm.generate("never"))
            await asyncio.sleep(0)
            task.cancel()
            await task
        return (await llm.generate(row)).text

    async def main() -> None:
        async with VirtualClient() as client:
            results = await run_all(client, cancels, list("abc"))
            assert [result.ok for result in results] == [True, False, True]
            assert (results[1].error.kind, results[1].error.code) == ("workflow", "CancelledError")

    run(main())


@pytest.mark.parametrize("swallows", [False, True])
def test_closing_a_run_ends_every_row_and_leaves_nothing_behind(swallows: bool) -> None:
    """Also where a function would not be cancelled: nothing it makes up is recorded."""

    async def asks(row: str, llm: Llm) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(llm.generate(f"{row} {number}"))
        except BaseException:
            if not swallows:
                raise
        return "made up" if swallows else "done"

    async def main() -> None:
        ledger = MemoryLedger()
        async with VirtualClient(Settings(latency=1.0), max_concurrency=6) as client:
            results = client.run(asks, (str(index) for index in range(100)), ledger=ledger)
            await anext(results)
            await client.clock.sleep(0.5)
            await results.aclose()
            assert client.statistics()["in_flight"] == 0
            assert not tasks_left()
        cut = [call for call in ledger.called.values() if call.entry.state == FAILED]
        assert len(cut) == 6
        assert len({call.entry.index for call in cut} & set(ledger.entries)) == 0

    run(main())


def test_results_come_in_input_order_where_that_is_wanted() -> None:
    async def main() -> None:
        for ledger in (None, MemoryLedger()):
            async with VirtualClient(Settings(latency=1.0)) as client:
                results = [result async for result in client.run(two_steps, texts(40), ledger=ledger, ordered=True)]
                assert [result.index for result in results] == list(range(40))
                assert all(result.value == value_of_two_steps(f"text {result.index}") for result in results)

    run(main())


# -- limits and forms


def test_calls_keep_to_the_limits_of_the_client() -> None:
    async def main() -> None:
        provider = Settings(requests_per_minute=600, latency=0.1)
        async with VirtualClient(provider, limits=Limits(requests_per_minute=600)) as client:
            await run_all(client, two_steps, texts(600))
            assert client.stats.throttled == 0
            assert 55 < client.clock.now() < 80  # the burst of a whole minute, then one a tenth of a second

    run(main())


class CentACall:
    """Each answer costs a cent, whatever it says."""

    def cost(self, model: str, usage: Usage | None) -> float | None:
        return 0.01 if usage is not None else 0.0


def test_a_sum_is_never_exceeded_and_a_higher_one_goes_on_from_there() -> None:
    async def main() -> None:
        ledger = MemoryLedger()
        transport = RememberingTransport(Settings(latency=1.0), VirtualClock())

        def client() -> Client:
            return Client("openai/m", transport=transport, clock=VirtualClock(), prices=CentACall(), max_concurrency=4)

        async with client() as poor:
            with pytest.raises(RunStopped) as stopped:
                await run_all(poor, two_steps, texts(20), ledger=ledger, max_cost=0.105)
        assert "cost" in stopped.value.reason
        assert len(ledger.called) == transport.asked.total() == 10
        async with client() as richer:
            results = await run_all(richer, two_steps, texts(20), ledger=ledger, max_cost=10.0)
        assert transport.asked.total() == 40
        assert all(result.cost == pytest.approx(0.02) for result in results)

    run(main())


def test_a_form_is_asked_for_and_what_did_not_fit_is_in_the_account() -> None:
    answers = ['{"topic": 7}', '{"topic": "sport"}', '{"topic": "news"}']

    @dataclasses.dataclass
    class Topic:
        topic: str

    async def main() -> None:
        script = iter(answers)
        ledger = MemoryLedger()
        stop = True

        async def labels(row: str, llm: Llm) -> Any:
            answer = await llm.generate(row, response_model=Topic)
            if stop:
                raise ValueError
            return answer.value

        async with VirtualClient(transport=ScriptedTransport(lambda _: completion(next(script)))) as client:
            await run_all(client, labels, ["Why?"], ledger=ledger)
            stop = False
            (result,) = await run_all(client, labels, ["Why?"], ledger=ledger)
            assert result.value == {"topic": "sport"}
            assert (result.calls.answers, result.calls.dropped, result.calls.usage) == (2, 1, Usage(2, 2))
            assert next(script) == answers[2]

    run(main())


def test_a_form_that_no_answer_had_is_asked_for_anew_where_a_retry_is_wanted() -> None:
    """A resume keeps the failure and sends nothing; its answers stay in the account."""
    bad = '{"topic": 7}'

    async def labels(row: str, llm: Llm) -> Any:
        return (await llm.generate(row, response_model={"type": "object", "required": ["label"]}, repairs=1)).value

    async def main() -> None:
        script = iter([bad, bad, '{"label": 1}'])
        ledger = MemoryLedger()
        async with VirtualClient(transport=ScriptedTransport(lambda _: completion(next(script)))) as client:
            for _ in range(2):
                (failed,) = await run_all(client, labels, ["Why?"], ledger=ledger)
                assert (failed.error.kind, failed.calls.answers, failed.calls.dropped) == ("schema", 2, 2)
            (result,) = await run_all(client, labels, ["Why?"], ledger=ledger, retry_failed=True)
            assert (result.value, result.calls.answers, result.calls.dropped) == ({"label": 1}, 3, 2)

    run(main())


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda row, llm: None, "is not async"),
        (7, "is no function"),
        (partial(two_steps, 1, 2), "cannot be called"),
    ],
)
def test_what_is_no_workflow_is_refused(function: Any, said: str) -> None:
    async def main() -> None:
        async with VirtualClient() as client:
            with pytest.raises(UsageError, match=said):
                await run_all(client, function, ["a"])

    run(main())


def test_a_row_that_cannot_be_recorded_is_an_error_on_its_row() -> None:
    async def main() -> None:
        async with VirtualClient() as client:
            results = await run_all(client, two_steps, [{"text": "a"}, 7, {"text": object()}])
            assert [result.ok for result in results] == [True, False, False]
            assert [result.error.kind for result in results[1:]] == ["input", "input"]

    run(main())
