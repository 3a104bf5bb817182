"""The error of an answer that is none: what was said, of which kind it is, what it tells and what to do about it.

Decides how an error is told. Never shows the key. It is loaded when a first answer fails, for most of them do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from penstock.errors import Kind, RequestError, request_error
from penstock.providers import delays, error_kinds
from penstock.providers.error_bodies import ErrorBody, one_line, read_error
from penstock.records import HttpAnswer

if TYPE_CHECKING:
    from penstock.providers.openai import ChatCompletions, Choice

_KINDS_WORTH_A_WAIT = frozenset({"rate_limited", "overloaded", "server_error"})


class Failures:
    """The errors of one provider. `wall` is Unix seconds, for dates in headers."""

    __slots__ = ("_provider",)

    def __init__(self, provider: ChatCompletions) -> None:
        self._provider = provider

    def unwritable(self, cause: Exception) -> RequestError:
        """Of a request that JSON cannot hold."""
        return request_error("input", f"the request cannot be written as JSON: {one_line(str(cause))}")

    def of_status(self, answer: HttpAnswer, wall: float) -> RequestError:
        """Of an answer that is no 2xx."""
        error = read_error(answer.body)
        named_wait = delays.wait_in_headers(answer, wall) is not None
        kind = error_kinds.kind_of(self._provider.name, answer.status, error, named_wait=named_wait)
        message = f"{self._provider.name} answered {answer.status}: {self._told(error) or 'no reason given'}"
        return self._error(answer, wall, error, kind, message + self._advice(kind))

    def in_success(
        self, answer: HttpAnswer, wall: float, choice: Choice | None = None, *, begun: bool = False
    ) -> RequestError:
        """Of a 2xx that is no answer: an error body, a choice given up, or nothing that can be read."""
        error = read_error(answer.body)
        if not error.reported and choice is not None and choice.error:
            error = read_error(msgspec.json.encode({"error": choice.error}))
        name, status = self._provider.name, answer.status
        if error.reported:
            message = f"{name} answered {status} with an error in it: {self._told(error) or 'no reason given'}"
            kind, begun = error_kinds.kind_in_success(name, error), begun or choice is not None
            return self._error(answer, wall, error, kind, message + self._advice(kind), maybe_billed=begun)
        kind, reason = self._why_useless(choice, error)
        return self._error(answer, wall, error, kind, f"{name} answered {status} with {reason}", maybe_billed=True)

    def unusable(self, answer: HttpAnswer, wall: float, kind: Kind, reason: str) -> RequestError:
        """Of a stream that cannot become an answer, for a reason of its own and not of an event."""
        message = f"{self._provider.name} answered {answer.status} with {reason}; it may be billed"
        return self._error(answer, wall, ErrorBody(""), kind, message, maybe_billed=True)

    def _why_useless(self, choice: Choice | None, error: ErrorBody) -> tuple[Kind, str]:
        if choice is None:
            return "malformed", f"nothing that can be read as an answer: {self._told(error) or 'it has no choice'}"
        if choice.error or self._provider.finish_reason(choice.finish_reason or "") == "error":
            return "server_error", f"an answer given up half-way: finish_reason {choice.finish_reason!r}"
        if not choice.finish_reason:
            return "truncated", "an answer that did not end: it has no finish_reason"
        return "malformed", "a choice without a message"

    def _error(
        self, answer: HttpAnswer, wall: float, error: ErrorBody, kind: Kind, message: str, *, maybe_billed: bool = False
    ) -> RequestError:
        provider = self._provider
        return request_error(
            kind,
            message,
            status=answer.status,
            code=provider.without_secret(error.code) if error.code else None,
            request_id=provider.request_id(answer.headers) or provider.without_secret(error.request_id or "") or None,
            said=self._told(error),
            type=provider.without_secret(error.type) if error.type else None,
            param=provider.without_secret(error.param) if error.param else None,
            headers=tuple(provider.passed_on(answer.headers)),
            retry_after=delays.retry_after(answer, error, wall) if kind in _KINDS_WORTH_A_WAIT else None,
            # A sample that failed its form was generated, and may be charged for, whatever the status.
            maybe_billed=maybe_billed or kind == "malformed",
        )

    def _told(self, error: ErrorBody) -> str:
        return one_line(self._provider.without_secret(error.message))

    def _advice(self, kind: Kind) -> str:
        variables = " or ".join(self._provider.service.key_variables) or "the key"
        advice = {
            "auth": f" (check {variables}, and what this key may use)",
            "billing": " (add credit or raise the spending limit, then run again)",
            "not_found": " (check the model's name and the base URL)",
        }
        return advice.get(kind, "")
