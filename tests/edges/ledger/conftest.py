"""A ledger in a folder of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.edges.ledger import LedgerFile
from tests.kit.ledgers import RECORD


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl.ledger"


@pytest.fixture
def store(path: Path) -> Iterator[LedgerFile]:
    ledger = LedgerFile(path)
    ledger.begin(RECORD)
    yield ledger
    ledger.close()
