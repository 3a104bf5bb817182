"""Batches and their files: the states and what leads from one to the next, what may be asked for, and the objects on the wire.

The shapes are those of the OpenAI API (https://platform.openai.com/docs/api-reference/batch): every key is always there, times
are Unix seconds. Nothing is read, sent or stored here, and nothing here knows a clock: `now` comes in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from penstock.errors import RequestError, request_error
from penstock.records import Usage

Status: TypeAlias = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
Event: TypeAlias = Literal["bad input", "good input", "every row over", "window over", "files written", "cancel"]

LIFE: dict[Status, dict[Event, Status]] = {
    "validating": {"bad input": "failed", "good input": "in_progress", "cancel": "cancelling"},
    "in_progress": {"every row over": "finalizing", "window over": "expired", "cancel": "cancelling"},
    "finalizing": {"files written": "completed", "cancel": "cancelling"},
    "cancelling": {"files written": "cancelled"},
    "failed": {},
    "completed": {},
    "expired": {},
    "cancelled": {},
}
"""A batch whose window is over stays `in_progress` until the files of what there is are written."""

FIRST: Status = "validating"
ENDED: frozenset[Status] = frozenset(status for status, events in LIFE.items() if not events)

ENDPOINT = "/v1/chat/completions"
WINDOWS: dict[str, int] = {"24h": 24 * 3600}
"""Seconds of each completion window that may be asked for."""

KEPT_SECONDS = 30 * 24 * 3600
"""How long files are kept where nothing else is asked for."""

FILE_ID = re.compile(r"file-[0-9a-f]{24}", re.ASCII)
BATCH_ID = re.compile(r"batch_[0-9a-f]{24}", re.ASCII)

PURPOSE = "batch"
OUTPUT_PURPOSE = "batch_output"


def follow(status: Status, event: Event) -> Status:
    """The next state. Raises KeyError for what cannot happen."""
    return LIFE[status][event]


# -- on the wire


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file. `status` is deprecated, and still required."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileDeleted(msgspec.Struct, frozen=True):
    """What a deletion says."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class RequestCounts(msgspec.Struct, frozen=True):
    """Rows of a batch. What is neither completed nor failed is left."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchError(msgspec.Struct, frozen=True):
    """What is wrong with a batch, or with a line of its input; lines count from 1."""

    code: str | None
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(msgspec.Struct, frozen=True):
    """All of it."""

    data: list[BatchError]
    object: Literal["list"] = "list"


class CachedTokens(msgspec.Struct, frozen=True):
    """A part of the input."""

    cached_tokens: int = 0


class ReasoningTokens(msgspec.Struct, frozen=True):
    """A part of the output."""

    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, frozen=True):
    """Tokens of all answers of a batch."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch. While it is `in_progress`, `errors` tells what holds it up, if anything does."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = None
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: Status = FIRST
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: BatchUsage | None = None
    metadata: dict[str, str] | None = None


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as it is stored: whose it is, who answers its rows, and how many seconds its output is kept.

    `owner` is the name of the key that made it. `provider` and `upstream` stay as they were when its input was found good:
    the answers of another model must not slip in between.
    """

    batch: Batch
    owner: str
    output_seconds: int
    provider: str = ""
    upstream: str = ""

    def moved(self, event: Event, now: int, **changes: Any) -> Kept:
        """The same batch after an event, with the time of its new state. Raises KeyError for what cannot happen."""
        status = follow(self.batch.status, event)
        return self.changed(status=status, **{f"{status}_at": now}, **changes)

    def changed(self, **changes: Any) -> Kept:
        """With other fields of the batch."""
        return msgspec.structs.replace(self, batch=msgspec.structs.replace(self.batch, **changes))


def usage_of(total: Usage) -> BatchUsage:
    """A sum of usages as a batch tells it."""
    return BatchUsage(
        total.input_tokens,
        CachedTokens(total.cached_tokens),
        total.output_tokens,
        ReasoningTokens(total.reasoning_tokens),
        total.input_tokens + total.output_tokens,
    )


# -- what is asked for


class ExpiresAfter(msgspec.Struct, frozen=True):
    """How long a file is kept, in seconds from its creation."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3_600, le=KEPT_SECONDS)]


Metadata: TypeAlias = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /v1/batches` takes."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


_decode_request = msgspec.json.Decoder(BatchRequest).decode
_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?([\w.]*)[^`]*`$")
_HINTS = {"endpoint": f"it must be {ENDPOINT}", "completion_window": f"it must be {' or '.join(WINDOWS)}"}
_MISSING = re.compile(r"missing required field `(\w+)`$")


def read_request(body: bytes) -> BatchRequest:
    """The batch that a body asks for. Raises `RequestError` (400), its `param` naming the field that is wrong."""
    try:
        return _decode_request(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(str(error)) from error


def read_expiry(fields: Mapping[str, str]) -> int:
    """Seconds for which an uploaded file is kept, by the form's `expires_after[anchor]` and `[seconds]`; `RequestError` else."""
    told = {name: fields[key] for name in ("anchor", "seconds") if (key := f"expires_after[{name}]") in fields}
    if not told:
        return KEPT_SECONDS
    try:
        return msgspec.convert(told, ExpiresAfter, strict=False).seconds
    except msgspec.ValidationError as error:
        refused = _refusal(str(error))
        name = f"expires_after[{refused.param}]" if refused.param else "expires_after"
        raise invalid(f"{name}: {str(error).partition(' - at ')[0]}", name) from error


def _refusal(reason: str) -> RequestError:
    place, missing = _PLACE.search(reason), _MISSING.search(reason)
    param = (place[1] if place else "") or (missing[1] if missing else "")
    said = _HINTS.get(param) or reason.partition(" - at ")[0]
    return invalid(f"{param}: {said}" if param else said[:200], param or None)


def invalid(message: str, param: str | None = None) -> RequestError:
    """A request that cannot be right."""
    return request_error("invalid_request", message, status=400, param=param)


def new_batch(batch_id: str, asked: BatchRequest, now: int, owner: str) -> Kept:
    """A batch at its beginning."""
    expiry = asked.output_expires_after
    batch = Batch(
        id=batch_id,
        endpoint=asked.endpoint,
        input_file_id=asked.input_file_id,
        completion_window=asked.completion_window,
        created_at=now,
        expires_at=now + WINDOWS[asked.completion_window],
        metadata=asked.metadata,
    )
    return Kept(batch=batch, owner=owner, output_seconds=expiry.seconds if expiry is not None else KEPT_SECONDS)
