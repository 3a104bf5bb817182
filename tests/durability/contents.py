"""Rows whose content follows from their name, so that every stored byte can be checked without remembering any."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from penstock.records import Call, Entry
from penstock.rules.entries import Meta
from penstock.rules.identity import ANSWERED, FAILED


class Mark(msgspec.Struct, frozen=True):
    """What the program tells: a step that it begins or has seen done, the names of the rows in it, the marks of sends then.

    `calls` has the names of calls, by the row that made them.
    """

    kind: str
    run: int
    rows: dict[int, str]
    slots: str
    calls: dict[int, list[str]] = {}


def request_of(name: str) -> bytes:
    """The identity of the request that a row of this name answers."""
    return blake2b(name.encode(), digest_size=16).digest()


def entry_of(index: int, name: str) -> Entry:
    """The row of this name, standing at `index`; one in five was given up, one in eight needs pages of its own."""
    drawn = request_of(name)
    state = FAILED if drawn[0] % 5 == 0 else ANSWERED
    size = 9_000 if drawn[1] % 8 == 0 else drawn[2]
    body = name.encode() + b"\n" + (drawn.hex().encode() * (size // 32 + 1))[:size]
    return Entry(index, drawn, state, msgspec.json.encode(Meta(id=name)), body)


def call_of(index: int, name: str, number: int = 0) -> Call:
    """The call of this name in the row at `index`; where it stands is for the ledger to say."""
    return Call(entry_of(index, name), request_of(name)[2], number)


def name_in(entry: Entry) -> str:
    """The name that a stored row has, whether it is intact or not."""
    return entry.body.split(b"\n")[0].decode(errors="replace")
