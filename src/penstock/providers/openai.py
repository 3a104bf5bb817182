"""OpenAI Chat Completions and everything compatible with it: a request to bytes, an answer to a response or an error.

Decides what an answer is worth: whole, cut off, refused, or an error in disguise. Never sends, waits or tries again.

An answer without a finish reason is whole only where the service is known to leave it out and there is a text or a
tool call; then its finish reason is `other`. Anywhere else it is `truncated`: a generation that did not end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.errors import Kind, RequestError, UsageError
from penstock.providers import delays
from penstock.providers.catalog import OPENAI_FINISH_REASONS, Service
from penstock.providers.endpoint import Endpoint, endpoint_of, headers_of
from penstock.providers.messages import Message, content_parts, first_text, told_reason, tool_calls_of, usage_of
from penstock.providers.plain import plain_response
from penstock.records import FinishReason, HttpAnswer, HttpCall, Request, Response, Told

if TYPE_CHECKING:
    from penstock.providers.failures import Failures
    from penstock.providers.streams import StreamDecoder

# How an answer is asked for is ours to say: `decode` could not read a stream that was billed.
_WHOLE_ANSWERS_ONLY = frozenset({"stream", "stream_options"})

_PASSED_ON = (b"retry-after", b"x-ratelimit-", b"anthropic-ratelimit-", b"openai-processing-ms")

# Shorter than any real key: replacing it would garble messages (`x` is a usual stand-in for Ollama).
_SHORTEST_SECRET = 6


class Choice(msgspec.Struct):
    """What a generation came to, as sent."""

    message: Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _Completion(msgspec.Struct):
    choices: list[Choice | None] | None = None
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
    def _failures(self) -> Failures:
        """What tells of an answer that is none."""
        from penstock.providers.failures import Failures

        return Failures(self)

    @property
    def service(self) -> Service:
        """Which service of the family this is."""
        return self._service

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
            raise self._failures.unwritable(cause) from cause

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
        from penstock.providers.streams import RelayDecoder, StreamDecoder

        kind = RelayDecoder if relay else StreamDecoder
        return kind(self, self._service, HttpAnswer(status, headers, b""), wall)

    def limits(self, answer: HttpAnswer, wall: float) -> dict[str, Told]:
        """What an answer of any status tells of the account's limits, by the budget's name."""
        return delays.limits_of(self._service.name, answer, wall)

    def passed_on(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The headers of an answer that are meant for whoever asks through us: limits, waits, the provider's own time."""
        secret = self._secret.encode() if len(self._secret) >= _SHORTEST_SECRET else None
        return [
            (lowered, value)
            for name, value in headers
            if (lowered := name.lower()).startswith(_PASSED_ON) and (secret is None or secret not in value)
        ]

    def decode(self, answer: HttpAnswer, wall: float, *, accepted: bool = False) -> Response:
        """The response of an answer; raises a typed `RequestError`. `wall` is Unix seconds, for dates in headers.

        One that was `accepted` before may lack its finish reason, whatever is known of the service.
        """
        if not 200 <= answer.status < 300:
            raise self._failures.of_status(answer, wall)
        request_id = self.request_id(answer.headers)
        if (plain := plain_response(answer, request_id)) is not None:
            return plain
        try:
            return self._response(answer, wall, _DECODER.decode(answer.body), accepted=accepted)
        except (ValueError, RecursionError) as cause:  # not JSON, not UTF-8, of another form, or nested too deep
            raise self._failures.in_success(answer, wall) from cause

    def finish_reason(self, sent: str) -> FinishReason:
        """The reason in our words; `other` for one that is new to us."""
        return self._finish_reasons.get(sent, "other")

    def failure_in_stream(self, event: HttpAnswer, wall: float, *, begun: bool) -> RequestError:
        """The error of an event that is no piece of an answer, its data as the body; `begun` where some had come."""
        return self._failures.in_success(event, wall, begun=begun)

    def unusable_stream(self, answer: HttpAnswer, wall: float, kind: Kind, reason: str) -> RequestError:
        """The error of a stream that cannot become an answer, for a reason of its own and not of an event."""
        return self._failures.unusable(answer, wall, kind, reason)

    def revive(self, body: bytes) -> Response:
        """The response of a body that `decode` once accepted; its `request_id`, which stood in a header, is None."""
        return self.decode(HttpAnswer(200, [], body), 0.0, accepted=True)

    def _response(self, answer: HttpAnswer, wall: float, completion: _Completion, *, accepted: bool) -> Response:
        choice = completion.choices[0] if completion.choices else None
        if choice is None or completion.error or choice.error:
            raise self._failures.in_success(answer, wall, choice)
        message = choice.message or Message()
        content = message.content
        text, thoughts = (content, "") if isinstance(content, str) else content_parts(content)
        calls = tool_calls_of(message) if message.tool_calls or message.function_call else ()
        refusal = message.refusal if isinstance(message.refusal, str) else ""
        reason = self._finish_reason(choice, has_content=bool(text or calls or refusal), accepted=accepted)
        if reason is None or reason == "error" or (choice.message is None and reason != "content_filter"):
            raise self._failures.in_success(answer, wall, choice)
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

    def _finish_reason(self, choice: Choice, *, has_content: bool, accepted: bool = False) -> FinishReason | None:
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
                    return self.without_secret(value.decode("latin-1").strip())
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

    def without_secret(self, text: str) -> str:
        """The text as it may be shown, should the service have repeated the key in it."""
        return text.replace(self._secret, "[key]") if len(self._secret) >= _SHORTEST_SECRET else text


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
