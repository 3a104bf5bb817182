"""Row and template into a request: what is asked, what the row is called, what is refused and how that is told."""

from __future__ import annotations

import datetime
import math
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InputError, UsageError
from penstock.records import RawRow, Request, Row
from penstock.rules.template import OUTPUT_KEYS, Prompt, Template

HELLO = [{"role": "user", "content": "hello"}]


def raw(values: Any, index: int = 7) -> RawRow:
    return RawRow(index, f"in.jsonl:{index + 1}", values)


def row(values: Any, **options: Any) -> Row:
    return Template(**options).row(raw(values))


def asked(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def batch_line(**changes: Any) -> dict[str, Any]:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": HELLO}}
    return {key: value for key, value in {**line, **changes}.items() if value is not ...}


REQUESTS: list[tuple[str, Any, dict[str, Any], Request]] = [
    ("bare text", "hello", {}, Request(HELLO)),
    ("bare text as text", "hello", {"prompt": "Say {text}!"}, Request(asked("Say hello!"))),
    ("bare text as prompt", "hello", {"prompt": "Say {prompt}!"}, Request(asked("Say hello!"))),
    ("prompt row", {"prompt": "hello", "temperature": 1}, {}, Request(HELLO)),
    ("its params", {"prompt": "hello", "params": {"top_p": 1}}, {}, Request(HELLO, None, {"top_p": 1})),
    ("null params", {"prompt": "hello", "params": None}, {}, Request(HELLO)),
    (
        "params over the run's",
        {"prompt": "hello", "params": {"n": 2}},
        {"params": {"n": 1, "seed": 3}},
        Request(HELLO, None, {"n": 2, "seed": 3}),
    ),
    (
        "model of the row over that of its params",
        {"prompt": "hello", "model": "a", "params": {"model": "b"}},
        {},
        Request(HELLO, "a"),
    ),
    ("model of its params", {"prompt": "hello", "params": {"model": "b"}}, {}, Request(HELLO, "b")),
    ("empty model", {"prompt": "hello", "model": ""}, {}, Request(HELLO)),
    ("null model", {"prompt": "hello", "model": None}, {}, Request(HELLO)),
    ("template over prompt", {"prompt": "hello", "x": 1}, {"prompt": "{x}!"}, Request(asked("1!"))),
    (
        "template over a prompt keeps params",
        {"prompt": "hello", "params": {"n": 2}},
        {"prompt": "{prompt}"},
        Request(HELLO, None, {"n": 2}),
    ),
    ("params of another row are a column", {"text": "hello", "params": {"n": 2}}, {"prompt": "{text}"}, Request(HELLO)),
    ("another row's model", {"text": "hello", "model": "m"}, {"prompt": "{text}"}, Request(HELLO, "m")),
    (
        "messages",
        {"messages": HELLO, "id": 1, "custom_id": "c", "n": 2, "top": {"k": 1}},
        {},
        Request(HELLO, None, {"n": 2, "top": {"k": 1}}),
    ),
    ("messages with a model", {"messages": HELLO, "model": "m"}, {}, Request(HELLO, "m")),
    ("messages with an empty model", {"messages": HELLO, "model": ""}, {}, Request(HELLO)),
    ("messages with a prompt", {"messages": HELLO, "prompt": "p"}, {}, Request(HELLO, None, {"prompt": "p"})),
    ("messages over the template", {"messages": HELLO}, {"prompt": "{x}"}, Request(HELLO)),
    (
        "messages over the run's params",
        {"messages": HELLO, "n": 2},
        {"params": {"n": 1, "seed": 3}},
        Request(HELLO, None, {"n": 2, "seed": 3}),
    ),
    (
        "the id column is not sent",
        {"messages": HELLO, "key": "k", "n": 2},
        {"id_column": "key"},
        Request(HELLO, None, {"n": 2}),
    ),
    (
        "a kept column is sent all the same",
        {"messages": HELLO, "n": 2},
        {"keep": ["n"]},
        Request(HELLO, None, {"n": 2}),
    ),
    (
        "whole answers may be asked for",
        {"messages": HELLO, "stream": False, "stream_options": None},
        {},
        Request(HELLO),
    ),
    ("batch line", batch_line(), {}, Request(HELLO)),
    ("batch line, short url", batch_line(url="/chat/completions"), {}, Request(HELLO)),
    (
        "batch line with a body",
        batch_line(body={"messages": HELLO, "model": "m", "n": 2, "stream": False}),
        {"params": {"n": 1}},
        Request(HELLO, "m", {"n": 2}),
    ),
    ("batch line over the template", batch_line(), {"prompt": "{x}"}, Request(HELLO)),
    ("a column called body", {"custom_id": "a", "body": "hello"}, {"prompt": "{body}"}, Request(HELLO)),
    ("system", "hello", {"system": "Be {brief}."}, Request([{"role": "system", "content": "Be {brief}."}, *HELLO])),
    (
        "system before messages",
        {"messages": HELLO},
        {"system": "s"},
        Request([{"role": "system", "content": "s"}, *HELLO]),
    ),
    (
        "their own system",
        {"messages": [*HELLO, {"role": "system", "content": "t"}]},
        {"system": "s"},
        Request([*HELLO, {"role": "system", "content": "t"}]),
    ),
    (
        "their own developer",
        {"messages": [{"role": "developer", "content": "t"}]},
        {"system": "s"},
        Request([{"role": "developer", "content": "t"}]),
    ),
    ("no column, no template field", {"id": 1, "model": "m"}, {"prompt": "hello"}, Request(HELLO, "m")),
    ("only the id column, no template field", {"key": 1}, {"prompt": "hello", "id_column": "key"}, Request(HELLO)),
    ("any mapping is a row", MappingProxyType({"prompt": "hello"}), {}, Request(HELLO)),
]


@pytest.mark.parametrize(
    ("values", "options", "request_"), [case[1:] for case in REQUESTS], ids=[c[0] for c in REQUESTS]
)
def test_a_row_becomes_the_request_that_its_kind_stands_for(
    values: Any, options: dict[str, Any], request_: Request
) -> None:
    assert row(values, **options).request == request_


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    ("", {}, "the prompt is empty"),
    (" \n", {}, "the prompt is empty"),
    ({"prompt": " "}, {}, "the prompt is empty"),
    ({"prompt": None}, {}, "prompt must be text, not null"),
    ({"prompt": ["x"]}, {}, "prompt must be text, not ['x']"),
    ({"prompt": "x", "params": [1]}, {}, "params must be an object, not [1]"),
    ({"prompt": "x", "params": {"messages": HELLO}}, {}, "params must not have messages"),
    ({"prompt": "x", "params": {"stream": True}}, {}, "stream must be left out"),
    ({"prompt": "x", "params": {"stream_options": {"include_usage": True}}}, {}, "stream_options must be left out"),
    ({"prompt": "x", "model": 4}, {}, "model must be text, not 4"),
    ({"prompt": "x", "params": {"at": object()}}, {}, "cannot be written as JSON"),
    ({"prompt": "lone \ud800"}, {}, "cannot be written as JSON"),
    ({"text": "x", "n": 1}, {}, "no prompt and no messages; give --prompt with {column} fields, of: text, n"),
    ({"text": "x"}, {"prompt": "{body}"}, "there is no column 'body'; the row has: text"),
    ({"text": None}, {"prompt": "{text}"}, "column 'text' is null"),
    ({"text": math.nan}, {"prompt": "{text}"}, "column 'text' is null"),
    ({"text": object()}, {"prompt": "{text}"}, "column 'text' cannot be put into a prompt"),
    ({"text": ""}, {"prompt": "Summarise: {text}"}, "nothing to ask about: text is empty"),
    ({"a": " ", "b": ""}, {"prompt": "{a}: {b}"}, "nothing to ask about: a, b is empty"),
    (
        {"id": 1, "text": "x"},
        {"prompt": "Summarise"},
        "the prompt names no column, so every row would ask the same; put one in braces: text",
    ),
    ({"prompt": "x"}, {"prompt": "Summarise"}, "put one in braces: prompt"),
    ("x", {"prompt": "Summarise"}, "put one in braces: text, prompt"),
    ({"messages": []}, {}, "messages must be a list that is not empty, not []"),
    ({"messages": None}, {}, "messages must be a list that is not empty, not null"),
    ({"messages": "x"}, {}, "messages must be a list that is not empty, not 'x'"),
    ({"messages": ["x"]}, {}, "each message must be an object with a role, not 'x'"),
    ({"messages": [{"content": "x"}]}, {}, "each message must be an object with a role"),
    ({"messages": [*HELLO, {"role": 1}]}, {}, "each message must be an object with a role"),
    ({"messages": HELLO, "stream": True}, {}, "stream must be left out"),
    (batch_line(custom_id=...), {}, "a batch line needs custom_id too"),
    (batch_line(method=..., url=...), {}, "a batch line needs method, url too"),
    (batch_line(method="GET"), {}, "method must be POST, not 'GET'"),
    (batch_line(url="/v1/embeddings"), {}, "url must be /v1/chat/completions, not '/v1/embeddings'"),
    (batch_line(url="/v1/responses"), {}, "url must be /v1/chat/completions"),
    (batch_line(url=["/v1/chat/completions"]), {}, "url must be /v1/chat/completions"),
    (batch_line(body=None), {}, "body must be an object, not null"),
    (batch_line(body={}), {}, "messages must be a list that is not empty, not null"),
    (batch_line(body={"messages": HELLO, "stream": True}), {}, "stream must be left out"),
    (batch_line(custom_id=None), {}, "'custom_id' must be a whole number or a text"),
    ({"prompt": "x", "id": True}, {}, "'id' must be a whole number or a text that is not empty, not True"),
    ({"prompt": "x", "id": 1.0}, {}, "'id' must be a whole number or a text that is not empty, not 1.0"),
    ({"prompt": "x", "id": None}, {}, "'id' must be a whole number or a text that is not empty, not null"),
    ({"prompt": "x", "id": ""}, {}, "'id' must be a whole number or a text that is not empty, not ''"),
    ({"prompt": "x", "id": {"a": 1}}, {}, "'id' must be a whole number or a text"),
    ({"prompt": "x"}, {"id_column": "key"}, "there is no column 'key' to take the id from; the row has: prompt"),
    (
        {"prompt": "x", "topic": 1},
        {"keep": ["topic", "place"]},
        "there is no column 'place' to keep; the row has: prompt, topic",
    ),
    ({"prompt": "x", "topic": object()}, {"keep": ["topic"]}, "cannot be written as JSON"),
    (5, {}, "a row must be text or an object, not 5"),
    (["x"], {}, "a row must be text or an object, not ['x']"),
]


