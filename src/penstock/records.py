"""Values that travel between the rooms. They hold, compare and print themselves; they never decide, wait or touch the world.

Secrets are not in here: a key is a header that the transport adds, never a field of a request or a result.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from penstock.errors import RequestError

T = TypeVar("T")

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "refusal", "error", "other"]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one answer as the provider counted them; cached are part of input, reasoning part of output."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class ToolCall(msgspec.Struct, frozen=True):
    """One call that the model asks for; `arguments` is the JSON text as the model wrote it, which may be invalid."""

    id: str
    name: str
    arguments: str


class Request(msgspec.Struct, frozen=True):
    """What is asked, in the provider-neutral form: chat messages and every further parameter of the body.

    `model` is the bare name that the provider knows; None means the client's own model.
    """

    messages: list[dict[str, Any]]
    model: str | None = None
    params: dict[str, Any] = {}


class Response(msgspec.Struct, frozen=True):
    """One whole answer. `usage` is None where the provider sent none; `raw` is its body as received.

    `value` is what a `response_model` makes of it; `discarded` the usage of earlier answers that had not its form.
    """

    text: str
    finish_reason: FinishReason
    model: str
    usage: Usage | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    request_id: str | None = None
    raw: bytes = b""
    value: Any = None
    discarded: tuple[Usage | None, ...] = ()

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Response({self.text!r}, {self.finish_reason!r}, {self.model!r}, {self.usage!r})"


class Structured(Response, Generic[T], frozen=True, kw_only=True):
    """A `Response` whose text was read into a `value` of its `response_model`."""

    value: T


class ToolCallPart(msgspec.Struct, frozen=True):
    """A piece of one tool call: `index` is the call's place in `Response.tool_calls`, `arguments` what is to be added.

    `id` and `name` are empty where this piece does not tell them.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A piece of an answer under way: what it adds.

    The texts of all chunks joined are the text of the `Response`, and so are the reasonings. `finish_reason` is told
    when it becomes known, and again where a later one says more. `usage` counts the whole answer so far: a later one
    replaces it and is never added. `raw` is the data of its event as received, on one line, where a stream is relayed.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallPart, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    restarted: bool = False
    raw: bytes = b""

    def __repr__(self) -> str:
        shown = f"{self.text[:40]}..." if len(self.text) > 40 else self.text
        told = {"reasoning": self.reasoning[:40], "tool_calls": self.tool_calls, "finish_reason": self.finish_reason}
        further = [f"{name}={value!r}" for name, value in (told | {"usage": self.usage}).items() if value]
        return f"Chunk({', '.join([repr(shown), *further])})"


class HttpCall(msgspec.Struct, frozen=True):
    """One HTTP request as a provider shapes it. `url` is whole; `headers` are complete but for Host and length."""

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    method: str = "POST"

    def __repr__(self) -> str:
        # Headers carry the key: a repr shows up in logs and tracebacks, so it names only what is harmless.
        return f"HttpCall({self.method} {self.url.split('?')[0]}, {len(self.body)} bytes)"


class HttpAnswer(msgspec.Struct, frozen=True):
    """One whole HTTP answer; header names as the server wrote them."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def __repr__(self) -> str:
        # Headers and body may repeat what must not be shown, a key in an error text for one.
        return f"HttpAnswer({self.status}, {len(self.body)} bytes)"

    def header(self, name: bytes) -> str | None:
        """The first header of that (lower-case) name, decoded as Latin-1, which never fails."""
        for key, value in self.headers:
            if key.lower() == name:
                return value.decode("latin-1").strip()
        return None


class Told(msgspec.Struct, frozen=True):
    """What the headers of one answer tell of one limit: units in its period, what is left, seconds until it is whole again."""

    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None


class RawRow(msgspec.Struct, frozen=True):
    """One row as the input has it. `where` is `FILE:LINE` for messages; `values` is a mapping or, for a bare prompt, text.

    `error` is set, and `values` empty, where the row could not be read at all.
    """

    index: int
    where: str
    values: Any
    error: str | None = None


class Row(msgspec.Struct, frozen=True):
    """One row ready to be sent: its place in the output, its name there, its request, the columns kept for the output.

    `batch` marks a line of the OpenAI batch format, which is answered in that format.
    """

    index: int
    id: str | int
    request: Request
    columns: dict[str, Any] = {}
    batch: bool = False


class Calls(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the calls of one row of a workflow came to.

    `answers` is how many it was given, those from the ledger and those that were `dropped` (they had not the form that was
    asked for) among them; `usage` sums them up, None where one of them told none. `unused` were recorded by an earlier
    session and not asked for again, at `unused_cost` (None where a price is unknown).
    """

    answers: int = 0
    dropped: int = 0
    usage: Usage | None = None
    unused: int = 0
    unused_cost: float | None = 0.0


class Result(msgspec.Struct, frozen=True):
    """What became of one row: a `response` or an `error`, never both.

    `attempts` counts sends; `ambiguous` those of them that may be billed and whose answer is lost; `latency_s` is the
    time from the first send to the end; `cost` is in US dollars, None where the price is unknown; `reused` is true
    where the answer came from the ledger or from an equal row and nothing was sent.

    `first_token_s` is the time from the send to the first piece of a streamed answer, None for one out of the ledger.

    `ended` is when the row was over, in Unix seconds, of a result out of a ledger (None where an older version recorded it).

    A row of a workflow has `calls` and, unless it failed, the `value` that its function gave back; `attempts`, `ambiguous`
    and `cost` are sums over its calls then. So it is for a row with a `response_model`, whose `value` is one and is that of
    its `response`.
    """

    index: int
    id: str | int
    response: Response | None = None
    error: RequestError | None = None
    attempts: int = 0
    ambiguous: int = 0
    latency_s: float = 0.0
    cost: float | None = None
    columns: dict[str, Any] = {}
    batch: bool = False
    reused: bool = False
    value: Any = None
    calls: Calls | None = None
    first_token_s: float | None = None
    ended: float | None = None

    @property
    def ok(self) -> bool:
        """True where there is an answer, or the value of a workflow."""
        return self.error is None

    @property
    def usage(self) -> Usage | None:
        """Tokens of the answer, or of all answers that a workflow was given; None where they are not known."""
        if self.calls is not None:
            return self.calls.usage
        return self.response.usage if self.response is not None else None

    @property
    def text(self) -> str | None:
        """The answer's text, None where the row failed: an error text never passes as an answer."""
        return self.response.text if self.response is not None else None

    def unwrap(self) -> Response:
        """The response; raises the row's `RequestError` where there is none. A workflow's row has a `value` instead."""
        if self.error is not None:
            raise self.error
        assert self.response is not None, "a workflow's row has no response: take its `value`"
        return self.response


class RowChunk(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer to one row: the row's place in the input, its name, and what the piece adds."""

    index: int
    id: str | int
    chunk: Chunk


class Entry(msgspec.Struct, frozen=True):
    """One row of a ledger: place, identity of the request, what became of it, and the bytes to tell it again.

    `state` is one of the codes in `rules.identity` (answered, refused, failed); `meta` is JSON of what Penstock adds;
    `body` is the provider's answer as received, or the error as JSON.
    """

    index: int
    request: bytes
    state: int
    meta: bytes
    body: bytes


class Call(msgspec.Struct, frozen=True):
    """One call of a workflow's row as a ledger keeps it: what became of it, and which of the row's equal requests it was.

    `number` is where it stands in the ledger, 0 where it is new: a call that has one takes the place of that one.
    """

    entry: Entry
    occurrence: int
    number: int = 0
