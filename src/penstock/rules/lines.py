"""Results -> lines of OUTPUT: one JSON object a row, or a line of the OpenAI batch format for a row that came as one.

The names of the keys are a promise to users; an unknown cost is null, never 0.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.errors import RequestError
from penstock.records import Response, Result, Usage

_encode = msgspec.json.Encoder().encode


class ErrorLine(msgspec.Struct, frozen=True):
    """`error` of a line."""

    kind: str
    status: int | None
    code: str | None
    message: str


class TracedLine(ErrorLine, frozen=True):
    """`error` of a workflow's line: `trace` says where its own code raised."""

    trace: str | None


class Line(msgspec.Struct, frozen=True):
    """One line of OUTPUT; kept columns follow, and `tool_calls` where the model made some."""

    id: str | int
    index: int
    text: str | None
    finish_reason: str | None
    model: str | None
    usage: Usage | None
    cost: float | None
    attempts: int
    latency_s: float
    error: ErrorLine | None


class WorkflowLine(msgspec.Struct, frozen=True):
    """One line of OUTPUT of a workflow; kept columns follow. `usage` and `cost` are sums over the row's calls."""

    id: str | int
    index: int
    value: Any
    usage: Usage | None
    cost: float | None
    attempts: int
    latency_s: float
    error: TracedLine | None


def output_line(result: Result) -> bytes:
    """The line of a result, without a line end."""
    if result.calls is not None:
        return _workflow_line(result)
    return _batch_line(result) if result.batch else _own_line(result)


def _workflow_line(result: Result) -> bytes:
    error = result.error
    line = WorkflowLine(
        id=result.id,
        index=result.index,
        value=result.value,
        usage=result.usage,
        cost=result.cost,
        attempts=result.attempts,
        latency_s=round(result.latency_s, 4),
        error=None if error is None else TracedLine(*_told(error), error.trace or None),
    )
    return _encode(msgspec.structs.asdict(line) | result.columns if result.columns else line)


def _told(error: RequestError) -> tuple[str, int | None, str | None, str]:
    return error.kind, error.status, error.code, error.message


def _own_line(result: Result) -> bytes:
    response, error = result.response, result.error
    line = Line(
        id=result.id,
        index=result.index,
        text=response.text if response is not None else None,
        finish_reason=response.finish_reason if response is not None else None,
        model=response.model if response is not None else None,
        usage=response.usage if response is not None else None,
        cost=result.cost,
        attempts=result.attempts,
        latency_s=round(result.latency_s, 4),
        error=None if error is None else ErrorLine(*_told(error)),
    )
    further: dict[str, Any] = dict(result.columns)
    if response is not None and response.tool_calls:
        further["tool_calls"] = response.tool_calls
    if not further:
        return _encode(line)
    return _encode(msgspec.structs.asdict(line) | further)


def _batch_line(result: Result) -> bytes:
    """As the provider's own batch service answers: an executed request has a `response`, any other an `error`."""
    response, error = result.response, result.error
    answered: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    if response is not None:
        answered = {"status_code": 200, "request_id": response.request_id, "body": _one_line(response)}
    elif error is not None and error.status is not None and error.status >= 400:
        answered = {"status_code": error.status, "request_id": error.request_id, "body": _error_body(error)}
    elif error is not None:
        failure = {"code": error.code or error.kind, "message": error.message}
    line = {"id": f"batch_req_{result.index}", "custom_id": result.id, "response": answered, "error": failure}
    return _encode(line)


def _error_body(error: RequestError) -> dict[str, Any]:
    return {"error": {"message": error.message, "type": error.kind, "param": None, "code": error.code}}


def _one_line(response: Response) -> msgspec.Raw:
    """The body as received, in one line: a server may send its JSON with line breaks."""
    raw = response.raw
    return msgspec.Raw(msgspec.json.format(raw, indent=-1) if b"\n" in raw or b"\r" in raw else raw)
