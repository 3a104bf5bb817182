"""What a simulated model writes where a form is asked for is allowed by it, and follows from the prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.simulator.answers import count_tokens
from penstock.simulator.behaviour import Settings, Simulator
from penstock.simulator.schemas import asks_for, value_of

TREE = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
            "required": ["name"],
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "made"),
    [
        ({}, "words"),
        (True, "words"),
        ({"type": "string"}, "words"),
        ({"type": "string", "minLength": 8}, "words..."),
        ({"type": "string", "maxLength": 3}, "wor"),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 0}, 0),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": ["null", "integer"]}, 1),
        ({"type": "integer"}, 1),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "integer", "exclusiveMinimum": 3}, 4),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "integer", "minimum": 2, "multipleOf": 5}, 5),
        ({"type": "integer", "minimum": 0.5, "maximum": 1.5}, 1),
        ({"type": "number", "maximum": 0.5}, 0.5),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"anyOf": [{"type": "null"}]}, None),
        ({"type": "array", "items": {"type": "integer"}}, [1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 0}, []),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}, [1, "words"]),
        ({"properties": {"a": {"type": "integer"}}}, {"a": 1}),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, {"a": 1, "b": 2}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, 1),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}}, 1),
        ({"$ref": "#/nowhere"}, "words"),
    ],
)
def test_values_that_schemas_allow(schema: Any, made: Any) -> None:
    """For a prompt that has neither numbers nor quotes."""
    assert value_of(schema, "What is it?", "words") == made


def test_numbers_and_quotes_of_the_prompt_are_used_in_order() -> None:
    """An apostrophe is no quote; when they are used up, defaults follow."""
    properties = {name: {"type": "integer"} for name in "abc"} | {"d": {"type": "string"}, "e": {"type": "string"}}
    made = value_of({"type": "object", "properties": properties}, "Don't add 3 to -4 for '你好' and \"it's\"", "words")
    assert made == {"a": 3, "b": -4, "c": 1, "d": "你好", "e": "words"}


def test_a_schema_that_contains_itself_has_an_end() -> None:
    """Below some depth only what is required is made."""
    assert json.dumps(value_of(TREE, "", "x")).count("name") < 1_000
    endless = {"properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    assert value_of(endless, "", "x")["a"]
    assert value_of({"anyOf": [{"$ref": "#"}]}, "", "x") is None


JSON_SCHEMAS = st.recursive(
    st.sampled_from(
        [{}, {"type": "integer"}, {"type": "string"}, {"enum": []}, {"type": "null"}, {"$ref": "#"}, True, 3]
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda parts: {"type": "object", "properties": parts},
            st.dictionaries(st.text(max_size=3), inner, max_size=3),
        ),
        st.builds(lambda part: {"type": "array", "items": part}, inner),
        st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, max_size=3)),
        st.builds(lambda parts: {"allOf": parts}, st.lists(inner, max_size=2)),
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(JSON_SCHEMAS, st.text(max_size=30))
def test_whatever_the_schema_something_is_made_of_it(schema: Any, prompt: str) -> None:
    """No schema makes it fail, and what it makes is JSON."""
    json.dumps(value_of(schema, prompt, "words"))


@pytest.mark.parametrize(
    ("prompt", "name", "asked"),
    [
        ("What is the weather in Oslo?", "get_weather", True),
        ("WEATHER please", "get_weather", True),
        ("call get_weather()", "get_weather", True),
        ("What time is it?", "get_weather", False),
        ("Get me something", "get_weather", False),
        ("What is 1 + 2", "my_adder_tool", False),
    ],
)
def test_when_a_tool_is_asked_for(prompt: str, name: str, asked: bool) -> None:
    """By a word of its name that has four letters."""
    assert asks_for(prompt, name) is asked


# -- on the wire

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"properties": {"place": {"type": "string"}}}},
}
TIME = {"type": "function", "function": {"name": "get_time"}}
NAMED = {"type": "function", "function": {"name": "get_time"}}
USER = {"role": "user", "content": "How is the weather in 'Oslo'?"}
HELLO = {"role": "user", "content": "Hello"}
RESULT = {"role": "tool", "content": "sunny", "tool_call_id": "x"}


def answered(**asked: Any) -> Any:
    """The body of the answer to a request."""
    body = json.dumps({"model": "m", "messages": [USER], **asked}).encode()
    return json.loads(Simulator(Settings()).arrive(0.0, body).body)


@pytest.mark.parametrize(
    ("asked", "called", "finish"),
    [
        ({}, None, "stop"),
        ({"tools": [WEATHER, TIME]}, "get_weather", "tool_calls"),
        ({"tools": [TIME, WEATHER]}, "get_weather", "tool_calls"),
        ({"tools": [WEATHER], "tool_choice": "auto", "messages": [USER, RESULT]}, None, "stop"),
        ({"tools": [WEATHER], "messages": [HELLO]}, None, "stop"),
        ({"tools": [TIME, WEATHER], "messages": [HELLO], "tool_choice": "required"}, "get_time", "tool_calls"),
        ({"tools": [WEATHER, TIME], "tool_choice": NAMED}, "get_time", "stop"),
        ({"tools": [WEATHER], "tool_choice": "none"}, None, "stop"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, None, "stop"),
        (
            {"tools": [WEATHER], "messages": [{"role": "user", "content": "weather [[simulate:filtered]]"}]},
            None,
            "content_filter",
        ),
    ],
)
def test_which_tool_is_called(asked: dict[str, Any], called: str | None, finish: str) -> None:
    """One that must be, or one that the user has just asked for; a forced call ends with `stop`, as OpenAI's do."""
    (choice,) = answered(**asked)["choices"]
    calls = choice["message"].get("tool_calls", [])
    assert [call["function"]["name"] for call in calls] == ([called] if called else [])
    assert (choice["message"]["content"] is None) is bool(called)
    assert choice["finish_reason"] == finish


