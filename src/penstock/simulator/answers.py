"""The bytes of OpenAI's Chat Completions API, as a provider writes them: whole answers, streams, errors, limit headers.

Pure. It decides how an outcome looks on the wire, never which outcome a request gets (that is `behaviour`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from penstock.errors import RequestError, request_error

Header = tuple[bytes, bytes]

CREATED = 1_767_225_600
"""`created` of every answer, in Unix seconds: fixed, because an answer is a function of its prompt."""

JSON: Header = (b"content-type", b"application/json")
HTML: Header = (b"content-type", b"text/html")
EVENTS: Header = (b"content-type", b"text/event-stream; charset=utf-8")
GARBAGE = b"\x00\xff\x16\x03\x01 this is not HTTP \r\n\r\n"
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode
_piece = re.compile(r"\S+\s*|\s+")


class Part(msgspec.Struct):
    """One part of a message; only text parts have text."""

    text: str | None = None


class Message(msgspec.Struct):
    """One chat message; assistants that call tools have no content."""

    role: str
    content: str | list[Part] | None = None

    def text(self) -> str:
        """Its text, parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text or "" for part in self.content or ())


class StreamOptions(msgspec.Struct):
    """What a client may ask of a stream."""

    include_usage: bool = False


class Function(msgspec.Struct):
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct):
    """A tool on offer, or the one that must be used; those that are no functions are never called."""

    type: str
    function: Function | None = None


class JsonSchema(msgspec.Struct):
    """The form that an answer must have."""

    name: str
    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct):
    """What an answer is written as: `text`, `json_object`, or `json_schema`, with its schema."""

    type: str
    json_schema: JsonSchema | None = None


class Ask(msgspec.Struct):
    """The body of a chat completion request, as far as it changes the answer; everything else is accepted unread."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | Tool | None = None
    response_format: ResponseFormat | None = None

    @property
    def limit(self) -> int | None:
        """The most output tokens wanted, None without a limit."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def text(self) -> str:
        """All messages as one text: what makes two requests the same prompt."""
        return "\n".join(message.text() for message in self.messages)

    def prompt(self) -> str:
        """The text of the last user message, else of the last message: what is answered."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text()
        return self.messages[-1].text()


class Called(NamedTuple):
    """A call of a tool; `arguments` is JSON, unless it was cut off."""

    id: str
    name: str
    arguments: str


class Told(NamedTuple):
    """What an answer tells: who, what, how it ended and what it cost. Where it calls a tool, it has no text."""

    id: str
    model: str
    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    called: Called | None = None


_ask = msgspec.json.Decoder(Ask).decode


def read(body: bytes) -> Ask:
    """The request of a body; raises `RequestError` with OpenAI's words where it is none."""
    try:
        ask = _ask(body)
    except msgspec.ValidationError as error:
        raise request_error("invalid_request", f"Invalid request body: {error}", status=400) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable() from error
    if not ask.messages:
        raise request_error("invalid_request", "Invalid 'messages': empty array. Expected at least one.", status=400)
    return ask


def _unreadable() -> RequestError:
    message = "We could not parse the JSON body of your request. (The body of your request was not valid JSON.)"
    return request_error("invalid_request", message, status=400)


def count_tokens(text: str) -> int:
    """About how many tokens a text has: a token for every 4 bytes of UTF-8, rounded up."""
    return (len(text) + 3) // 4 if text.isascii() else (len(text.encode("utf-8", "replace")) + 3) // 4


def cut(text: str, tokens: int) -> str:
    """As much of a text as has that many tokens."""
    return text.encode("utf-8", "replace")[: 4 * tokens].decode("utf-8", "ignore")


def completion(told: Told) -> bytes:
    """The body of a whole answer."""
    return (
        b'{"id":"%b","object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,"message":'
        b'{"role":"assistant","content":%b,"refusal":null,"annotations":[]%b},"logprobs":null,"finish_reason":"%b"}],'
        b'"usage":%b,"system_fingerprint":"fp_simulated"}'
        % (
            told.id.encode(),
            CREATED,
            _encode(told.model),
            b"null" if told.called else _encode(told.text),
            b',"tool_calls":[%b]' % _call(told.called) if told.called else b"",
            told.finish_reason.encode(),
            _usage(told),
        )
    )


