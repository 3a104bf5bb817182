"""What a client of the server is told: errors with all four keys, statuses, and the headers that make official clients back off.

Decides by tables, and sends nothing. The wire is that of the OpenAI API, whatever provider is behind it.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from penstock.errors import Kind, RequestError

Headers: TypeAlias = list[tuple[bytes, bytes]]

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
CLOSE: tuple[bytes, bytes] = (b"connection", b"close")
UPSTREAM_ID = b"x-penstock-upstream-request-id"
LONGEST_RETRY_AFTER = 120.0
"""The OpenAI SDK does not retry at all when it is told to wait longer."""

STATUS: dict[Kind, int] = {
    "connect": 502,
    "timeout": 504,
    "disconnected": 502,
    "rate_limited": 429,
    "overloaded": 503,
    "server_error": 502,
    "invalid_request": 400,
    "context_too_long": 400,
    "content_blocked": 400,
    "not_found": 404,
    "auth": 401,
    "billing": 402,
    "truncated": 502,
    "malformed": 502,
    "too_large": 502,
    "never_fits": 400,
    "input": 400,
    "deadline": 504,
    "schema": 502,
    "workflow": 500,
}
"""For errors that came without a status of their own, or with one that says "ok"."""

CODE: dict[Kind, str] = {
    "rate_limited": "rate_limit_exceeded",
    "context_too_long": "context_length_exceeded",
    "content_blocked": "content_policy_violation",
    "not_found": "model_not_found",
    "auth": "invalid_api_key",
    "billing": "insufficient_quota",
    "never_fits": "request_too_large",
}
"""OpenAI's words where it has one; elsewhere our kind is the code."""

_TYPE = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorFields(msgspec.Struct, frozen=True):
    """`error` of a body: all four are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of an error."""

    error: ErrorFields


class Reply(msgspec.Struct, frozen=True):
    """A whole answer to a client."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)


class Turned(Exception):
    """A request that the server itself turns away, with the reply that its client gets."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


_encode = msgspec.json.Encoder().encode


def error_reply(status: int, message: str, *, code: str | None = None, param: str | None = None) -> Reply:
    """An error of the server's own."""
    return Reply(status, _encode(ErrorBody(ErrorFields(message, type_of(status), param, code))))


def closing(reply: Reply) -> Reply:
    """The same as the last answer of a connection: what is left of the request's body is not read."""
    return Reply(reply.status, reply.body, (*reply.headers, CLOSE))


def type_of(status: int) -> str:
    """The type of an error that the provider has not given one."""
    return _TYPE.get(status, "server_error" if status >= 500 else "invalid_request_error")


def upstream_header(request_id: str | None) -> Headers:
    """The provider's id of a request as a header; none where there is none, or it is none that a header can carry."""
    sendable = request_id and request_id.isascii() and request_id.isprintable()
    return [(UPSTREAM_ID, request_id.encode())] if request_id and sendable else []


def reply_to(error: RequestError, *, sends: int = 0) -> Reply:
    """The reply to a request that came to nothing after `sends`. Nobody is to retry what was retried here already."""
    status = status_of(error)
    headers = [JSON, *(header for header in error.headers if not header[0].startswith(b"retry-after"))]
    headers += upstream_header(error.request_id)
    if status in (429, 503) and error.retry_after is not None:
        wait = min(error.retry_after, LONGEST_RETRY_AFTER)
        headers += [(b"retry-after", b"%d" % max(1, round(wait + 0.499))), (b"retry-after-ms", b"%d" % (wait * 1000))]
    if status >= 500 or status == 408 or sends > 1 or error.kind == "billing":  # no wait fills an empty account
        headers.append((b"x-should-retry", b"false"))
    return Reply(status, error_body(error), tuple(headers))


def status_of(error: RequestError) -> int:
    """The provider's own status, or what stands for the kind."""
    return error.status if error.status is not None and error.status >= 400 else STATUS[error.kind]


def error_body(error: RequestError) -> bytes:
    """In the provider's own words where it used some."""
    fields = ErrorFields(
        message=error.said or error.message,
        type=error.type or type_of(status_of(error)),
        param=error.param,
        code=error.code or CODE.get(error.kind, error.kind),
    )
    return _encode(ErrorBody(fields))
