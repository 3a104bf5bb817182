"""Streams of chat completions: every dialect read as its unstreamed answer is, and none that ended early is a success."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import RequestError, request_error
from penstock.providers.catalog import SERVICES, StreamEnd
from penstock.providers.openai import ChatCompletions, chat_completions
from penstock.providers.streams import StreamDecoder
from penstock.records import Chunk, HttpAnswer, Request, Response, ToolCall, ToolCallPart, Usage
from penstock.rules.sse import EventReader
from penstock.simulator import answers

KEY = "sk-canary-1234567890"
DONE = b"data: [DONE]\n\n"


def provider(service: str, stream_end: StreamEnd = "done") -> ChatCompletions:
    profile = msgspec.structs.replace(SERVICES[service], stream_end=stream_end)
    return chat_completions(profile, base_url="http://127.0.0.1:1/v1", api_key=KEY)


def ended(decoder: StreamDecoder, broken: RequestError | None = None) -> Response | RequestError:
    try:
        return decoder.end(broken)
    except RequestError as error:
        return error


def read(
    pieces: bytes | Iterable[bytes], service: str = "openai", stream_end: StreamEnd = "done"
) -> tuple[list[Chunk], Response | RequestError]:
    """The chunks, and what the stream came to after its body ended by itself."""
    decoder = provider(service, stream_end).decoder(200, [(b"X-Request-Id", b"req_1")], 0.0)
    chunks = [chunk for piece in ([pieces] if isinstance(pieces, bytes) else pieces) for chunk in decoder.feed(piece)]
    return chunks + decoder.flush(), ended(decoder)


def whole(pieces: bytes, service: str = "openai", stream_end: StreamEnd = "done") -> tuple[list[Chunk], Response]:
    """The same of a stream that is whole; its response is told again by what would be recorded of it."""
    chunks, response = read(pieces, service, stream_end)
    assert isinstance(response, Response), response
    assert provider(service).revive(response.raw) == msgspec.structs.replace(response, request_id=None)
    return chunks, response


def failed(pieces: bytes, service: str = "openai", stream_end: StreamEnd = "done") -> tuple[list[Chunk], RequestError]:
    chunks, error = read(pieces, service, stream_end)
    assert isinstance(error, RequestError), error
    assert KEY not in repr(error) + repr(error.__dict__)
    return chunks, error


def bytewise(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def event(value: Any) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)


def piece(delta: Any = None, finish: str | None = None, **more: Any) -> bytes:
    """The event of one delta; `more` are further keys beside the choices."""
    choice = {"index": 0, "finish_reason": finish, **({} if delta is None else {"delta": delta})}
    return event({"id": "c1", "model": "m-1", "object": "chat.completion.chunk", "choices": [choice], **more})


def text(*words: str) -> bytes:
    return b"".join(piece({"content": word}) for word in words)


def call(index: int | None, *, id: str | None = None, name: str | None = None, arguments: Any = None) -> bytes:  # noqa: A002
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    entry = {"function": function, **({"id": id} if id else {}), **({} if index is None else {"index": index})}
    return piece({"tool_calls": [entry]})


USAGE = {"prompt_tokens": 41, "completion_tokens": 6, "total_tokens": 47}
COUNTED = Usage(41, 6)
STOP = piece({}, "stop")
CITY = (ToolCall("call_1", "city_info", '{"city":"Oslo"}'),)
SAFE = {"hate": {"filtered": False, "severity": "safe"}}

# Service -> its stream as it comes, and what its unstreamed twin would tell.
DIALECTS: dict[str, tuple[str, bytes, Response]] = {
    "openai": (
        "openai",
        piece({"role": "assistant", "content": "", "refusal": None}, usage=None, obfuscation="k2")
        + piece({"content": "Tea"}, usage=None, obfuscation="Jw1")
        + piece({"content": ", then ☔."}, usage=None)
        + piece({}, "stop", usage=None, obfuscation="")
        + event({"id": "c1", "model": "m-1", "choices": [], "usage": USAGE})
        + DONE,
        Response("Tea, then ☔.", "stop", "m-1", COUNTED),
    ),
    "openai tools": (
        "openai",
        piece({"role": "assistant", "content": None})
        + call(0, id="call_1", name="city_info", arguments="")
        + call(0, arguments='{"city"')
        + call(1, id="call_2", name="now", arguments="")
        + call(0, arguments=':"Oslo"}')
        + call(1, arguments="{}")
        + piece({}, "tool_calls")
        + DONE,
        Response("", "tool_calls", "m-1", tool_calls=(*CITY, ToolCall("call_2", "now", "{}"))),
    ),
    "openai refusal": (
        "openai",
        piece({"refusal": "I can"}) + piece({"refusal": "not."}) + STOP + DONE,
        Response("I cannot.", "refusal", "m-1"),
    ),
    "azure": (
        "azure",
        event({"id": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": [SAFE], "usage": None})
        + text("Tea")
        + piece({}, "stop")
        + piece(None, content_filter_results=SAFE)
        + event({"id": "", "model": "", "choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {}}]})
        + DONE,
        Response("Tea", "stop", "m-1"),
    ),
    "azure filtered before any delta": (
        "azure",
        piece(None, "content_filter") + DONE,
        Response("", "content_filter", "m-1"),
    ),
    "anthropic": ("anthropic", text("Tea") + piece({}, "end_turn") + DONE, Response("Tea", "stop", "m-1")),
    "gemini": (
        "gemini",
        piece({"content": "Tea"}, usage={**USAGE, "completion_tokens": 1}).replace(b"\n", b"\r\n")
        + piece({"content": "."}, "stop", usage=USAGE).replace(b"\n", b"\r\n")
        + DONE.replace(b"\n", b"\r\n"),
        Response("Tea.", "stop", "m-1", COUNTED),
    ),
    "gemini tools": (
        "gemini",
        call(None, id="call_1", name="city_info", arguments='{"city":')
        + call(None, arguments='"Oslo"}')
        + call(None, id="call_2", name="city_info", arguments="{}")
        + STOP
        + DONE,
        Response("", "tool_calls", "m-1", tool_calls=(*CITY, ToolCall("call_2", "city_info", "{}"))),
    ),
    "mistral": (
        "mistral",
        piece({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]})
        + piece({"content": [{"type": "text", "text": "Te"}, {"type": "reference", "reference_ids": [1]}]})
        + piece({"content": "a"}, "model_length", usage=USAGE)
        + DONE,
        Response("Tea", "length", "m-1", COUNTED, reasoning="Hm."),
    ),
    "mistral tools": (
        "mistral",
        call(0, id="call_1", name="city_info", arguments={"city": "Oslo"}) + piece({}, "tool_calls") + DONE,
        Response("", "tool_calls", "m-1", tool_calls=CITY),
    ),
    "groq": (
        "groq",
        piece({"role": "assistant", "content": ""}, x_groq={"id": "req_1"})
        + piece({"reasoning": "Hm."})
        + text("Tea")
        + piece({}, "stop", x_groq={"id": "req_1", "usage": USAGE})
        + event({"id": "c1", "model": "m-1", "choices": [], "usage": USAGE})
        + DONE,
        Response("Tea", "stop", "m-1", COUNTED, reasoning="Hm."),
    ),
    "together": (
        "together",
        text("Tea") + piece({}, "eos", usage=USAGE) + DONE,
        Response("Tea", "stop", "m-1", COUNTED),
    ),
    "openrouter": (
        "openrouter",
        b": OPENROUTER PROCESSING\n\n"
        + text("Tea")
        + b": OPENROUTER PROCESSING\n\n"
        + piece({"content": ""}, "stop")
        + piece({"role": "assistant", "content": ""}, "stop", usage={**USAGE, "cost": 0.01})
        + DONE,
        Response("Tea", "stop", "m-1", COUNTED),
    ),
    "deepseek": (
        "deepseek",
        b": keep-alive\n\n\n\n"
        + piece({"content": None, "reasoning_content": "Hm"})
        + piece({"content": None, "reasoning_content": "."})
        + piece({"content": "Tea", "reasoning_content": None})
        + piece({"content": ""}, "stop", usage={**USAGE, "prompt_cache_hit_tokens": 40})
        + DONE,
        Response("Tea", "stop", "m-1", Usage(41, 6, 40), reasoning="Hm."),
    ),
    "vllm": (
        "vllm",
        piece({"reasoning": "Hm."}, usage={**USAGE, "completion_tokens": 1})
        + piece({"content": "Tea"}, usage={**USAGE, "completion_tokens": 2})
        + piece({"content": ""}, "length", usage=USAGE, stop_reason=None)
        + DONE,
        Response("Tea", "length", "m-1", COUNTED, reasoning="Hm."),
    ),
    "ollama": (
        "ollama",
        piece({"role": "assistant", "content": "", "reasoning": "Hm."}, "")
        + call(0, id="call_1", name="city_info", arguments='{"city":"Oslo"}')
        + piece({}, "tool_calls")
        + event({"id": "c1", "model": "m-1", "choices": [], "usage": USAGE})
        + DONE,
        Response("", "tool_calls", "m-1", COUNTED, reasoning="Hm.", tool_calls=CITY),
    ),
    "ollama without finish reason": ("ollama", text("Tea") + DONE, Response("Tea", "other", "m-1")),
    "custom": (
        "custom",
        b"event: message\nid: 1\n" + text("Tea") + STOP + b"data:[DONE]\n\n",
        Response("Tea", "stop", "m-1"),
    ),
    "custom, last blank line missing": ("custom", text("Tea") + STOP + DONE[:-2], Response("Tea", "stop", "m-1")),
}
STREAMS = pytest.mark.parametrize(("service", "stream", "told"), DIALECTS.values(), ids=DIALECTS)


@STREAMS
def test_a_stream_tells_what_the_unstreamed_answer_would(service: str, stream: bytes, told: Response) -> None:
    chunks, response = whole(stream, service)
    assert msgspec.structs.replace(response, raw=b"", request_id=None) == told
    assert "".join(chunk.text for chunk in chunks) == told.text
    assert "".join(chunk.reasoning for chunk in chunks) == told.reasoning
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] in ([told.finish_reason], [])
    assert [chunk.usage for chunk in chunks if chunk.usage][-1:] == ([told.usage] if told.usage else [])
    for place, made in enumerate(told.tool_calls):
        parts = [part for chunk in chunks for part in chunk.tool_calls if part.index == place]
        assert "".join(part.arguments for part in parts) == made.arguments
        assert [(part.id, part.name) for part in parts if part.name] == [(made.id, made.name)]
    assert all(chunk != Chunk() for chunk in chunks)


@STREAMS
def test_a_byte_at_a_time_gives_the_same(service: str, stream: bytes, told: Response) -> None:
    assert read(bytewise(stream), service) == read(stream, service)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(DIALECTS)), cuts=st.lists(st.integers(0, 1_200), max_size=8))
def test_any_chunking_gives_the_same_chunks_and_response(name: str, cuts: list[int]) -> None:
    service, stream, _ = DIALECTS[name]
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert read(pieces, service) == read(stream, service)


@STREAMS
def test_a_stream_cut_at_any_byte_is_truncated_unless_only_what_follows_its_end_is_lost(
    service: str, stream: bytes, told: Response
) -> None:
    """Whether the connection ended well or badly; and it may be billed."""
    last = stream.rindex(b"[DONE]") + len(b"[DONE]")
    broken = request_error("disconnected", "reset", maybe_billed=True)
    for end in range(len(stream)):
        decoder = provider(service).decoder(200, [], 0.0)
        chunks = decoder.feed(stream[:end])
        over = decoder.over
        after_reset = ended(decoder, broken)
        assert isinstance(after_reset, Response) if over else after_reset is broken
        chunks += decoder.flush()
        result = ended(decoder)
        if end < last:
            assert isinstance(result, RequestError), end
            assert (result.kind, result.maybe_billed, result.status) == ("truncated", True, 200)
            assert told.text.startswith("".join(chunk.text for chunk in chunks))
        else:
            assert isinstance(result, Response)
            assert result.text == told.text


def test_the_response_carries_the_request_id_of_its_headers() -> None:
    assert whole(text("Tea") + STOP + DONE)[1].request_id == "req_1"


def test_the_simulators_own_stream_is_read_whole() -> None:
    told = answers.Told("chatcmpl-1", "m-1", "Tea, then rain. Überall ☔", "stop", 41, 6)
    for include_usage in (True, False):
        stream = b"".join(made for _, made in answers.events(told, include_usage))
        _, response = whole(stream)
        assert (response.text, response.usage) == (told.text, COUNTED if include_usage else None)


@pytest.mark.parametrize(
    ("stream_end", "service", "stream", "reason"),
    [
        ("done", "custom", text("Tea") + STOP, None),
        ("finish_reason", "custom", text("Tea") + STOP, "stop"),
        ("finish_reason", "custom", text("Tea") + STOP.removesuffix(b"\n\n"), "stop"),
        ("finish_reason", "custom", text("Tea") + STOP.removesuffix(b"}\n\n"), None),
        ("finish_reason", "custom", text("Tea"), None),
        ("finish_reason", "openai", text("Tea") + piece({}, "length"), "length"),
        ("close", "custom", text("Tea"), "other"),
        ("close", "custom", b"", None),
        ("close", "custom", piece({"role": "assistant"}), None),
        ("close", "openai", text("Tea"), None),
        ("close", "openai", text("Tea") + STOP, "stop"),
    ],
)
def test_a_stream_without_done_is_whole_only_where_its_server_is_known_for_it(
    stream_end: StreamEnd, service: str, stream: bytes, reason: str | None
) -> None:
    """By the service's profile; without a finish reason only where that is optional too, and there is an answer."""
    _, result = read(stream, service, stream_end)
    if reason is None:
        assert isinstance(result, RequestError)
        assert result.kind == ("malformed" if not stream and stream_end == "close" else "truncated")
    else:
        assert isinstance(result, Response)
        assert (result.text, result.finish_reason) == ("Tea", reason)