def _call(called: Called) -> bytes:
    function = {"name": called.name, "arguments": called.arguments}
    return _encode({"id": called.id, "type": "function", "function": function})


def empty_completion(told: Told) -> bytes:
    """A 200 without any choice, as some gateways send it."""
    return b'{"id":"%b","object":"chat.completion","created":%d,"model":%b,"choices":[],"usage":%b}' % (
        told.id.encode(),
        CREATED,
        _encode(told.model),
        _usage(told),
    )


def _usage(told: Told) -> bytes:
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":0}}'
        % (told.input_tokens, told.output_tokens, told.input_tokens + told.output_tokens)
    )


def events(told: Told, include_usage: bool) -> list[tuple[int, bytes]]:
    """The events of a stream, each with the tokens that it brings: role, words, finish, usage if asked for, [DONE]."""
    head = b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b,"choices":['
    head %= (told.id.encode(), CREATED, _encode(told.model))
    tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def event(delta: bytes, finish_reason: bytes = b"null") -> bytes:
        choice = b'{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}' % (delta, finish_reason)
        return head + choice + tail

    content = b"null" if told.called else b'""'
    made = [(0, event(b'{"role":"assistant","content":%b,"refusal":null}' % content))]
    made += [(tokens, event(delta)) for tokens, delta in _deltas(told)]
    made.append((0, event(b"{}", b'"%b"' % told.finish_reason.encode())))
    if include_usage:
        made.append((0, head + b'],"usage":%b}\n\n' % _usage(told)))
    made.append((0, DONE))
    return made


def _deltas(told: Told) -> list[tuple[int, bytes]]:
    """The pieces of the text, or of the call: first its name, then its arguments."""
    if told.called is None:
        return [(count_tokens(piece), b'{"content":%b}' % _encode(piece)) for piece in _piece.findall(told.text)]
    first = told.called._replace(arguments="")
    deltas = [(count_tokens(first.name), b'{"tool_calls":[{"index":0,%b]}' % _call(first).removeprefix(b"{"))]
    for piece in _piece.findall(told.called.arguments):
        arguments = b'{"tool_calls":[{"index":0,"function":{"arguments":%b}}]}' % _encode(piece)
        deltas.append((count_tokens(piece), arguments))
    return deltas


def error_event(body: bytes) -> bytes:
    """An error in the middle of a stream: the error body as an event."""
    return b"data: %b\n\n" % body


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None, **more: Any) -> bytes:
    """OpenAI's error shape; `more` are further keys, as Azure has them."""
    return _encode({"error": {"message": message, "type": kind, "param": param, "code": code, **more}})


_SAFE = {"filtered": False, "severity": "safe"}
_FILTERED = {
    "code": "ResponsibleAIPolicyViolation",
    "content_filter_result": {
        "hate": _SAFE,
        "jailbreak": {"filtered": False, "detected": False},
        "self_harm": _SAFE,
        "sexual": _SAFE,
        "violence": {"filtered": True, "severity": "high"},
    },
}