@pytest.mark.parametrize(("values", "options", "reason"), REFUSED)
def test_a_row_that_cannot_be_sent_is_refused_with_its_place_and_what_to_mend(
    values: Any, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError) as refused:
        row(values, **options)
    assert refused.value.where == "in.jsonl:8"
    assert reason in refused.value.reason


def test_a_row_that_could_not_be_read_is_refused_for_that_reason() -> None:
    with pytest.raises(InputError, match="in:1: not valid JSON"):
        Template().row(RawRow(0, "in:1", None, "not valid JSON"))


@pytest.mark.parametrize(
    ("values", "options", "row_id"),
    [
        ("hello", {}, 7),
        ({"prompt": "x"}, {}, 7),
        ({"prompt": "x", "id": "a"}, {}, "a"),
        ({"prompt": "x", "id": 0}, {}, 0),
        ({"prompt": "x", "custom_id": "c"}, {}, "c"),
        ({"prompt": "x", "custom_id": "c", "id": "a"}, {}, "a"),
        ({"prompt": "x", "id": "a", "key": "k"}, {"id_column": "key"}, "k"),
        ({"messages": HELLO, "id": 5}, {}, 5),
        (batch_line(id="not this"), {"id_column": "id"}, "a"),
    ],
)
def test_the_id_is_the_rows_own_or_its_index(values: Any, options: dict[str, Any], row_id: str | int) -> None:
    made = Template(**options)
    assert made.row(raw(values)).id == row_id