@pytest.mark.parametrize(
    ("more", "chunk"),
    [
        ({}, Chunk("Tea")),
        ({"refusal": " no"}, Chunk("Tea no")),
        ({"reasoning": "hm"}, Chunk("Tea", "hm")),
        ({"reasoning_content": "hm"}, Chunk("Tea", "hm")),
        ({"tool_calls": [{"index": 0, "id": "c"}]}, Chunk("Tea", tool_calls=(ToolCallPart(0, "c"),))),
        ({"function_call": {"name": "f"}}, Chunk("Tea", tool_calls=(ToolCallPart(0, "", "f"),))),
    ],
)
def test_what_comes_beside_a_text_is_told_too(more: dict[str, Any], chunk: Chunk) -> None:
    assert provider("openai").decoder(200, [], 0.0).feed(piece({"content": "Tea", **more})) == [chunk]


def relayed(stream: bytes, service: str = "openai") -> tuple[list[Chunk], Response | RequestError]:
    decoder = provider(service).decoder(200, [(b"X-Request-Id", b"req_1")], 0.0, relay=True)
    return decoder.feed(stream) + decoder.flush(), ended(decoder)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_relayed_stream_tells_the_same_and_the_data_of_every_event(dialect: str) -> None:
    """Also of those that add nothing; only `[DONE]` is not told."""
    service, stream, _ = DIALECTS[dialect]
    chunks, response = read(stream, service)
    with_raw, relayed_response = relayed(stream, service)
    told = [msgspec.structs.replace(chunk, raw=b"") for chunk in with_raw]
    assert [chunk for chunk in told if chunk != Chunk()] == chunks
    assert relayed_response == response
    events = [event.data for event in EventReader().feed(stream) if event.name in ("", "message")]
    assert [chunk.raw.decode() for chunk in with_raw] == [data for data in events if data.strip() and data != "[DONE]"]


