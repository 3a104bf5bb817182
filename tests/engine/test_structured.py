"""Structured answers as they flow: asked for, read, repaired, given up; through the client, over HTTP, as the page shows them."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import BadAnswer, Client, Refused, RequestError, Unavailable, UsageError
from penstock.blocking import Client as BlockingClient
from penstock.engine.structured import answer
from penstock.errors import request_error
from penstock.ports import Transport
from penstock.records import FinishReason, HttpAnswer, HttpCall, Request, Response, Structured, Usage
from penstock.rules.schema import Native, form_of
from penstock.simulator.behaviour import Settings
from penstock.simulator.server import serve
from penstock.testing import ScriptedTransport, completion, error


@dataclass
class Label:
    """What a text is about."""

    topic: str
    certain: bool


GOOD = '{"topic": "tea", "certain": true}'
BAD = '{"topic": "tea", "certain": "very"}'
TEA = Label("tea", certain=True)
FORM = form_of(Label)
ASKED = Request([{"role": "user", "content": "What is it about?"}], "m", {"seed": 7})

Step = str | Response | RequestError
Sender = Callable[[Request], Awaitable[Response]]


def reply(text: str, finish_reason: FinishReason = "stop", tokens: int = 1) -> Response:
    return Response(text, finish_reason, "m", Usage(tokens, tokens), request_id="r")


def script(*steps: Step) -> tuple[Sender, list[Request]]:
    """A sender that answers by script, and what it was asked."""
    left, sent = list(steps), []

    async def send(request: Request) -> Response:
        sent.append(request)
        step = left.pop(0)
        if isinstance(step, RequestError):
            raise step
        return reply(step, tokens=len(sent)) if isinstance(step, str) else step

    return send, sent


# -- the answer and its repairs


@pytest.mark.parametrize("native", ["json_schema", "json_object", "none"])
async def test_an_answer_of_the_form_comes_back_with_its_value(native: Native) -> None:
    send, sent = script(GOOD)
    response = await answer(send, ASKED, FORM, native)
    assert isinstance(response, Structured)
    assert (response.value, response.text, response.usage, response.discarded) == (TEA, GOOD, Usage(1, 1), ())
    assert response.request_id == "r"
    assert ("response_format" in sent[0].params) == (native != "none")


@pytest.mark.parametrize("native", ["json_schema", "json_object", "none"])
async def test_a_repair_shows_the_answer_and_what_is_wrong_with_it(native: Native) -> None:
    send, sent = script(BAD, "no idea", GOOD)
    response = await answer(send, ASKED, FORM, native)
    assert response.value == TEA
    first, second, third = (request.messages for request in sent)
    assert second[: len(first)] == first
    assert [message["content"] for message in second[len(first) :: 2]] == [BAD]
    assert "Expected `bool`, got `str` - at `$.certain`" in second[-1]["content"]
    # Only the last answer is shown: a conversation of failures costs more each time and tells no more.
    assert len(third) == len(second)
    assert third[-2]["content"] == "no idea"
    assert all(request.params == sent[0].params for request in sent)
    assert ASKED.messages == [{"role": "user", "content": "What is it about?"}]


async def test_what_was_paid_for_and_dropped_is_told_with_the_answer() -> None:
    send, _ = script(reply(BAD, tokens=5), Response("hm", "stop", "m"), reply(GOOD, tokens=3))
    response = await answer(send, ASKED, FORM, "none")
    assert (response.usage, response.discarded) == (Usage(3, 3), (Usage(5, 5), None))


@pytest.mark.parametrize("repairs", [0, 1, 2, 5])
async def test_no_more_repairs_are_asked_for_than_were_allowed(repairs: int) -> None:
    send, sent = script(*[BAD] * 10)
    with pytest.raises(BadAnswer) as caught:
        await answer(send, ASKED, FORM, "json_schema", repairs)
    told = caught.value
    assert len(sent) == repairs + 1
    assert told.discarded == tuple(Usage(count, count) for count in range(1, repairs + 2))
    assert (told.kind, told.maybe_billed, told.request_id) == ("schema", True, "r")
    assert "Label" in str(told)
    assert "$.certain" in str(told)
    assert BAD in str(told)
    assert pickle.loads(pickle.dumps(told)).discarded == told.discarded


@pytest.mark.parametrize("repairs", [-1, 1.5, "2", None, True])
async def test_a_number_of_repairs_that_is_none_is_refused_before_anything_is_sent(repairs: Any) -> None:
    send, sent = script()
    with pytest.raises(UsageError, match="repairs"):
        await answer(send, ASKED, FORM, "none", repairs)
    assert sent == []


@pytest.mark.parametrize(
    ("finish_reason", "text", "kind", "told"),
    [
        ("length", BAD[:9], "schema", "raise max_tokens"),
        # It reads as one, but nobody knows what the limit cut off.
        ("length", GOOD, "schema", "raise max_tokens"),
        ("content_filter", "", "content_blocked", "content filter"),
        ("refusal", "I will not say.", "content_blocked", "I will not say."),
        ("tool_calls", "", "schema", "leave tools out"),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
async def test_an_answer_that_ended_otherwise_is_told_as_what_it_is_and_not_repaired(
    finish_reason: FinishReason, text: str, kind: str, told: str, before: int
) -> None:
    send, sent = script(*[BAD] * before, reply(text, finish_reason, tokens=9), GOOD)
    with pytest.raises(RequestError) as caught:
        await answer(send, ASKED, FORM, "json_schema")
    failure = caught.value
    assert (failure.kind, failure.code, failure.maybe_billed) == (kind, finish_reason, True)
    assert told in str(failure)
    assert failure.discarded == (*[Usage(1, 1)] * before, Usage(9, 9))
    assert len(sent) == before + 1


async def test_an_error_on_the_way_passes_with_what_was_paid_before_it() -> None:
    send, _ = script(BAD, request_error("server_error", "down", status=500))
    with pytest.raises(Unavailable, match="down") as caught:
        await answer(send, ASKED, FORM, "none")
    assert caught.value.discarded == (Usage(1, 1),)


async def test_a_cancellation_passes_and_asks_nothing_more() -> None:
    started, sent = asyncio.Event(), []

    async def send(request: Request) -> Response:
        sent.append(request)
        started.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    task = asyncio.create_task(answer(send, ASKED, FORM, "none"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(sent) == 1


UNKNOWN = request_error("invalid_request", "'response_format' of type 'json_schema' is not supported", status=400)


async def test_a_service_that_refuses_the_native_form_is_asked_in_a_weaker_one_at_the_cost_of_no_repair() -> None:
    send, sent = script(UNKNOWN, UNKNOWN, BAD, GOOD)
    response = await answer(send, ASKED, FORM, "json_schema", repairs=1)
    assert (response.value, len(response.discarded)) == (TEA, 1)
    forms = [request.params.get("response_format", {}).get("type") for request in sent]
    assert forms == ["json_schema", "json_object", None, None]
    assert ["JSON schema" in request.messages[0]["content"] for request in sent] == [False, True, True, True]


@pytest.mark.parametrize("steps", [[UNKNOWN] * 9, [request_error("invalid_request", "no such seed", status=400)]])
async def test_a_refusal_that_no_weaker_form_mends_is_raised(steps: list[Step]) -> None:
    send, sent = script(*steps)
    with pytest.raises(Refused):
        await answer(send, ASKED, FORM, "json_schema")
    assert len(sent) == min(len(steps), 3)


async def test_a_form_of_the_callers_own_is_refused_before_anything_is_sent() -> None:
    send, sent = script()
    with pytest.raises(UsageError, match="not both"):
        await answer(send, Request([], params={"response_format": {"type": "json_object"}}), FORM, "none")
    assert sent == []


# -- through the client


def body(call: HttpCall) -> dict[str, Any]:
    return dict(msgspec.json.decode(call.body))


async def test_the_client_asks_reads_and_repairs() -> None:
    transport = ScriptedTransport([completion(BAD, output_tokens=5), completion(GOOD, output_tokens=3)])
    async with Client("openai/gpt-x", transport=transport) as client:
        response = await client.generate("What?", system="Be brief.", response_model=Label, max_tokens=50)
    assert response.value == TEA
    assert (response.usage, response.discarded) == (Usage(1, 3), (Usage(1, 5),))
    first, second = map(body, transport.calls)
    assert first["response_format"]["json_schema"]["name"] == "Label"
    assert first["response_format"]["json_schema"]["strict"] is True
    assert (first["max_completion_tokens"], first["messages"][0]["content"]) == (50, "Be brief.")
    assert "$.certain" in second["messages"][-1]["content"]


async def test_repairs_are_the_clients_to_set_and_a_form_is_no_parameter_of_the_body() -> None:
    transport = ScriptedTransport([completion(BAD)])
    async with Client("deepseek/chat", transport=transport) as client:
        with pytest.raises(BadAnswer, match="certain"):
            await client.generate("What?", response_model=Label, repairs=0)
    assert body(transport.calls[0]).keys() == {"model", "messages", "response_format"}


async def test_each_try_has_the_retries_of_any_other_request() -> None:
    throttled = error("rate_limited", retry_after=0.0)
    transport = ScriptedTransport([throttled, completion(BAD), error("connect"), completion(GOOD)])
    async with Client("openai/gpt-x", transport=transport) as client:
        assert (await client.generate("What?", response_model=Label)).value == TEA
    assert len(transport.calls) == 4


@pytest.mark.parametrize("wrong", [{"response_model": 7}, {"response_format": {}}, {"repairs": -1}])
async def test_what_cannot_be_right_is_told_before_anything_is_sent(wrong: dict[str, Any]) -> None:
    transport = ScriptedTransport([])
    async with Client("openai/gpt-x", transport=transport) as client:
        with pytest.raises(UsageError):
            await client.generate("What?", **{"response_model": Label, **wrong})
    assert transport.calls == []


async def test_without_a_model_an_answer_has_no_value() -> None:
    async with Client("openai/gpt-x", transport=ScriptedTransport([completion(GOOD)])) as client:
        response = await client.generate("What?")
    assert (response.value, response.discarded, type(response)) == (None, (), Response)


def test_the_blocking_client_gives_values_too() -> None:
    with BlockingClient("openai/gpt-x", transport=ScriptedTransport([completion(GOOD)])) as client:
        assert client.generate("What?", response_model=Label).value == TEA


async def test_over_http_a_service_that_keeps_the_form_is_read_at_once() -> None:
    async with serve(Settings()) as server, Client("custom/any", base_url=server.base_url) as client:
        response = await client.generate("What is it about?", response_model=Label)
        many = await client.generate("What are they about?", response_model=list[Label])
    assert type(response.value) is Label
    assert {type(label) for label in many.value} <= {Label}
    assert (response.discarded, many.discarded) == ((), ())


async def test_over_http_a_model_that_has_no_form_mends_its_answer() -> None:
    """By instructions alone: words first, then a fenced object."""

    def text(prompt: str, _: int | None) -> str:
        return f"```json\n{GOOD}\n```" if "cannot be used" in prompt else "About tea, surely."

    async with (
        serve(Settings(text=text)) as server,
        Client("anthropic/any", base_url=server.base_url, api_key="unused") as client,
    ):
        response = await client.generate("What is it about?", response_model=Label)
    assert response.value == TEA
    assert len(response.discarded) == 1
    assert all(usage is not None and usage.output_tokens for usage in response.discarded)


# -- the page


PAGE = Path(__file__).parents[2] / "docs" / "structured.md"
PROGRAMS = [block.partition("\n```")[0] for block in PAGE.read_text().split("```python\n")[1:]]
ANSWERS = {
    "Labels": '{"topic": "delivery", "sentiment": "negative", "urgent": true}',
    "Invoice": '{"number": "A-17", "lines": [{"what": "Tea", "euros": 9.5}]}',
    "answer": '{"value": [{"name": "Ada", "born": 1815}]}',
    "weather": '{"sky": "grey"}',
}


class PageTransport(ScriptedTransport):
    """Answers by the name of the form; the second of two programs on failure gets nonsense."""

    def __init__(self) -> None:
        super().__init__(self._answer_to)

    def check(self, call: HttpCall) -> None:
        """As the real one: nothing is wrong."""

    @staticmethod
    def _answer_to(call: HttpCall) -> HttpAnswer:
        asked = body(call)
        if "nonsense" in asked["messages"][0]["content"]:
            return completion("nonsense", input_tokens=20, output_tokens=5)
        return completion(ANSWERS[asked["response_format"]["json_schema"]["name"]])


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_every_program_of_the_page_runs_and_prints_what_it_says(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-unused")
    transports: list[Transport] = []

    async def new_transport(_: object) -> Transport:
        transports.append(PageTransport())
        return transports[-1]

    monkeypatch.setattr("penstock.access.Access._new_transport", new_transport)
    exec(compile(program, str(PAGE), "exec", dont_inherit=True), {"__name__": "__main__"})
    printed = capsys.readouterr().out.splitlines()
    assert printed == list(comments(program))
    assert transports


def comments(program: str) -> Iterable[str]:
    """What a program says that it prints: the comment behind each `print`."""
    return (line.partition("  # ")[2] for line in program.splitlines() if line.strip().startswith("print("))


def test_the_page_has_programs() -> None:
    assert len(PROGRAMS) >= 4
