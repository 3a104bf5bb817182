"""OpenAI Chat Completions and everything compatible with it: a request to bytes, an answer to a response or an error.

Decides what an answer is worth: whole, cut off, refused, or an error in disguise. Never sends, waits or tries again.

An answer without a finish reason is whole only where the service is known to leave it out and there is a text or a
tool call; then its finish reason is `other`. Anywhere else it is `truncated`: a generation that did not end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.errors import Kind, RequestError, UsageError, request_error
from penstock.providers import delays, error_kinds
from penstock.providers.catalog import OPENAI_FINISH_REASONS, Service
from penstock.providers.endpoint import Endpoint, endpoint_of, headers_of
from penstock.providers.error_bodies import ErrorBody, one_line, read_error
from penstock.records import FinishReason, HttpAnswer, HttpCall, Request, Response, Told, ToolCall, Usage

_KINDS_WORTH_A_WAIT = frozenset({"rate_limited", "overloaded", "server_error"})

# A row that asks for a stream would be answered, and billed, in a form that `decode` cannot read.
_WHOLE_ANSWERS_ONLY = frozenset({"stream", "stream_options"})

# Shorter than any real key: replacing it would garble messages (`x` is a usual stand-in for Ollama).
_SHORTEST_SECRET = 6

# No answer has more; larger numbers are nonsense that would overflow what counts them.
_MOST_TOKENS = 10**12


class _Message(msgspec.Struct):
    content: str | list[Any] | None = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    reasoning_content: Any = None
    reasoning: Any = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _Completion(msgspec.Struct):
    choices: list[_Choice | None] | None = None
    model: Any = None
    usage: Any = None
    error: Any = None


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_Completion)


class ChatCompletions:
    """`ports.Provider` for one service, one base URL and one key; made by `chat_completions`."""

    __slots__ = ("_dropped", "_endpoint", "_finish_reasons", "_headers", "_secret", "_service")

    def __init__(self, service: Service, endpoint: Endpoint, headers: tuple[tuple[str, str], ...], secret: str) -> None:
        self._service = service
        self._endpoint = endpoint
        self._headers = headers
        self._secret = secret
        self._finish_reasons = OPENAI_FINISH_REASONS | service.finish_reasons
        self._dropped = service.dropped | _WHOLE_ANSWERS_ONLY

    def __repr__(self) -> str:
        return f"ChatCompletions({self._service.name!r})"

    @property
    def name(self) -> str:
        """The provider's word in a model name, such as `openai`."""
        return self._service.name

    def encode(self, request: Request, model: str) -> bytes:
        """The body: model, messages, then the parameters in the order given.

        Parameters pass through untouched but for the service's renamed and dropped ones; `stream` is dropped
        everywhere. Raises `RequestError` of kind `input` for what JSON cannot hold.
        """
        head = {"model": model, "messages": request.messages}
        params = request.params
        if params and not (params.keys().isdisjoint(self._service.renamed) and params.keys().isdisjoint(self._dropped)):
            params = self._adapted(params)
        try:
            return _ENCODER.encode({**head, **params, **head} if params else head)
        except (TypeError, ValueError, OverflowError, RecursionError) as cause:
            raise request_error("input", f"the request cannot be written as JSON: {one_line(str(cause))}") from cause

    def call(self, body: bytes, model: str) -> HttpCall:
        """The HTTP call that carries a body; `model` matters only where it stands in the URL."""
        return HttpCall(self._endpoint.url(model), self._headers, body)

    def limits(self, answer: HttpAnswer, wall: float) -> dict[str, Told]:
        """What an answer of any status tells of the account's limits, by the budget's name."""
        return delays.limits_of(self._service.name, answer, wall)

    def decode(self, answer: HttpAnswer, wall: float) -> Response:
        """The response of an answer; raises a typed `RequestError`. `wall` is Unix seconds, for dates in headers."""
        if not 200 <= answer.status < 300:
            raise self._failure(answer, wall)
        try:
            return self._response(answer, wall, _DECODER.decode(answer.body))
        except (ValueError, RecursionError) as cause:  # not JSON, not UTF-8, of another form, or nested too deep
            raise self._failure_in_success(answer, wall) from cause

    def revive(self, body: bytes) -> Response:
        """The response of a body that `decode` once accepted; its `request_id`, which stood in a header, is None."""
        return self.decode(HttpAnswer(200, [], body), 0.0)

    def _response(self, answer: HttpAnswer, wall: float, completion: _Completion) -> Response:
        choice = completion.choices[0] if completion.choices else None
        if choice is None or completion.error or choice.error:
            raise self._failure_in_success(answer, wall, choice)
        message = choice.message or _Message()
        content = message.content
        text, thoughts = (content, "") if isinstance(content, str) else _parts(content)
        calls = _tool_calls(message) if message.tool_calls or message.function_call else ()
        refusal = message.refusal if isinstance(message.refusal, str) else ""
        reason = self._finish_reason(choice, has_content=bool(text or calls or refusal))
        if reason is None or reason == "error" or (choice.message is None and reason != "content_filter"):
            raise self._failure_in_success(answer, wall, choice)
        if calls and reason == "stop":
            reason = "tool_calls"  # a forced call ends with `stop`
        return Response(
            text=refusal or text,
            finish_reason="refusal" if refusal else reason,
            model=completion.model if isinstance(completion.model, str) else "",
            usage=_usage(completion.usage),
            reasoning=_first_text(message.reasoning_content, message.reasoning) or thoughts,
            tool_calls=calls,
            request_id=self._request_id(answer.headers),
            raw=answer.body,
        )

    def _finish_reason(self, choice: _Choice, *, has_content: bool) -> FinishReason | None:
        """The reason in our words; None where the generation did not end."""
        if choice.finish_reason:
            return self._finish_reasons.get(choice.finish_reason, "other")
        return "other" if self._service.finish_reason_optional and has_content else None

    def _request_id(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        for name in self._service.request_id_headers:
            length = len(name)
            for key, value in headers:
                if len(key) == length and key.lower() == name:  # comparing lengths first spares most of the work
                    return self._without_secret(value.decode("latin-1").strip())
        return None

    def _adapted(self, params: dict[str, Any]) -> dict[str, Any]:
        """Parameters under the names that the service knows; one that the user named so himself wins."""
        renamed = self._service.renamed
        adapted: dict[str, Any] = {}
        for name, value in params.items():
            if name in self._dropped or renamed.get(name) in params:
                continue
            adapted[renamed.get(name, name)] = value
        return adapted

    def _failure(self, answer: HttpAnswer, wall: float) -> RequestError:
        """The error of an answer that is no 2xx."""
        error = read_error(answer.body)
        named_wait = delays.wait_in_headers(answer, wall) is not None
        kind = error_kinds.kind_of(self._service.name, answer.status, error, named_wait=named_wait)
        message = f"{self._service.name} answered {answer.status}: {self._told(error) or 'no reason given'}"
        return self._error(answer, wall, error, kind, message + self._advice(kind))

    def _failure_in_success(self, answer: HttpAnswer, wall: float, choice: _Choice | None = None) -> RequestError:
        """The error of a 2xx that is no answer: an error body, a choice given up, or nothing that can be read."""
        error = read_error(answer.body)
        if not error.reported and choice is not None and choice.error:
            error = read_error(_ENCODER.encode({"error": choice.error}))
        name, status = self._service.name, answer.status
        if error.reported:
            message = f"{name} answered {status} with an error in it: {self._told(error) or 'no reason given'}"
            kind = error_kinds.kind_in_success(name, error)
            return self._error(answer, wall, error, kind, message + self._advice(kind), maybe_billed=choice is not None)
        kind, reason = self._why_useless(choice, error)
        return self._error(answer, wall, error, kind, f"{name} answered {status} with {reason}", maybe_billed=True)

    def _why_useless(self, choice: _Choice | None, error: ErrorBody) -> tuple[Kind, str]:
        if choice is None:
            return "malformed", f"nothing that can be read as an answer: {self._told(error) or 'it has no choice'}"
        if choice.error or self._finish_reason(choice, has_content=True) == "error":
            return "server_error", f"an answer given up half-way: finish_reason {choice.finish_reason!r}"
        if not choice.finish_reason:
            return "truncated", "an answer that did not end: it has no finish_reason"
        return "malformed", "a choice without a message"

    def _error(
        self, answer: HttpAnswer, wall: float, error: ErrorBody, kind: Kind, message: str, *, maybe_billed: bool = False
    ) -> RequestError:
        return request_error(
            kind,
            message,
            status=answer.status,
            code=self._without_secret(error.code) if error.code else None,
            request_id=self._request_id(answer.headers) or self._without_secret(error.request_id or "") or None,
            retry_after=delays.retry_after(answer, error, wall) if kind in _KINDS_WORTH_A_WAIT else None,
            # A sample that failed its form was generated, and may be charged for, whatever the status.
            maybe_billed=maybe_billed or kind == "malformed",
        )

    def _told(self, error: ErrorBody) -> str:
        return one_line(self._without_secret(error.message))

    def _without_secret(self, text: str) -> str:
        return text.replace(self._secret, "[key]") if len(self._secret) >= _SHORTEST_SECRET else text

    def _advice(self, kind: Kind) -> str:
        variables = " or ".join(self._service.key_variables) or "the key"
        advice = {
            "auth": f" (check {variables}, and what this key may use)",
            "billing": " (add credit or raise the spending limit, then run again)",
            "not_found": " (check the model's name and the base URL)",
        }
        return advice.get(kind, "")


def chat_completions(
    service: Service,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ChatCompletions:
    """The provider for a service. `headers` are sent along, and replace ours of the same name.

    Raises `UsageError` for a base URL or key that cannot be right, or that is missing.
    """
    elsewhere = base_url is not None and service.base_url is not None and not base_url.startswith(service.base_url)
    if service.key_needed and not api_key and not headers and not elsewhere:
        raise UsageError(f"{service.name} needs a key: set {' or '.join(service.key_variables)}")
    return ChatCompletions(
        service, endpoint_of(service, base_url), headers_of(service, api_key, headers or {}), api_key or ""
    )


def _parts(content: list[Any] | None) -> tuple[str, str]:
    """Text and thoughts of content that comes as an array of parts, as Mistral's does."""
    texts, thoughts = [], []
    for part in content or ():
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            texts.append(_first_text(part.get("text")))
            thinking = part.get("thinking")
            thoughts.append(_parts(thinking)[0] if isinstance(thinking, list) else _first_text(thinking))
    return "".join(texts), "".join(thoughts)


def _tool_calls(message: _Message) -> tuple[ToolCall, ...]:
    calls = message.tool_calls if isinstance(message.tool_calls, list) else []
    if not calls and isinstance(message.function_call, dict):  # the form before tools
        calls = [{"function": message.function_call}]
    return tuple(_tool_call(call) for call in calls if isinstance(call, dict))


def _tool_call(call: dict[str, Any]) -> ToolCall:
    function = call.get("function") or call.get("custom")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments", function.get("input", ""))
    if not isinstance(arguments, str):
        arguments = _ENCODER.encode(arguments).decode()
    return ToolCall(id=_first_text(call.get("id")), name=_first_text(function.get("name")), arguments=arguments)


def _first_text(*values: Any) -> str:
    return next((value for value in values if value and isinstance(value, str)), "")


def _usage(usage: Any) -> Usage | None:
    """Cached tokens are part of the input, reasoning tokens of the output; DeepSeek counts hits at the top level."""
    if not isinstance(usage, dict) or not ("prompt_tokens" in usage or "completion_tokens" in usage):
        return None
    of_prompt, of_completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    cached = of_prompt.get("cached_tokens") if isinstance(of_prompt, dict) else None
    reasoning = of_completion.get("reasoning_tokens") if isinstance(of_completion, dict) else None
    return Usage(
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _count(cached if cached is not None else usage.get("prompt_cache_hit_tokens")),
        _count(reasoning),
    )


def _count(value: Any) -> int:
    """A number of tokens, which some servers write as a float or as text; 0 for what is none."""
    if isinstance(value, str):
        value = int(value) if value.isdecimal() and len(value) < 16 else 0
    if type(value) is float:
        value = int(value) if value.is_integer() else 0
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0