def test_data_of_several_lines_is_relayed_on_one() -> None:
    stream = b'data: {"choices": [{"index": 0,\ndata: "delta": {"content": "Tea"}}]}\n\n' + STOP + DONE
    chunks, _ = relayed(stream)
    assert chunks[0] == Chunk("Tea", raw=b'{"choices": [{"index": 0, "delta": {"content": "Tea"}}]}')


def test_neither_an_error_nor_a_named_event_that_adds_nothing_is_relayed() -> None:
    stream = text("Tea") + b"event: ping\ndata: {}\n\n: hold on\n\ndata: \n\n" + error_event(code=500) + STOP
    chunks, error = relayed(stream)
    assert [chunk.text for chunk in chunks] == ["Tea"]
    assert isinstance(error, RequestError)


@pytest.mark.parametrize("stream_end", ["done", "finish_reason", "close"])
def test_a_broken_connection_is_never_an_end(stream_end: StreamEnd) -> None:
    """Also for a server that never says when it is done: its usage may be missing, or its text."""
    decoder = provider("custom", stream_end).decoder(200, [], 0.0)
    assert len(decoder.feed(text("Tea") + STOP)) == 2
    broken = request_error("timeout", "stalled", maybe_billed=True)
    assert ended(decoder, broken) is broken


