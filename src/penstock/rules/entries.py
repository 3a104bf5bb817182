"""Results as a ledger keeps them, and back. Pure translation: the provider's answer itself goes in and out untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from penstock.errors import Kind, RequestError, request_error
from penstock.records import Entry, Response, Result, Usage
from penstock.rules.identity import ANSWERED, FAILED, REFUSED
from penstock.rules.retry import TREATMENT

NO_REQUEST = bytes(16)
"""Stands for the request of a row that could not become one."""


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What Penstock knows of a row beside the answer's own bytes. `usage` repeats the answer's, so that sums need no decoding."""

    id: str | int
    attempts: int = 1
    ambiguous: int = 0
    latency_s: float = 0.0
    cost: float | None = None
    usage: Usage | None = None
    request_id: str | None = None
    columns: dict[str, Any] = {}
    batch: bool = False


class Sums(msgspec.Struct, frozen=True):
    """The part of `Meta` that is summed up."""

    ambiguous: int = 0
    cost: float | None = None
    usage: Usage | None = None


class StoredError(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of a `RequestError`."""

    kind: Kind
    message: str
    status: int | None = None
    code: str | None = None
    request_id: str | None = None


_encode = msgspec.json.Encoder().encode
_decode_meta = msgspec.json.Decoder(Meta).decode
sums_in = msgspec.json.Decoder(Sums).decode
"""The sums in an entry's `meta`, without building the rest: ten million rows are read so at a resume."""

_decode_error = msgspec.json.Decoder(StoredError).decode


def state_of(result: Result) -> int:
    """Answered; refused for good (kept on a resume); or failed for now (sent again on a resume)."""
    if result.error is None:
        return ANSWERED
    return REFUSED if TREATMENT[result.error.kind] == "fail" and result.error.kind != "deadline" else FAILED


def to_entry(result: Result, request: bytes) -> Entry:
    """What the ledger keeps of a result; `request` is its identity."""
    response = result.response
    meta = Meta(
        id=result.id,
        attempts=result.attempts,
        ambiguous=result.ambiguous,
        latency_s=round(result.latency_s, 4),
        cost=result.cost,
        usage=response.usage if response is not None else None,
        request_id=response.request_id if response is not None else None,
        columns=result.columns,
        batch=result.batch,
    )
    body = response.raw if response is not None else _encode(_stored(result.error))
    return Entry(result.index, request, state_of(result), _encode(meta), body)


def to_result(entry: Entry, revive: Callable[[bytes], Response]) -> Result:
    """The result that an entry keeps; `revive` is the provider's reading of its own bytes."""
    meta = meta_of(entry)
    answered = entry.state == ANSWERED
    response = msgspec.structs.replace(revive(entry.body), request_id=meta.request_id) if answered else None
    return Result(
        index=entry.index,
        id=meta.id,
        response=response,
        error=None if answered else _revived(_decode_error(entry.body)),
        attempts=meta.attempts,
        ambiguous=meta.ambiguous,
        latency_s=meta.latency_s,
        cost=meta.cost,
        columns=meta.columns,
        batch=meta.batch,
        reused=True,
    )


def meta_of(entry: Entry) -> Meta:
    """What Penstock noted of a row."""
    return _decode_meta(entry.meta)


def _stored(error: RequestError | None) -> StoredError:
    assert error is not None, "a result has a response or an error"
    return StoredError(error.kind, error.message, error.status, error.code, error.request_id)


def _revived(stored: StoredError) -> RequestError:
    return request_error(
        stored.kind, stored.message, status=stored.status, code=stored.code, request_id=stored.request_id
    )
