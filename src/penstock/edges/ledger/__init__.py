"""The ledger: what was asked and what came back, durably.

Three files: `X.ledger` (SQLite, WAL, one writer), `X.ledger.lock` (held while a run has it) and `X.ledger.slots`
(a memory-mapped page of the rows that are being sent, so that a `kill -9` leaves their names at no cost).
"""

from __future__ import annotations

from penstock.edges.ledger.opening import has_ledger
from penstock.edges.ledger.reader import LedgerReader, RunRecord
from penstock.edges.ledger.store import LedgerFile, set_aside

__all__ = ["LedgerFile", "LedgerReader", "RunRecord", "has_ledger", "set_aside"]