def test_a_row_carries_its_index_its_kept_columns_and_whether_it_is_a_batch_line() -> None:
    kept = row({"prompt": "x", "topic": [1], "place": None}, keep=["place", "topic", "place"])
    assert (kept.index, kept.columns, kept.batch) == (7, {"place": None, "topic": [1]}, False)
    assert row(batch_line()).batch


def test_a_request_shares_nothing_that_changes_with_another() -> None:
    made = Template(params={"n": 1})
    first = made.row(raw("hello")).request
    first.params["n"] = 2
    assert made.row(raw("hello")).request.params == {"n": 1}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it {is}", "as it {is}"),
        (1, "1"),
        (-2.5, "-2.5"),
        (1.0, "1.0"),
        (2**70, str(2**70)),
        (True, "true"),
        (False, "false"),
        (["a", None], '["a",null]'),
        ({"k": "ü"}, '{"k":"ü"}'),
        (datetime.date(2024, 2, 29), "2024-02-29"),
    ],
)
def test_a_column_enters_a_prompt_as_text_or_as_json(value: Any, text: str) -> None:
    assert Prompt("<{x}>").fill({"x": value}, "in:1") == f"<{text}>"


@pytest.mark.parametrize(
    ("prompt", "filled", "columns"),
    [
        ("{a}", "1", ("a",)),
        ("{a}{b}{a}", "121", ("a", "b")),
        ("{{a}} {a}", "{a} 1", ("a",)),
        ("{{{a}}}", "{1}", ("a",)),
        ('{{"k": {a}}}', '{"k": 1}', ("a",)),
        ("{ a }", "1", ("a",)),
        ("{Full name}, {tiếng}", "3, 4", ("Full name", "tiếng")),
        ("line\n{a}\n", "line\n1\n", ("a",)),
    ],
)
def test_fields_are_plain_names_and_doubled_braces_are_text(prompt: str, filled: str, columns: tuple[str, ...]) -> None:
    assert Prompt(prompt).fill({"a": "1", "b": "2", "Full name": "3", "tiếng": "4"}, "in:1") == filled
    assert Template(prompt=prompt).columns == columns
    assert Template().columns == ()


