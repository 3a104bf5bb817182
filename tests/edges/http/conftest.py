"""Every asynchronous test here runs twice, on asyncio's own event loop and on uvloop, and none may leave an error in the
loop's log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _loop_logs_no_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What goes wrong in a callback of the loop reaches nobody but its log."""
    yield
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert errors == []