def test_no_service_is_taken_to_end_without_its_terminal_event() -> None:
    assert {service.stream_end for service in SERVICES.values()} == {"done"}


@pytest.mark.parametrize("service", ["openai", "mistral", "openrouter"])
def test_done_without_a_finish_reason_is_truncated(service: str) -> None:
    chunks, error = failed(text("Tea") + DONE, service)
    assert (chunks, error.kind, error.maybe_billed) == ([Chunk("Tea")], "truncated", True)


def error_event(**error: Any) -> bytes:
    return event({"error": {"message": f"lost, key {KEY}", **error}})


FAILURES: list[tuple[str, bytes, str, bool]] = [
    ("openai", error_event(type="server_error", code=None), "server_error", False),
    ("openai", text("Tea") + error_event(type="server_error"), "server_error", True),
    ("openai", text("Tea") + error_event(code="rate_limit_exceeded") + DONE, "rate_limited", True),
    ("openai", text("Tea") + STOP + error_event(code="server_is_overloaded") + DONE, "overloaded", True),
    ("openai", text("Tea") + b"event: error\n" + error_event(type="server_error"), "server_error", True),
    ("openai", text("Tea") + b'event: error\ndata: {"message": "lost"}\n\n', "server_error", True),
    ("openai", text("Tea") + b"event: error\ndata: lost\n\n", "server_error", True),
    ("openai", event({"error": "lost"}), "server_error", False),
    ("vllm", text("Tea") + error_event(type="InternalServerError", code=500) + DONE, "server_error", True),
    ("vllm", error_event(type="BadRequestError", code=400) + DONE, "invalid_request", False),
    (
        "vllm",
        event({"object": "error", "message": "lost", "type": "BadRequestError", "code": 400}),
        "invalid_request",
        False,
    ),
    ("mistral", text("Tea") + event({"object": "error", "message": "lost", "code": "3505"}), "overloaded", True),
    ("groq", text("Tea") + piece({}, None, x_groq={"error": "lost"}), "server_error", True),
    ("openrouter", piece({"content": ""}, "error", error={"code": 502, "message": "lost"}), "server_error", True),
    ("openrouter", piece({"content": ""}, "error", error={"code": "429", "message": "lost"}), "rate_limited", True),
    ("openrouter", event({"choices": [{"index": 0, "error": {"code": 503, "message": "lost"}}]}), "overloaded", True),
    ("openrouter", text("Tea") + piece({}, "error") + DONE, "server_error", True),
    ("deepseek", text("Tea") + piece({}, "insufficient_system_resource") + DONE, "server_error", True),
    (
        "gemini",
        text("Tea") + event([{"error": {"code": 503, "message": "lost", "status": "UNAVAILABLE"}}]),
        "overloaded",
        True,
    ),
]


