"""What can go wrong, whose fault it is, and what became of the money. This module decides nothing and imports nothing.

    PenstockError
    ├── UsageError             yours: an option or an argument; nothing was sent                        exit 2
    │   ├── InputError         yours: a row that cannot become a request; names file, line and reason
    │   ├── OutputRefused      yours: OUTPUT is the input, or a file that no ledger stands beside
    │   ├── RunChanged         yours: rows or options differ from those that the ledger was made with
    │   └── LedgerLocked       another run holds this ledger
    ├── RunStopped             what dooms every row: key, credit, model, an origin that never answers   exit 3
    │   └── LedgerFailed       the disk would not take or give back what the ledger needs
    ├── LoopMismatch           yours: a Client used on another event loop than its own
    └── RequestError           one request came to nothing; it has a `kind` from the table KINDS
        ├── NotSent            no byte left this machine: free to send again
        ├── NoAnswer           bytes left, no whole answer came: it may have been billed (`maybe_billed`)
        ├── Throttled          the provider said: later
        ├── Unavailable        the provider is in trouble (5xx)
        ├── Refused            the provider will never take this request as it stands
        ├── WorkflowFailed     a workflow's own code raised; its answers are recorded, and `trace` says where
        ├── BadAnswer          an answer came and is not one: cut off, garbled, empty, not of the form, an error in disguise
        └── DeadlineExceeded   the row's own deadline ended it

Errors carry plain fields, so that they can be stored and compared; a message never contains a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, Unpack

if TYPE_CHECKING:
    from penstock.records import Usage

Kind: TypeAlias = Literal[
    "connect",
    "timeout",
    "disconnected",
    "rate_limited",
    "overloaded",
    "server_error",
    "invalid_request",
    "context_too_long",
    "content_blocked",
    "not_found",
    "auth",
    "billing",
    "truncated",
    "malformed",
    "too_large",
    "schema",
    "never_fits",
    "input",
    "deadline",
    "workflow",
]


class PenstockError(Exception):
    """The root: catch it to catch everything that Penstock raises on purpose."""


class UsageError(PenstockError):
    """An option or argument that cannot be right. Nothing was sent."""


class InputError(UsageError):
    """A row that cannot become a request. `where` is `FILE:LINE` (or `row N`), `reason` says what to mend."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        return type(self), (self.where, self.reason)


class OutputRefused(UsageError):
    """OUTPUT is the input itself, or a file that no ledger stands beside: writing would destroy it."""


class RunChanged(UsageError):
    """The rows or the options are not those that the ledger was made with; the message counts what changed."""


class LedgerLocked(UsageError):
    """Another run holds the ledger's lock."""


class RunStopped(PenstockError):
    """The run ended early, on purpose, with everything recorded: run the same command again once the cause is gone.

    `reason` is one of auth, billing, not_found, unreachable, unavailable, disk, process.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[RunStopped], tuple[str, ...]]:
        return type(self), (self.reason, str(self))


class LedgerFailed(RunStopped):
    """The ledger could not be read or written: disk full, no permission, a network file system, damage."""

    def __init__(self, message: str) -> None:
        super().__init__("disk", message)

    def __reduce__(self) -> tuple[type[RunStopped], tuple[str, ...]]:
        return type(self), (str(self),)


class LoopMismatch(PenstockError):
    """A Client belongs to the event loop that it was opened on; another loop needs a Client of its own."""


class ErrorFields(TypedDict, total=False):
    """What a `RequestError` may know beside its kind and message; the meanings stand there."""

    status: int | None
    code: str | None
    request_id: str | None
    retry_after: float | None
    maybe_billed: bool
    trace: str
    discarded: tuple[Usage | None, ...]
    said: str
    type: str | None
    param: str | None
    headers: tuple[tuple[bytes, bytes], ...]


class RequestError(PenstockError):
    """One request came to nothing.

    `kind` says what happened (a word of `Kind`), `status` is the HTTP status if there was an answer, `code` the
    provider's own code, `request_id` what its support asks for, `retry_after` the wait it asked for in seconds.
    `maybe_billed` is true where the provider may have done, and may charge for, work whose answer is lost.
    `trace` is where a workflow's own code raised, as Python prints it.
    `discarded` is the usage of answers that came, were paid for and had not the form that was asked for.
    For whoever passes the error on: `said`, `type` and `param` are the provider's own words (`said` is empty where it said
    nothing), `headers` those of its answer that tell of limits and waits, names in lower case.
    """

    def __init__(self, kind: Kind, message: str, **fields: Unpack[ErrorFields]) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = fields.get("status")
        self.code = fields.get("code")
        self.request_id = fields.get("request_id")
        self.retry_after = fields.get("retry_after")
        self.maybe_billed = fields.get("maybe_billed", False)
        self.trace = fields.get("trace", "")
        self.discarded = fields.get("discarded", ())
        self.said = fields.get("said", "")
        self.type = fields.get("type")
        self.param = fields.get("param")
        self.headers = fields.get("headers", ())

    def __reduce__(self) -> tuple[object, ...]:
        return request_error, (self.kind, self.message), self.__dict__

    def __repr__(self) -> str:
        status = f", status={self.status}" if self.status is not None else ""
        return f"{type(self).__name__}({self.kind!r}, {self.message!r}{status})"


class NotSent(RequestError):
    """No byte of the request left this machine (refused, DNS, TLS, proxy, connect time-out)."""


class NoAnswer(RequestError):
    """Bytes left and no whole answer came (time-out, reset): the provider may have done and billed the work."""


class Throttled(RequestError):
    """The provider asks to be asked later; `retry_after` is None where it named no time."""


class Unavailable(RequestError):
    """The provider is in trouble: overloaded, or an error of its own."""


class Refused(RequestError):
    """The provider will not take this request as it stands, now or later."""


class BadAnswer(RequestError):
    """An answer came and cannot be used: cut off, not what was asked for, an error body under a 200."""


class DeadlineExceeded(RequestError):
    """The row's own deadline passed before an answer came."""


class WorkflowFailed(RequestError):
    """A workflow's own code raised, or gave back what cannot be recorded; `trace` says where."""


KINDS: dict[Kind, type[RequestError]] = {
    "connect": NotSent,
    "timeout": NoAnswer,
    "disconnected": NoAnswer,
    "rate_limited": Throttled,
    "overloaded": Unavailable,
    "server_error": Unavailable,
    "invalid_request": Refused,
    "context_too_long": Refused,
    "content_blocked": Refused,
    "not_found": Refused,
    "auth": Refused,
    "billing": Refused,
    "truncated": BadAnswer,
    "malformed": BadAnswer,
    "too_large": BadAnswer,
    "schema": BadAnswer,
    "never_fits": Refused,
    "input": Refused,
    "deadline": DeadlineExceeded,
    "workflow": WorkflowFailed,
}


def request_error(kind: Kind, message: str, **fields: Unpack[ErrorFields]) -> RequestError:
    """The typed error of a kind: `request_error("timeout", ...)` is a `NoAnswer`."""
    return KINDS[kind](kind, message, **fields)
