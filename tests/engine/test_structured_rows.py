"""Answers of a given form over many rows: typed, repaired, in the account, and out of the ledger the same as when they came."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from penstock import Usage, UsageError
from penstock.blocking import Client as BlockingClient
from penstock.edges.ledger import LedgerFile
from penstock.errors import LedgerFailed
from penstock.ports import Ledger
from penstock.records import HttpAnswer, HttpCall, Result, Structured
from penstock.rules.identity import ANSWERED
from penstock.simulator.behaviour import Settings
from penstock.simulator.clock import run
from penstock.testing import MemoryLedger, ScriptedTransport, completion, error
from tests.kit.rows import VirtualClient, collect, prompts, tasks_left
from tests.kit.workflows import DyingLedger


@dataclass
class Label:
    """What a text is about."""

    topic: str
    certain: bool


class Even(BaseModel):
    """A number that a validator of ours looks at."""

    number: int

    @field_validator("number")
    @classmethod
    def even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("give an even number")
        return number


BAD = '{"topic": "tea", "certain": "very"}'
SHAKY = "fact 3", "fact 7"
"""Rows whose first answer has not the form."""


def text_for(topic: str) -> str:
    return json.dumps({"topic": topic, "certain": True})


class Labelling(ScriptedTransport):
    """Labels a text by its own words; `bodies` is what was asked."""

    def __init__(self) -> None:
        super().__init__(self._label)
        self.bodies: list[Any] = []

    def _label(self, call: HttpCall) -> HttpAnswer:
        body = json.loads(call.body)
        self.bodies.append(body)
        asked = body["messages"]
        if len(asked) == 1 and asked[0]["content"].endswith(SHAKY):
            return completion(BAD, input_tokens=10, output_tokens=5)
        return completion(text_for(asked[0]["content"]), input_tokens=10, output_tokens=5)

    @property
    def asked(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]


class Pricey:
    """A cent an answer."""

    def cost(self, model: str, usage: Usage | None) -> float | None:
        return 0.01


def labelling(**options: Any) -> tuple[VirtualClient, Labelling]:
    transport = Labelling()
    client = VirtualClient(transport=transport, **options)
    client._prices = Pricey()
    return client, transport


async def labels(client: VirtualClient, rows: Iterable[Any], **options: Any) -> list[Result]:
    return await collect(client, rows, **{"response_model": Label, "ordered": True, **options})


# -- values and their account


@pytest.mark.parametrize("recorded", [False, True])
def test_each_row_has_a_value_of_its_own(recorded: bool) -> None:
    """Of the type that was asked for, with the answer that it was read from."""

    async def main() -> None:
        client, transport = labelling(max_concurrency=4)
        async with client:
            results = await labels(client, prompts(30), ledger=MemoryLedger() if recorded else None)
            assert [result.value for result in results] == [Label(prompt, certain=True) for prompt in prompts(30)]
            for result, prompt in zip(results, prompts(30), strict=True):
                response = result.unwrap()
                assert type(response) is Structured
                assert (response.value, response.finish_reason, result.text) == (result.value, "stop", text_for(prompt))
            assert {body["response_format"]["json_schema"]["name"] for body in transport.bodies} == {"Label"}
            assert not tasks_left()

    run(main())


@pytest.mark.parametrize("recorded", [False, True])
def test_what_was_dropped_is_in_the_account_of_its_row(recorded: bool) -> None:
    """Attempts, tokens and cost are those of all its answers."""

    async def main() -> None:
        client, transport = labelling()
        async with client:
            results = await labels(client, prompts(10), ledger=MemoryLedger() if recorded else None)
        assert len(transport.asked) == 12
        for result in results:
            answers = 2 if result.index in (3, 7) else 1
            assert (result.attempts, result.cost) == (answers, pytest.approx(0.01 * answers))
            assert result.usage == Usage(10 * answers, 5 * answers)
            assert result.calls is not None
            assert (result.calls.answers, result.calls.dropped) == (answers, answers - 1)
            assert result.unwrap().discarded == (Usage(10, 5),) * (answers - 1)

    run(main())


def test_a_row_that_never_fits_fails_alone_and_is_not_paid_for_again() -> None:
    """Where a retry of what failed is wanted, the answer that is there is repaired."""

    async def main() -> None:
        ledger = MemoryLedger()
        for again in range(2):
            client, transport = labelling()
            async with client:
                results = await labels(client, prompts(10), ledger=ledger, repairs=0)
            assert [result.index for result in results if not result.ok] == [3, 7]
            failed = results[3]
            assert failed.error is not None
            assert (failed.error.kind, failed.value, failed.attempts, failed.reused) == ("schema", None, 1, bool(again))
            assert len(transport.asked) == (0 if again else 10)
        client, transport = labelling()
        async with client:
            results = await labels(client, prompts(10), ledger=ledger, retry_failed=True)
        assert all(result.ok for result in results)
        assert sorted(transport.asked) == [prompts(10)[3], prompts(10)[7]]

    run(main())


def test_equal_rows_are_asked_once_where_that_is_wanted() -> None:
    """Each of them has the value, and one has the cost."""

    async def main() -> None:
        client, transport = labelling()
        async with client:
            results = await labels(client, ["fact 3", "tea", "fact 3"], dedupe=True)
        assert [result.value.topic for result in results] == ["fact 3", "tea", "fact 3"]
        assert sorted(transport.asked) == ["fact 3", "fact 3", "tea"]
        assert sum(result.cost or 0.0 for result in results) == pytest.approx(0.03)

    run(main())


# -- the ledger

MODELS: dict[str, tuple[Any, str, Any]] = {
    "a dataclass": (Label, text_for("tea"), Label("tea", certain=True)),
    "a list": (list[Label], f'{{"value": [{text_for("tea")}]}}', [Label("tea", certain=True)]),
    "a pydantic model": (Even, '```json\n{"number": 4}\n```', Even(number=4)),
    "a schema": ({"type": "object", "required": ["n"]}, '{"n": [1.5, null]}', {"n": [1.5, None]}),
}


@pytest.mark.parametrize(("model", "text", "value"), MODELS.values(), ids=MODELS)
def test_a_row_out_of_the_ledger_is_what_it_was(model: Any, text: str, value: Any, tmp_path: Path) -> None:
    """Value, response and account, of the same types; nothing is sent."""
    ledger, first = tmp_path / "a.ledger", completion(text)
    options = {"response_model": model, "ledger": ledger}
    with BlockingClient("openai/m", transport=ScriptedTransport([first])) as client:
        (came,) = client.map(["What?"], **options)
    with BlockingClient("openai/m", transport=ScriptedTransport([])) as client:
        (found,) = client.map(["What?"], **options)
    assert (came.value, type(came.value)) == (value, type(value))
    assert (found.value, found.unwrap().value, type(found.value)) == (value, value, type(value))
    assert (found.unwrap(), found.calls, found.cost) == (came.unwrap(), came.calls, came.cost)
    assert (came.reused, found.reused) == (False, True)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("at", range(1, 8))
def test_a_run_that_dies_at_any_commit_pays_for_no_answer_twice(at: int, durable: bool) -> None:
    """Also a dropped one: it comes from the ledger, and its repair is what is asked next."""

    async def main() -> None:
        ledger: Ledger = DyingLedger(at, durable=durable)
        client, transport = labelling(max_concurrency=2)
        async with client:
            with pytest.raises(LedgerFailed):
                await labels(client, prompts(10), ledger=ledger)
        assert isinstance(ledger, DyingLedger)
        recorded = sum(call.entry.state == ANSWERED for call in ledger.called.values())
        client, transport = labelling(max_concurrency=2)
        async with client:
            results = await labels(client, prompts(10), ledger=ledger)
        assert [result.value for result in results] == [Label(prompt, certain=True) for prompt in prompts(10)]
        assert sum(result.calls.dropped for result in results if result.calls is not None) == 2
        assert len(transport.asked) == 12 - recorded

    run(main())


def test_the_account_of_the_ledger_has_every_answer_once(tmp_path: Path) -> None:
    """Those that were dropped too; also after a resume."""
    path = tmp_path / "a.ledger"
    for _ in range(2):
        with BlockingClient("openai/m", transport=Labelling()) as client:
            assert all(result.ok for result in client.map(prompts(10), response_model=Label, ledger=path))
        store = LedgerFile(path)
        record = store.latest()
        assert record is not None
        store.resume(record)
        totals = store.recorded
        store.close()
        assert totals.calls is not None
        assert (totals.ok, totals.calls.answers, totals.calls.dropped) == (10, 12, 2)
        assert (totals.input_tokens, totals.output_tokens) == (120, 60)


def test_another_form_is_another_run(tmp_path: Path) -> None:
    """Of one ledger: neither another form nor plain answers are taken for this one, nor the other way round."""
    ledger = tmp_path / "a.ledger"
    answers = [text_for("tea"), '{"number": 4}', "plain"]
    models: list[dict[str, Any]] = [{"response_model": Label}, {"response_model": Even}, {}]
    for answer, asked in zip(answers, models, strict=True):
        with BlockingClient("openai/m", transport=ScriptedTransport([completion(answer)])) as client:
            (result,) = client.map(["What?"], ledger=ledger, **asked)
        assert (result.reused, result.text) == (False, answer)
    assert result.value is None


def checked_by(check: Callable[[int], bool]) -> type[BaseModel]:
    """A form that looks the same whatever its validator does."""

    class Number(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def checked(cls, number: int) -> int:
            if not check(number):
                raise ValueError("not this number")
            return number

    return Number


@pytest.mark.parametrize("check", [lambda number: number > 5, lambda number: 1 / (number - 4) > 0])
def test_a_recorded_answer_that_does_not_fit_any_more_is_an_error_of_its_row(
    check: Callable[[int], bool], tmp_path: Path
) -> None:
    """A validator that was changed leaves the form as it is; nothing is asked, and the row says what to do."""
    ledger, transport = tmp_path / "a.ledger", ScriptedTransport([completion('{"number": 4}')])
    with BlockingClient("openai/m", transport=transport) as client:
        (came,) = client.map(["What?"], response_model=checked_by(lambda _: True), ledger=ledger)
        (found,) = client.map(["What?"], response_model=checked_by(check), ledger=ledger)
    assert (came.ok, found.ok, found.value, found.response) == (True, False, None, None)
    assert found.error is not None
    assert (found.error.kind, "another ledger" in found.error.message) == ("schema", True)
    assert found.error.__cause__ is not None


# -- what goes wrong, and where


def test_an_error_of_a_row_is_its_own() -> None:
    """Refusals of the provider, and a validator that breaks, which is told with its trace."""

    async def main() -> None:
        script = [completion('{"number": 4}'), error("invalid_request"), completion('{"number": 5}')]
        model = checked_by(lambda number: 1 / (number - 5) < 0)
        async with VirtualClient(transport=ScriptedTransport(script), max_concurrency=1) as client:
            results = await labels(client, prompts(3), response_model=model)
        assert results[0].value == model(number=4)
        errors = [result.error for result in results[1:]]
        assert [error.kind for error in errors if error is not None] == ["invalid_request", "workflow"]
        assert "ZeroDivisionError" in str(errors[1])

    run(main())


@pytest.mark.parametrize("wrong", [{"response_model": 7}, {"repairs": -1}, {"params": {"response_format": {}}}])
def test_what_cannot_be_right_is_told_before_anything_is_sent(wrong: dict[str, Any]) -> None:
    async def main() -> None:
        client, transport = labelling()
        async with client:
            with pytest.raises(UsageError):
                await labels(client, prompts(3), **wrong)
        assert transport.asked == []

    run(main())


def test_a_row_that_asks_for_a_form_of_its_own_is_refused_alone() -> None:
    """A line of a batch is a row like any other."""
    messages = [{"role": "user", "content": "tea"}]
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": messages}}
    wrong = {"messages": messages, "response_format": {"type": "json_object"}}

    async def main() -> None:
        client, transport = labelling()
        async with client:
            results = await labels(client, [line, wrong])
        assert [(result.id, result.ok) for result in results] == [("a", True), (1, False)]
        assert results[0].value == Label("tea", certain=True)
        assert results[1].error is not None
        assert (results[1].error.kind, "not both" in results[1].error.message) == ("input", True)
        assert transport.asked == ["tea"]

    run(main())


def test_a_line_of_a_batch_that_is_recorded_stays_as_it_is() -> None:
    """Nothing is sent or written again for it."""
    body = {"messages": [{"role": "user", "content": "tea"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}

    async def main() -> None:
        ledger, transport = MemoryLedger(), Labelling()
        async with VirtualClient(transport=transport) as client:
            first = await labels(client, [line], ledger=ledger)
            commits = ledger.commits
            again = await labels(client, [line], ledger=ledger)
        assert ledger.commits == commits
        assert [result.value for result in first + again] == [Label("tea", certain=True)] * 2
        assert transport.asked == ["tea"]

    run(main())


def test_leaving_early_ends_the_run() -> None:
    async def main() -> None:
        async with VirtualClient(Settings(latency=1.0), max_concurrency=4) as client:
            async with aclosing(client.map(prompts(50), response_model=Label)) as results:
                await anext(results)
            assert not tasks_left()
            assert client.stats.arrived < 50

    run(main())
