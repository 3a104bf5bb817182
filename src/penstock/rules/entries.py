"""Results as a ledger keeps them, and back. Pure translation: the provider's answer itself goes in and out untouched.

A row of a workflow is kept by its value. What it cost stands at its calls, each of which is kept as a result is; the row
repeats the sums for whoever reads it (`Taken`), and has none of its own, so that nothing is counted twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from penstock.errors import Kind, RequestError, request_error
from penstock.records import Calls, Entry, Response, Result, Usage
from penstock.rules.identity import ANSWERED, FAILED, REFUSED
from penstock.rules.retry import TREATMENT
from penstock.rules.tally import Sums, Taken

NO_REQUEST = bytes(16)
"""Stands for the request of a row that could not become one."""


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What Penstock knows of a row beside the answer's own bytes. `usage` repeats the answer's, so that sums need no decoding.

    `taken` is there for a row of a workflow only; the sums of the row itself are zero then.
    """

    id: str | int
    attempts: int = 1
    ambiguous: int = 0
    latency_s: float = 0.0
    cost: float | None = None
    usage: Usage | None = None
    request_id: str | None = None
    columns: dict[str, Any] = {}
    batch: bool = False
    taken: Taken | None = None
    ended: float | None = None
    """When the row was over, in Unix seconds; older ledgers do not say."""


class StoredError(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of a `RequestError`."""

    kind: Kind
    message: str
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    param: str | None = None
    trace: str = ""


_encode = msgspec.json.Encoder().encode
_decode_meta = msgspec.json.Decoder(Meta).decode
sums_in = msgspec.json.Decoder(Sums).decode
"""The sums in an entry's `meta`, without building the rest: ten million rows are read so at a resume."""

_decode_error = msgspec.json.Decoder(StoredError).decode
_FOR_NOW: frozenset[Kind] = frozenset({"deadline", "workflow"})
"""Kinds that are no fault of the row: there may be more time, or better code, when it is run again."""


def state_of(result: Result) -> int:
    """Answered; refused for good (kept on a resume); or failed for now (sent again on a resume)."""
    if result.error is None:
        return ANSWERED
    return REFUSED if TREATMENT[result.error.kind] == "fail" and result.error.kind not in _FOR_NOW else FAILED


def to_entry(result: Result, request: bytes, now: float | None = None) -> Entry:
    """What the ledger keeps of a result; `request` is its identity, `now` (Unix seconds) its end where it tells no earlier one."""
    response, ended = result.response, now if result.ended is None else result.ended
    if result.calls is not None:
        return _of_workflow(result, result.calls, request, ended)
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
        ended=ended,
    )
    body = response.raw if response is not None else _encode(_stored(result.error))
    return Entry(result.index, request, state_of(result), _encode(meta), body)


def _of_workflow(result: Result, calls: Calls, request: bytes, ended: float | None) -> Entry:
    meta = Meta(
        id=result.id,
        attempts=0,
        latency_s=round(result.latency_s, 4),
        cost=0.0,
        columns=result.columns,
        taken=Taken(calls, result.attempts, result.ambiguous, result.cost),
        ended=ended,
    )
    body = _encode(result.value) if result.error is None else _encode(_stored(result.error))
    return Entry(result.index, request, state_of(result), _encode(meta), body)


def json_value(value: Any) -> Any:
    """The value that a workflow gave back as it will be read again; raises `TypeError` or `ValueError` where it is no JSON.

    Records, dataclasses, dates and pydantic models become what they are in JSON; an answer becomes its value, or its text.
    """
    if isinstance(value, Response):
        value = value.text if value.value is None else value.value
    plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_of_model)
    _require_finite(plain)
    return msgspec.json.decode(_encode(plain))


def _of_model(value: Any) -> Any:
    """Pydantic's models tell by themselves what they are in JSON; a text with more to it, as LangChain has, is its text."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _require_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number in JSON")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for part in value:
        _require_finite(part)


def to_result(entry: Entry, revive: Callable[[bytes], Response]) -> Result:
    """The result that an entry keeps; `revive` is the provider's reading of its own bytes."""
    meta = meta_of(entry)
    answered = entry.state == ANSWERED
    if meta.taken is not None:
        return _workflow_result(entry, meta, meta.taken)
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
        ended=meta.ended,
    )


def _workflow_result(entry: Entry, meta: Meta, taken: Taken) -> Result:
    answered = entry.state == ANSWERED
    return Result(
        index=entry.index,
        id=meta.id,
        value=msgspec.json.decode(entry.body) if answered else None,
        error=None if answered else _revived(_decode_error(entry.body)),
        attempts=taken.attempts,
        ambiguous=taken.ambiguous,
        latency_s=meta.latency_s,
        cost=taken.cost,
        columns=meta.columns,
        reused=True,
        calls=taken.calls,
        ended=meta.ended,
    )


def meta_of(entry: Entry) -> Meta:
    """What Penstock noted of a row."""
    return _decode_meta(entry.meta)


def _stored(error: RequestError | None) -> StoredError:
    assert error is not None, "a result has a response or an error"
    return StoredError(error.kind, error.message, error.status, error.code, error.request_id, error.param, error.trace)


def _revived(stored: StoredError) -> RequestError:
    fields = {name: getattr(stored, name) for name in ("status", "code", "request_id", "param", "trace")}
    return request_error(stored.kind, stored.message, **fields)
