"""No test reaches the network, no test sees a key or a proxy of the machine, every test starts from the same environment."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from penstock.testing import no_network
from tests.simulation.summary import pytest_terminal_summary

__all__ = ["pytest_terminal_summary"]  # a hook: pytest finds it here by its name

PRIVATE = ("_API_KEY", "_BASE_URL", "_ENDPOINT", "_PROXY", "_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "PENSTOCK_")


@pytest.fixture(autouse=True)
def _closed_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if any(part in name for part in PRIVATE):
            monkeypatch.delenv(name)
    with no_network():
        yield