REFUSALS: dict[str, tuple[int, bytes]] = {
    "invalid_request": (400, error_body("Refused on request.", "invalid_request_error", param="messages")),
    "too_long": (
        400,
        error_body(
            "This model's maximum context length is 8192 tokens. Please reduce the length of the messages.",
            "invalid_request_error",
            "context_length_exceeded",
            "messages",
        ),
    ),
    "content_filter": (
        400,
        error_body(
            "The response was filtered due to the prompt triggering the content management policy.",
            "invalid_request_error",
            "content_filter",
            "prompt",
            status=400,
            innererror=_FILTERED,
        ),
    ),
    "bad_key": (401, error_body("Incorrect API key provided.", "invalid_request_error", "invalid_api_key")),
    "model_not_found": (404, error_body("The model does not exist.", "invalid_request_error", "model_not_found")),
    "no_credit": (
        429,
        error_body(
            "You exceeded your current quota, please check your plan and billing details.",
            "insufficient_quota",
            "insufficient_quota",
        ),
    ),
    "throttle": (429, error_body("Rate limit reached. Please slow down.", "requests", "rate_limit_exceeded")),
    "throttle_bare": (429, error_body("Rate limit reached. Please slow down.", "requests", "rate_limit_exceeded")),
    "error_500": (500, error_body("The server had an error while processing your request.", "server_error")),
    "error_503": (
        503,
        error_body("The engine is currently overloaded.", "service_unavailable_error", "server_is_overloaded"),
    ),
    "html": (502, b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n"),
    "error_in_200": (200, error_body("upstream worker lost", "server_error")),
}
"""Status and body of every outcome that is the same for each request."""

UNREADABLE = error_body("The request is too large or is not HTTP.", "invalid_request_error")
NOT_FOUND = error_body("Unknown request URL. See GET /v1/models.", "invalid_request_error", "unknown_url")


def unknown_model(model: str) -> bytes:
    """The body of the 404 for a model that is not there."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return error_body(message, "invalid_request_error", "model_not_found", "model")


_ON = {
    "requests": "requests per min (RPM)",
    "tokens": "tokens per min (TPM)",
    "input-tokens": "input tokens per min (ITPM)",
    "output-tokens": "output tokens per min (OTPM)",
    "requests-day": "requests per day (RPD)",
}


def rate_limited(model: str, unit: str, limit: float, used: float, cost: float, wait: float) -> bytes:
    """The body of a 429; `unit` is a key of `_ON`, `wait` in seconds. With an infinite wait it says: too large."""
    on = f"for {model} in organization org-simulated on {_ON[unit]}: Limit {limit:.0f}"
    text = (
        f"Request too large {on}, Requested {cost:.0f}. The input or output must be reduced in order to run."
        if math.isinf(wait)
        else f"Rate limit reached {on}, Used {used:.0f}, Requested {cost:.0f}. Please try again in {duration(wait)}."
    )
    return error_body(text, unit, "rate_limit_exceeded")


def duration(seconds: float) -> str:
    """OpenAI's form of a duration, to the nearest millisecond: `174ms`, `3.89s`, `6m0s`, `1h0m0s`."""
    ms = round(seconds * 1000)
    if ms < 1000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    shown = f"{ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{shown}"
    return f"{minutes}m{shown}" if minutes else shown


def retry_headers(seconds: float) -> list[Header]:
    """`retry-after` in whole seconds, at least 1, and `retry-after-ms`, both rounded up: who waits so long may come."""
    # A hair is taken off first, so that 0.174 s as a float is 174 ms and not 175.
    ms = max(0, math.ceil(seconds * 1000 - 1e-6))
    return [(b"retry-after", b"%d" % max(1, -(-ms // 1000))), (b"retry-after-ms", b"%d" % ms)]


def limit_headers(unit: bytes, limit: float, remaining: float, reset: float) -> list[Header]:
    """`x-ratelimit-*` of one limit; `reset` is the seconds until nothing of it is used any more."""
    return [
        (b"x-ratelimit-limit-" + unit, b"%d" % limit),
        (b"x-ratelimit-remaining-" + unit, b"%d" % max(0.0, remaining)),
        (b"x-ratelimit-reset-" + unit, duration(reset).encode()),
    ]


def garbled_limit_headers(unit: bytes) -> list[Header]:
    """`x-ratelimit-*` whose values are no numbers and no durations."""
    return [
        (b"x-ratelimit-limit-" + unit, b"lots"),
        (b"x-ratelimit-remaining-" + unit, b"-NaN"),
        (b"x-ratelimit-reset-" + unit, b"soon"),
    ]


def models(names: Sequence[str]) -> bytes:
    """The body of `GET /v1/models`."""
    data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "simulator"} for name in names]
    return _encode({"object": "list", "data": data})
