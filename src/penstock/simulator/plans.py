"""What a simulated provider sends for one request, and when: its answer in the wire's bytes, whole or as a stream.

Pure. It makes plans of outcomes that were decided elsewhere (`behaviour`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from penstock.simulator import answers
from penstock.simulator.answers import Ask, Called, Function, Header, Told, Tool
from penstock.simulator.chance import EXACT, chances, seconds
from penstock.simulator.schemas import asks_for, object_of, value_of
from penstock.simulator.settings import NO_FAULTS, Settings

_MARKER = re.compile(r"\[\[simulate:([a-z0-9_-]+?)(?:\*(\d+))?\]\]")
_ALIASES = {
    "400": "invalid_request",
    "401": "bad_key",
    "404": "model_not_found",
    "429": "throttle",
    "500": "error_500",
    "502": "html",
    "503": "error_503",
}
_FINISHES = {"length": "length", "filtered": "content_filter"}
_WIRE_FAULTS = frozenset({"reset", "stall", "truncate", "garbage"})
_OUTCOMES = frozenset({*answers.REFUSALS, *_FINISHES, *_WIRE_FAULTS, "empty_choices"})


class Plan(msgspec.Struct):
    """What will be sent for one request. Give it back to `Simulator.leave` once, when it is sent or the client is gone.

    `delay` is the seconds to the first byte. `chunks` are a stream's events, each with the seconds since the one
    before; `body` is empty then. `fault` is how the connection is spoiled (`refused`: there is none). While `queued`,
    nothing of it is due: `begin` is called when it is. `outcome` is `answered`, `throttled` or the name of what went
    wrong; the rest is for the account.
    """

    status: int
    headers: list[Header]
    outcome: str
    body: bytes = b""
    chunks: list[tuple[float, bytes]] | None = None
    delay: float = 0.0
    token_seconds: float = 0.0
    fault: str | None = None
    queued: bool = False
    begin: Callable[[], None] | None = None
    in_engine: bool = False
    model: str = ""
    digest: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reserved_input: float = 0.0
    reserved_output: float = 0.0
    admitted_at: float = 0.0

    @property
    def reserved_tokens(self) -> float:
        """What its admission took from a limit of all tokens."""
        return self.reserved_input + self.reserved_output

    def slow_down(self, factor: float) -> None:
        """Its tokens take so many times as long."""
        if self.chunks is not None:
            self.chunks = [(pause * factor, event) for pause, event in self.chunks]
        else:
            self.delay += self.token_seconds * (factor - 1)


class Case(msgspec.Struct, frozen=True):
    """One request as chance sees it: its prompt's name (as a number too), how often that was admitted, five numbers."""

    ask: Ask
    text: str
    name: bytes
    digest: int
    turn: int
    numbers: list[float]


def outcome_of(case: Case, settings: Settings) -> str | None:
    """What the prompt asks for, else the fault that chance has for it, else None for an answer.

    `[[simulate:NAME]]` asks for NAME, `[[simulate:NAME*2]]` for the first two times.
    """
    found = _MARKER.search(case.text) if "[[simulate:" in case.text else None
    if found is None or (found[2] is not None and case.turn >= int(found[2])):
        return None if settings.faults is NO_FAULTS else settings.faults.pick(case.numbers[0])
    name = found[1].replace("-", "_")
    return _ALIASES.get(name, name)


def plan_of(case: Case, settings: Settings, outcome: str | None, told: Told) -> Plan:
    """The plan for an admitted request; `told` is what its answer tells, where it gets one."""
    if outcome in answers.REFUSALS and not (outcome == "error_in_200" and case.ask.stream):
        plan = refused(outcome, settings.retry_after)
    elif outcome is not None and outcome not in _OUTCOMES:
        plan = invalid(f"Unknown marker {outcome!r}: use one of {', '.join(sorted(_OUTCOMES))}.")
    else:
        return _answer(case, settings, outcome, told)
    if plan.status >= 500 or plan.status == 200:
        plan.delay = seconds(settings.latency, case.numbers[1], case.numbers[2])
    return plan