@pytest.mark.parametrize(("service", "stream", "kind", "billed"), FAILURES)
def test_an_error_in_a_stream_is_typed_and_tells_of_the_money(
    service: str, stream: bytes, kind: str, billed: bool
) -> None:
    """The chunks before it are told, what follows it is not, in any chunking; the key is in no message."""
    chunks, error = failed(stream, service)
    assert (error.kind, error.maybe_billed, error.status) == (kind, billed, 200)
    assert "lost" in error.message or "given up" in error.message
    assert [chunk.text for chunk in chunks if chunk.text] == (["Tea"] if b'"Tea"' in stream else [])
    again, other = read(bytewise(stream), service)
    assert (again, repr(other)) == (chunks, repr(error))


def test_an_error_ends_a_stream_and_nothing_after_it_counts() -> None:
    decoder = provider("openai").decoder(200, [(b"retry-after", b"7"), (b"x-request-id", b"req_1")], 0.0)
    assert decoder.feed(text("Tea") + error_event(code="rate_limit_exceeded") + text("!")) == [Chunk("Tea")]
    assert decoder.over
    assert decoder.feed(text("?") + STOP + DONE) == []
    error = ended(decoder, request_error("disconnected", "reset"))
    assert isinstance(error, RequestError)
    assert (error.kind, error.retry_after, error.request_id) == ("rate_limited", 7.0, "req_1")
    assert ended(decoder) is error


@pytest.mark.parametrize(
    "trouble",
    [
        b"data: {'a': 1}\n\n",
        b"data: Tea\n\n",
        b"event: message\ndata: Tea\n\n",
        b'data: {"choices": "odd"}\n\n',
        b'data: {"choices": [{"delta": {"content": 7}}]}\n\n',
        b'data: {"choices": [{"delta": "odd"}]}\n\n',
        b"data: 7\n\n",
        b"data: \xff\n\n",
        b'data: {"choices": [{"delta": {"content": "\\ud800"}}]}\n\n',
    ],
)
def test_an_event_that_cannot_be_read_is_malformed_and_not_skipped(trouble: bytes) -> None:
    """A lost piece would be a hole in the text."""
    chunks, error = failed(text("Tea") + trouble + text("!") + STOP + DONE)
    assert (chunks, error.kind, error.maybe_billed, error.status) == ([Chunk("Tea")], "malformed", True, 200)


@pytest.mark.parametrize(
    "noise",
    [
        b": ping\n\n",
        b"\n\n\n",
        b"data:\n\n",
        b"data:  \n\n",
        b"retry: 10\n\n",
        b"event: ping\n\n",
        b"event: ping\ndata: {}\n\n",
        b"event: ping\ndata: 2026-05-02\n\n",
        b'data: {"type": "ping"}\n\n',
        b'data: {"choices": []}\n\n',
        b'data: {"choices": [null]}\n\n',
        b'data: {"choices": [{"index": 0}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": null, "finish_reason": ""}], "error": null}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"audio": {}}}], "usage": {"odd": 1}}\n\n',
    ],
)
def test_what_adds_nothing_is_no_chunk_and_no_error(noise: bytes) -> None:
    stream = text("Tea") + STOP + DONE
    made = noise.join([b"", text("Tea"), STOP, DONE])
    plain, response = whole(stream)
    chunks, same = whole(made)
    assert (chunks, same.text, same.finish_reason) == (plain, response.text, response.finish_reason)