@pytest.mark.parametrize(
    "prompt",
    [
        "{a.b}",
        "{a[0]}",
        "{a!r}",
        "{a:>9}",
        "{a:}",
        "{}",
        "{ }",
        "{",
        "}",
        "a } b",
        "{a",
        "a}",
        "{{a}",
        "{a{b}}",
        '{"k": 1}',
    ],
)
def test_anything_else_in_braces_is_refused_when_the_template_is_made(prompt: str) -> None:
    with pytest.raises(UsageError, match=r"write \{\{ and \}\} for braces that are text"):
        Template(prompt=prompt)


names = st.text(st.characters(exclude_characters=".[]!:{}", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name == name.strip()
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(parts=st.lists(st.tuples(texts, names, texts.filter(str.strip)), min_size=1), tail=texts)
def test_a_prompt_is_its_texts_with_the_values_between_them(parts: list[tuple[str, str, str]], tail: str) -> None:
    def braced(text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}")

    values = {name: value for _, name, value in parts}
    prompt = "".join(f"{braced(text)}{{{name}}}" for text, name, _ in parts) + braced(tail)
    expected = "".join(text + values[name] for text, name, _ in parts) + tail
    assert Template(prompt=prompt).row(raw(values)).request.messages == asked(expected)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"params": {"stream": True}}, "stream must be left out"),
        ({"params": {"stream_options": {"include_usage": True}}}, "stream_options must be left out"),
        ({"params": {"model": "m"}}, "set the model with -m"),
        ({"params": {"messages": []}}, "messages is no parameter here"),
        ({"params": {"at": object()}}, "params: cannot be written as JSON"),
        ({"keep": ["topic", "usage", "error"]}, "the output has a error, usage of its own"),
    ],
)
def test_what_can_be_right_for_no_row_is_refused_when_the_template_is_made(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        Template(**options)
    assert type(refused.value) is UsageError


@pytest.mark.parametrize("key", sorted(OUTPUT_KEYS))
def test_no_kept_column_overwrites_a_key_of_the_output(key: str) -> None:
    with pytest.raises(UsageError, match=key):
        Template(keep=[key])


meant_keys = st.sampled_from(
    ["id", "custom_id", "prompt", "messages", "params", "model", "body", "url", "method", "role"]
)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(meant_keys, inner),
)


def outcome(values: Any, prompt: str | None) -> Request | InputError:
    try:
        return row(values, prompt=prompt, system="s").request
    except InputError as error:
        return error


@given(values=json_like, prompt=st.sampled_from([None, "{prompt}", "hello"]))
def test_every_row_is_a_request_that_can_be_written_as_json_or_an_input_error(values: Any, prompt: str | None) -> None:
    made = outcome(values, prompt)
    if isinstance(made, InputError):
        assert made.where == "in.jsonl:8"
    else:
        assert msgspec.json.decode(msgspec.json.encode(made.messages))[0]["role"]