def _answer(case: Case, settings: Settings, outcome: str | None, told: Told) -> Plan:
    _, *numbers = case.numbers
    first = seconds(settings.latency, numbers[0], numbers[1])
    each = seconds(settings.token_latency, numbers[2], numbers[3])
    plan = Plan(200, [], "answered" if outcome is None or outcome in _FINISHES else outcome, delay=first)
    plan.input_tokens, plan.output_tokens = told.input_tokens, told.output_tokens
    plan.fault = outcome if outcome in _WIRE_FAULTS else None
    if case.ask.stream:
        plan.headers.append(answers.EVENTS)
        plan.chunks = _stream(case.ask, told, outcome, each)
    else:
        plan.headers.append(answers.JSON)
        plan.token_seconds = each * told.output_tokens
        plan.delay += plan.token_seconds
        plan.body = answers.empty_completion(told) if outcome == "empty_choices" else answers.completion(told)
    return plan


def told_of(case: Case, settings: Settings, seed: bytes, outcome: str | None) -> Told:
    """What the answer to a request tells."""
    ask = case.ask
    tool, text = _written(ask, settings)
    called, finish = tool, "stop" if not tool or isinstance(ask.tool_choice, Tool) else "tool_calls"
    if outcome in _FINISHES:
        finish = _FINISHES[outcome]
        called, text = (tool, text[: len(text) // 2]) if outcome == "length" else ("", "")
    elif ask.limit is not None and answers.count_tokens(tool + text) > ask.limit:
        text, finish = answers.cut(tool + text, ask.limit)[len(tool) :], "length"
    made, told_text = answers.count_tokens(called + text), "" if called else text
    call = Called(f"call_{case.digest:016x}", called, text) if called else None
    return Told(f"chatcmpl-{case.digest:016x}", ask.model, told_text, finish, _spent(case, settings, seed), made, call)


def _written(ask: Ask, settings: Settings) -> tuple[str, str]:
    """The name of the tool that is called with its arguments, or no name and the text of the answer."""
    prompt = ask.prompt()
    text = settings.text(prompt, settings.output_tokens)
    function = _called_function(ask, prompt) if ask.tools else None
    if function is not None:
        return function.name, _json(value_of(function.parameters or {"type": "object"}, prompt, text))
    asked = ask.response_format
    if asked is None or asked.type == "text":
        return "", text
    form = asked.json_schema
    return "", _json(object_of(prompt, text) if form is None else value_of(form.schema or {}, prompt, text))


def _called_function(ask: Ask, prompt: str) -> Function | None:
    """The function that must be called; without a must, one that the user has just asked for by a word of its name."""
    functions = [tool.function for tool in ask.tools or () if tool.function is not None]
    if not functions or ask.tool_choice == "none":
        return None
    if isinstance(ask.tool_choice, Tool) and (named := ask.tool_choice.function) is not None:
        return next((function for function in functions if function.name == named.name), None)
    wanted = next((function for function in functions if asks_for(prompt, function.name)), None)
    if ask.tool_choice == "required":
        return wanted or functions[0]
    return wanted if ask.messages[-1].role == "user" else None


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _spent(case: Case, settings: Settings, seed: bytes) -> int:
    """Input tokens: of the messages, and of what is offered to the model."""
    ask = case.ask
    spent = sum(answers.count_tokens(message.text()) for message in ask.messages)
    if ask.tools:
        spent += answers.count_tokens(_json(ask.tools))
    if settings.tokens_scatter is not EXACT:
        numbers = chances(seed, case.name, 0, b"tokens")
        spent = max(1, round(spent * settings.tokens_scatter.factor(numbers[0], numbers[1])))
    return spent


def invalid(message: str) -> Plan:
    """A 400 that says what is wrong with the request."""
    return Plan(400, [answers.JSON], "invalid_request", answers.error_body(message, "invalid_request_error"))


def refused(outcome: str, retry_after: float | None = None) -> Plan:
    """One of the answers that are the same for each request; a wait is named where one is given and it has one."""
    status, body = answers.REFUSALS[outcome]
    headers = [answers.HTML if outcome == "html" else answers.JSON]
    if outcome in ("throttle", "error_503") and retry_after is not None:
        headers += answers.retry_headers(retry_after)
    return Plan(status, headers, "throttled" if outcome.startswith("throttle") else outcome, body)


def _stream(ask: Ask, told: Told, outcome: str | None, each: float) -> list[tuple[float, bytes]]:
    """The events of a stream, each with the seconds since the one before."""
    events = answers.events(told, ask.stream_options is not None and ask.stream_options.include_usage)
    if outcome == "error_in_200":
        events = [events[0], (0, answers.error_event(answers.REFUSALS[outcome][1]))]
    elif outcome == "empty_choices":
        events = events[-1:]
    return [(tokens * each, event) for tokens, event in events]