def test_usage_is_told_when_it_is_news_and_the_last_counts() -> None:
    """Counted once where a service repeats it, whole where it grows."""
    grown = [{"prompt_tokens": 9, "completion_tokens": count} for count in (1, 2, 2)]
    stream = (
        b"".join(piece({"content": "x"}, usage=usage) for usage in grown) + piece({}, "stop", usage=grown[-1]) + DONE
    )
    chunks, response = whole(stream, "vllm")
    assert [chunk.usage for chunk in chunks] == [Usage(9, 1), Usage(9, 2), None, None]
    assert response.usage == Usage(9, 2)


def test_groq_may_tell_the_usage_in_a_place_of_its_own() -> None:
    chunks, response = whole(text("Tea") + piece({}, "stop", x_groq={"id": "req_1", "usage": USAGE}) + DONE, "groq")
    assert chunks[-1] == Chunk(finish_reason="stop", usage=COUNTED)
    assert response.usage == COUNTED


def test_reasoning_under_two_names_is_told_once() -> None:
    """As in a whole answer: `reasoning_content` before `reasoning`."""
    chunks, response = whole(piece({"reasoning_content": "Hm.", "reasoning": "Hm!"}) + text("Tea") + STOP + DONE)
    assert chunks[0].reasoning == response.reasoning == "Hm."


@pytest.mark.parametrize(
    ("delta", "content"),
    [(call(0, id="a", name="f"), None), (piece({"refusal": "No."}), None), (piece({}), ""), (text("a"), "a")],
)
def test_content_is_null_in_the_body_where_something_else_stands_for_it(delta: bytes, content: str | None) -> None:
    _, response = whole(delta + STOP + DONE)
    assert msgspec.json.decode(response.raw)["choices"][0]["message"]["content"] == content


def test_an_event_without_choices_may_bring_the_usage() -> None:
    _, response = whole(text("Tea") + STOP + event({"usage": USAGE}) + DONE)
    assert response.usage == COUNTED


@pytest.mark.parametrize(
    ("sent", "told", "counts"),
    [
        (["stop", "stop"], ["stop"], "stop"),
        (["stop", "length"], ["stop", "length"], "length"),
        (["length", "stop"], ["length"], "length"),
        (["tool_calls", "stop"], ["tool_calls"], "tool_calls"),
        (["new", "stop"], ["other"], "other"),
        (["", "stop"], ["stop"], "stop"),
    ],
)
def test_of_two_finish_reasons_a_stop_never_hides_the_other(sent: list[str], told: list[str], counts: str) -> None:
    """A cut by the limit stays one, whatever a closing chunk repeats."""
    chunks, response = whole(text("Tea") + b"".join(piece({}, reason) for reason in sent) + DONE)
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == told
    assert response.finish_reason == counts


def test_text_after_a_finish_reason_is_kept() -> None:
    """Some servers send `stop` with every piece."""
    stream = b"".join(piece({"content": word}, "stop") for word in ("Tea", ", then", " rain.")) + DONE
    chunks, response = whole(stream)
    assert response.text == "Tea, then rain." == "".join(chunk.text for chunk in chunks)
    assert [chunk.finish_reason for chunk in chunks] == ["stop", None, None]


