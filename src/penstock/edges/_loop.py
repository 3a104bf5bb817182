"""No edge: on which event loop our own processes run, for the edges that start one."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable


def loop_factory() -> Callable[[], AbstractEventLoop] | None:
    """uvloop where there is one; never by installing a policy, which asyncio is giving up."""
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop
