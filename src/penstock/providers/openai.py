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
from penstock.providers.messages import Message, content_parts, first_text, told_reason, tool_calls_of, usage_of
from penstock.providers.plain import plain_response
from penstock.providers.streams import RelayDecoder, StreamDecoder
from penstock.records import FinishReason, HttpAnswer, HttpCall, Request, Response, Told

_KINDS_WORTH_A_WAIT = frozenset({"rate_limited", "overloaded", "server_error"})

# How an answer is asked for is ours to say: `decode` could not read a stream that was billed.
_WHOLE_ANSWERS_ONLY = frozenset({"stream", "stream_options"})

_PASSED_ON = (b"retry-after", b"x-ratelimit-", b"anthropic-ratelimit-", b"openai-processing-ms")

# Shorter than any real key: replacing it would garble messages (`x` is a usual stand-in for Ollama).
_SHORTEST_SECRET = 6


class _Choice(msgspec.Struct):
    message: Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _Completion(msgspec.Struct):
    choices: list[_Choice | None] | None = None
    model: Any = None
    usage: Any = None
    error: Any = None


_STREAM = b',"stream":true}'
_STREAM_WITH_USAGE = b',"stream":true,"stream_options":{"include_usage":true}}'

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

    def stream_call(self, body: bytes, model: str) -> HttpCall:
        """The HTTP call that asks for the answer to a body of `encode` as a stream, with its usage where that is known.

        The body itself stays what identity is taken of: a streamed answer is one to the same request.
        """
        asked = _STREAM_WITH_USAGE if self._service.stream_options else _STREAM
        return self.call(body.removesuffix(b"}") + asked, model)

    def decoder(
        self, status: int, headers: list[tuple[bytes, bytes]], wall: float, *, relay: bool = False
    ) -> StreamDecoder:
        """What reads the answer to a `stream_call`, of any status; made once its head is there, for that one answer.

        To `relay`, every event that is part of the answer becomes a chunk, with its data in `raw`.
        """
        kind = RelayDecoder if relay else StreamDecoder
        return kind(self, self._service, HttpAnswer(status, headers, b""), wall)

    def limits(self, answer: HttpAnswer, wall: float) -> dict[str, Told]:
        """What an answer of any status tells of the account's limits, by the budget's name."""
        return delays.limits_of(self._service.name, answer, wall)

    def passed_on(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The headers of an answer that are meant for whoever asks through us: limits, waits, the provider's own time."""
        secret = self._secret.encode() if len(self._secret) >= _SHORTEST_SECRET else None
        named = ((name.lower(), value) for name, value in headers)
        return [
            (name, value)
            for name, value in named
            if name.startswith(_PASSED_ON) and (secret is None or secret not in value)
        ]

    def decode(self, answer: HttpAnswer, wall: float, *, accepted: bool = False) -> Response:
        """The response of an answer; raises a typed `RequestError`. `wall` is Unix seconds, for dates in headers.

        One that was `accepted` before may lack its finish reason, whatever is known of the service.
        """
        if not 200 <= answer.status < 300:
            raise self._failure(answer, wall)
        request_id = self.request_id(answer.headers)
        if (plain := plain_response(answer, request_id)) is not None:
            return plain
        try:
            return self._response(answer, wall, _DECODER.decode(answer.body), accepted=accepted)
        except (ValueError, RecursionError) as cause:  # not JSON, not UTF-8, of another form, or nested too deep
            raise self._failure_in_success(answer, wall) from cause

    def finish_reason(self, sent: str) -> FinishReason:
        """The reason in our words; `other` for one that is new to us."""
        return self._finish_reasons.get(sent, "other")

    def failure_in_stream(self, event: HttpAnswer, wall: float, *, begun: bool) -> RequestError:
        """The error of an event that is no piece of an answer, its data as the body; `begun` where some had come."""
        return self._failure_in_success(event, wall, begun=begun)

    def unusable_stream(self, answer: HttpAnswer, wall: float, kind: Kind, reason: str) -> RequestError:
        """The error of a stream that cannot become an answer, for a reason of its own and not of an event."""
        message = f"{self._service.name} answered {answer.status} with {reason}; it may be billed"
        return self._error(answer, wall, ErrorBody(""), kind, message, maybe_billed=True)

    def revive(self, body: bytes) -> Response:
        """The response of a body that `decode` once accepted; its `request_id`, which stood in a header, is None."""
        return self.decode(HttpAnswer(200, [], body), 0.0, accepted=True)

    def _response(self, answer: HttpAnswer, wall: float, completion: _Completion, *, accepted: bool) -> Response:
        choice = completion.choices[0] if completion.choices else None
        if choice is None or completion.error or choice.error:
            raise self._failure_in_success(answer, wall, choice)
        message = choice.message or Message()
        content = message.content
        text, thoughts = (content, "") if isinstance(content, str) else content_parts(content)
        calls = tool_calls_of(message) if message.tool_calls or message.function_call else ()
        refusal = message.refusal if isinstance(message.refusal, str) else ""
        reason = self._finish_reason(choice, has_content=bool(text or calls or refusal), accepted=accepted)
        if reason is None or reason == "error" or (choice.message is None and reason != "content_filter"):
            raise self._failure_in_success(answer, wall, choice)
        return Response(
            text=refusal or text,
            finish_reason=told_reason(reason, has_calls=bool(calls), has_refusal=bool(refusal)),
            model=completion.model if isinstance(completion.model, str) else "",
            usage=usage_of(completion.usage),
            reasoning=first_text(message.reasoning_content, message.reasoning) or thoughts,
            tool_calls=calls,
            request_id=self.request_id(answer.headers),
            raw=answer.body,
        )

    def _finish_reason(self, choice: _Choice, *, has_content: bool, accepted: bool = False) -> FinishReason | None:
        """The reason in our words; None where the generation did not end."""
        if choice.finish_reason:
            return self.finish_reason(choice.finish_reason)
        return "other" if (self._service.finish_reason_optional or accepted) and has_content else None

    def request_id(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        """The provider's own id of a request, by the headers of its answer."""
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

    def _failure_in_success(
        self, answer: HttpAnswer, wall: float, choice: _Choice | None = None, *, begun: bool = False
    ) -> RequestError:
        """The error of a 2xx that is no answer: an error body, a choice given up, or nothing that can be read."""
        error = read_error(answer.body)
        if not error.reported and choice is not None and choice.error:
            error = read_error(_ENCODER.encode({"error": choice.error}))
        name, status = self._service.name, answer.status
        if error.reported:
            message = f"{name} answered {status} with an error in it: {self._told(error) or 'no reason given'}"
            kind, begun = error_kinds.kind_in_success(name, error), begun or choice is not None
            return self._error(answer, wall, error, kind, message + self._advice(kind), maybe_billed=begun)
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
            request_id=self.request_id(answer.headers) or self._without_secret(error.request_id or "") or None,
            said=self._told(error),
            type=self._without_secret(error.type) if error.type else None,
            param=self._without_secret(error.param) if error.param else None,
            headers=tuple(self.passed_on(answer.headers)),
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