def test_of_several_choices_the_first_is_the_answer() -> None:
    """Their pieces come interleaved, alone or together."""

    def of(index: int, content: str, finish: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": {"content": content}, "finish_reason": finish}

    stream = event({"choices": [of(1, "Coffee")]}) + event({"choices": [of(0, "Te"), of(1, "!")]})
    stream += event({"choices": [of(1, "", "length")]}) + event({"choices": [of(1, "?"), of(0, "a", "stop")]}) + DONE
    chunks, response = whole(stream)
    assert (response.text, response.finish_reason) == ("Tea", "stop")
    assert [chunk.text for chunk in chunks] == ["Te", "a"]


def test_a_stream_of_only_other_choices_is_no_answer() -> None:
    stream = event({"choices": [{"index": 1, "delta": {"content": "Coffee"}, "finish_reason": "stop"}]}) + DONE
    assert failed(stream)[1].kind == "malformed"


@pytest.mark.parametrize(("stream", "kind"), [(DONE, "malformed"), (b"", "truncated"), (b": bye\n\n", "truncated")])
def test_a_stream_without_any_choice_is_no_answer(stream: bytes, kind: str) -> None:
    chunks, error = failed(stream)
    assert (chunks, error.kind, error.maybe_billed) == ([], kind, True)


def test_an_answer_whose_text_never_came_as_a_delta_is_not_an_empty_success() -> None:
    stream = event({"choices": [{"index": 0, "message": {"content": "Tea"}, "finish_reason": "stop"}]}) + DONE
    assert failed(stream, "custom")[1].kind == "malformed"


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        ([call(0, name="f", id="a", arguments="1"), call(0, arguments="2")], [("a", "f", "12")]),
        ([call(0, name="f", id="a", arguments="1"), call(0, id="b", arguments="2")], [("a", "f", "12")]),
        ([call(0, name="f", id="a"), call(0, name="f", id="a", arguments="1")], [("a", "f", "1")]),
        ([call(0, name="f"), call(0, id="a", arguments="1")], [("a", "f", "1")]),
        (
            [call(0, id="a", name="f", arguments="1"), call(0, id="b", name="f", arguments="2")],
            [("a", "f", "1"), ("b", "f", "2")],
        ),
        (
            [call(3, id="a", name="f"), call(1, id="b", name="g"), call(3, arguments="1")],
            [("a", "f", "1"), ("b", "g", "")],
        ),
        ([call(None, name="f", arguments="1"), call(None, name="f", arguments="2")], [("", "f", "1"), ("", "f", "2")]),
        ([call(None, name="f", id="a"), call(None, id="a", name="f", arguments="1")], [("a", "f", "1")]),
        ([call(None, arguments="1")], [("", "", "1")]),
        ([call(0, name="f"), call(0, id="a", name="f", arguments="1")], [("a", "f", "1")]),
        ([call(0, id="a", name="f"), call(0, name="f", arguments="1")], [("a", "f", "1")]),
        ([call(None, id="a"), call(None, name="f", arguments="1")], [("a", "f", "1")]),
        (
            [call(0, id="a", name="f"), call(0, id="b", name="f"), call(0, arguments="1")],
            [("a", "f", ""), ("b", "f", "1")],
        ),
        ([piece({"function_call": {"name": "f"}}), piece({"function_call": {"arguments": "1"}})], [("", "f", "1")]),
        ([piece({"tool_calls": [None, "odd", {"index": 0, "function": None}]})], [("", "", "")]),
    ],
)
def test_pieces_find_their_tool_call(pieces: list[bytes], calls: list[tuple[str, str, str]]) -> None:
    """By index; by id where indexes are missing or all the same; in the order in which the calls began."""
    chunks, response = whole(b"".join(pieces) + STOP + DONE)
    assert [(made.id, made.name, made.arguments) for made in response.tool_calls] == calls
    assert response.finish_reason == "tool_calls" == chunks[-1].finish_reason
    for place, (_, _, arguments) in enumerate(calls):
        parts = [part for chunk in chunks for part in chunk.tool_calls if part.index == place]
        assert "".join(part.arguments for part in parts) == arguments


def test_what_a_service_adds_to_a_call_is_kept_in_the_body() -> None:
    """Gemini wants its thought signature back; custom tools keep their own form."""
    signature = {"google": {"thought_signature": "xyz"}}
    entries = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}, "extra_content": signature},
        {"index": 1, "id": "b", "type": "custom", "custom": {"name": "g", "input": "ra"}},
        {"index": 1, "custom": {"input": "w"}},
    ]
    _, response = whole(b"".join(piece({"tool_calls": [entry]}) for entry in entries) + STOP + DONE, "gemini")
    assert response.tool_calls == (ToolCall("a", "f", ""), ToolCall("b", "g", "raw"))
    message = msgspec.json.decode(response.raw)["choices"][0]["message"]
    assert message["tool_calls"][0]["extra_content"] == signature
    assert message["tool_calls"][1] == {"id": "b", "type": "custom", "custom": {"name": "g", "input": "raw"}}


def test_the_body_describes_the_answer_as_an_unstreamed_one_does() -> None:
    told = {"id": "c9", "created": 1_787_000_200, "model": "m-1", "service_tier": "flex", "system_fingerprint": "fp"}
    delta = {"index": 0, "delta": {"content": "Tea"}, "finish_reason": "stop"}
    usage = {**USAGE, "cost": 0.01}
    _, response = whole(event({**told, "choices": [delta]}) + event({**told, "choices": [], "usage": usage}) + DONE)
    assert msgspec.json.decode(response.raw) == {
        **told,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Tea"}, "finish_reason": "stop"}],
        "usage": usage,
    }


# -- what comes instead of a stream

WHOLE = {"model": "m-1", "choices": [{"message": {"content": "Tea", "tool_calls": [
    {"id": "call_1", "function": {"name": "city_info", "arguments": '{"city":"Oslo"}'}}]}, "finish_reason": "stop"}],
    "usage": USAGE}  # fmt: skip