def test_a_call_has_its_arguments_and_is_paid_for() -> None:
    """Usage counts what was offered, and the name and arguments that were written."""
    plain, answer = answered(), answered(tools=[WEATHER])
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["type"] == "function"
    assert json.loads(call["function"]["arguments"]) == {"place": "Oslo"}
    assert answer["usage"]["completion_tokens"] == count_tokens("get_weather" + call["function"]["arguments"])
    assert answer["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_a_limit_cuts_a_call_off() -> None:
    """Its arguments are then no JSON, and the answer says `length`."""
    (choice,) = answered(tools=[WEATHER], max_tokens=4)["choices"]
    arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
    assert choice["finish_reason"] == "length"
    assert '{"place":"Oslo"}'.startswith(arguments)
    assert arguments != '{"place":"Oslo"}'


def test_a_streamed_call_is_the_same_call() -> None:
    """Name and id come first, the arguments in pieces after them."""
    asked = {"model": "m", "messages": [USER], "tools": [WEATHER], "stream": True}
    chunks = Simulator(Settings()).arrive(0.0, json.dumps(asked).encode()).chunks
    assert chunks is not None
    events = [json.loads(event.removeprefix(b"data: ")) for _, event in chunks[:-1]]
    choices = [event["choices"][0] for event in events]
    parts = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
    (whole,) = answered(tools=[WEATHER])["choices"][0]["message"]["tool_calls"]
    assert {part["index"] for part in parts} == {0}
    assert (parts[0]["id"], parts[0]["function"]["name"]) == (whole["id"], "get_weather")
    assert "".join(part["function"]["arguments"] for part in parts) == whole["function"]["arguments"]
    assert choices[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("form", "made"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"Oslo"}),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"properties": {"b": {"const": 1}}}}}, {"b"}),
    ],
)
def test_an_answer_in_the_form_that_was_asked_for(form: dict[str, Any], made: set[str] | None) -> None:
    """JSON by the schema; without one, with the prompt's quoted words as keys."""
    text = answered(response_format=form)["choices"][0]["message"]["content"]
    assert text.startswith("echo") if made is None else set(json.loads(text)) == made
