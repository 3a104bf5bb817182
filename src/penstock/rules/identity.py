"""What makes two requests the same, what state a row is in, and what proves that a stored row is the one that was stored.

Identity is content: provider and body as sent (the model is part of the body). Key, base URL, limits, retries and
time-outs are no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Any
from zlib import crc32

import msgspec

ABSENT, ANSWERED, REFUSED, FAILED = range(4)
"""The states of a row: nothing recorded; an answer; refused for good; given up for now, and sent again next time."""

_ORDERED = msgspec.json.Encoder(order="deterministic")
_PLACE = Struct("<QQB16s")


def request_digest(provider: str, body: bytes) -> bytes:
    """16 bytes that name a request: BLAKE2b over the provider's name and the body as sent."""
    digest = _keyed(provider).copy()  # half as dear as a new one
    digest.update(body)
    return digest.digest()


@lru_cache
def _keyed(provider: str) -> blake2b:
    return blake2b(digest_size=16, key=provider.encode()[:64])


def options_digest(options: Mapping[str, Any]) -> bytes:
    """16 bytes that name the options which shape what is asked; equal whatever the order they were given in."""
    return blake2b(_ORDERED.encode(options), digest_size=16).digest()


def row_digest(options: bytes, values: Any) -> bytes:
    """16 bytes that name a row of a workflow: BLAKE2b over its columns, keyed by the digest of what shapes its requests."""
    return blake2b(_ORDERED.encode(values), digest_size=16, key=options).digest()


def changed_options(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names of the options that differ once written as JSON, in the order of `after`."""
    names = dict.fromkeys([*after, *before])
    return [name for name in names if _ORDERED.encode(before.get(name)) != _ORDERED.encode(after.get(name))]


def checksum(run: int, index: int, state: int, request: bytes, meta: bytes, body: bytes) -> int:
    """CRC-32 over place and content: an intact answer under the wrong row is damage too."""
    return crc32(_PLACE.pack(run, index, state, request) + meta + body)  # one call: three cost half as much again