@pytest.mark.parametrize("padding", [b"", b"\n\n \r\n", b"\xef\xbb\xbf", b"\t"])
def test_a_whole_answer_instead_of_a_stream_is_one_chunk(padding: bytes) -> None:
    """Some servers do not stream; DeepSeek sends blank lines first."""
    raw = msgspec.json.encode(WHOLE)
    body = padding + raw
    told = Chunk("Tea", "", (ToolCallPart(0, "call_1", "city_info", '{"city":"Oslo"}'),), "tool_calls", COUNTED)
    for pieces in ([body], bytewise(body)):
        chunks, response = read(pieces)
        assert chunks == [told]
        assert isinstance(response, Response)
        assert (response.text, response.tool_calls, response.raw) == ("Tea", CITY, raw)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, b'{"error": {"message": "slow", "code": "rate_limit_exceeded"}}', "rate_limited"),
        (401, b'{"error": {"message": "bad key"}}', "auth"),
        (503, b"data: later\n\n", "overloaded"),
        (500, b"", "server_error"),
        (200, b'{"error": {"message": "lost", "type": "server_error"}}', "server_error"),
        (200, b'[{"error": {"code": 503, "message": "lost", "status": "UNAVAILABLE"}}]', "overloaded"),
        (200, b"<html><head><title>Sign in</title></head></html>", "malformed"),
        (200, b'{"choices": [], "model": "m-1"}', "malformed"),
        (200, msgspec.json.encode(WHOLE)[:-4], "malformed"),
    ],
)
def test_an_error_instead_of_a_stream_is_told_as_if_no_stream_was_asked_for(
    status: int, body: bytes, kind: str
) -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"retry-after", b"3")]
    with pytest.raises(RequestError) as unstreamed:
        provider("openai").decode(HttpAnswer(status, headers, body), 0.0)
    for pieces in ([body], bytewise(body)):
        decoder = provider("openai").decoder(status, headers, 0.0)
        assert [chunk for made in pieces for chunk in decoder.feed(made)] + decoder.flush() == []
        error = ended(decoder)
        assert isinstance(error, RequestError)
        assert (error.kind, error.__dict__) == (kind, unstreamed.value.__dict__)


def test_a_whole_answer_cut_by_a_broken_connection_tells_of_the_connection() -> None:
    decoder = provider("openai").decoder(200, [], 0.0)
    decoder.feed(msgspec.json.encode(WHOLE)[:-9])
    broken = request_error("truncated", "closed inside the answer", maybe_billed=True)
    assert ended(decoder, broken) is broken


def test_end_reads_what_was_not_flushed_and_tells_the_same_again() -> None:
    decoder = provider("openai").decoder(200, [], 0.0)
    decoder.feed(text("Tea") + STOP + b"data: [DONE]")
    assert not decoder.over
    response = decoder.end()
    assert response.text == "Tea"
    assert decoder.end() is response


# -- what is asked

REQUEST = Request([{"role": "user", "content": "Hi"}], params={"temperature": 0.5, "stream": False})


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_stream_is_asked_for_with_its_usage_where_the_service_knows_how(service: str) -> None:
    made = provider(service)
    body = made.encode(REQUEST, "m-1")
    sent, plain = made.stream_call(body, "m-1"), made.call(body, "m-1")
    options = {} if service == "mistral" else {"stream_options": {"include_usage": True}}
    assert msgspec.json.decode(sent.body) == {**msgspec.json.decode(body), "stream": True, **options}
    assert (sent.url, sent.headers, sent.method) == (plain.url, plain.headers, plain.method)


# -- what is shown


def test_a_chunk_shows_itself_in_short() -> None:
    assert repr(Chunk("Tea")) == "Chunk('Tea')"
    assert repr(Chunk("", finish_reason="stop")) == "Chunk('', finish_reason='stop')"
    assert len(repr(Chunk("x" * 10_000, "y" * 10_000, usage=COUNTED))) < 300


def test_a_decoder_shows_neither_text_nor_headers() -> None:
    decoder = provider("openai").decoder(200, [(b"set-cookie", b"secret")], 0.0)
    decoder.feed(text("Tea"))
    assert repr(decoder) == "StreamDecoder('openai', under way)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": ', "}}]}}]}"),
        ('{"choices": [{"delta": {"tool_calls": [{"index": 0, "extra": ', "}]}}]}"),
        ('{"choices": [{"delta": {"content": ', "}}]}"),
        ('{"choices": [], "usage": {"prompt_tokens": 1, "more": ', "}}"),
        ('{"choices": [{"error": ', "}]}"),
        ('{"error": ', "}"),
        ('{"id": ', "}"),
    ],
)
def test_no_depth_of_nesting_breaks_out_of_the_typed_errors(before: str, after: str) -> None:
    for depth in range(100, 1_100, 7):
        odd = f"data: {before}{'[' * depth}{']' * depth}{after}\n\n".encode()
        _, result = read(odd + text("Tea") + STOP + DONE)
        assert isinstance(result, Response | RequestError)
