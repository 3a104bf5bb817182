"""A run's record, and the identity of a request, for tests of the ledger."""

from __future__ import annotations

from penstock.edges.ledger import RunRecord

RECORD = RunRecord(input_digest=b"d" * 16, options={"model": "m"}, rows=10)


def digest(name: int) -> bytes:
    return name.to_bytes(16, "big")
