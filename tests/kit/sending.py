"""A transport of several processes under test, and what the system knows of the processes."""

from __future__ import annotations

import os
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from penstock.edges.processes.transport import ProcessTransport
from penstock.errors import RunStopped

PATIENCE_SECONDS = 30.0
"""Bounds a wait for another process; nothing is measured by it."""


class Sending:
    """A `ProcessTransport` that is open, and what it said was lost."""

    def __init__(self, processes: int, max_connections: int) -> None:
        self.lost: list[RunStopped] = []
        self.transport = ProcessTransport(
            processes, max_connections=max_connections, lost=self.lost.append, loopback_only=True
        )

    @property
    def under_way(self) -> int:
        return sum(link.under_way for link in self.transport._processes)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.transport._processes.values()]


@asynccontextmanager
async def sending(processes: int = 2, *, max_connections: int = 100) -> AsyncIterator[Sending]:
    """It is closed at the end of the block, and no process is left then."""
    under_test = Sending(processes, max_connections)
    await under_test.transport.open()
    try:
        yield under_test
    finally:
        await under_test.transport.aclose()
    assert not [pid for pid in under_test.pids if Path(f"/proc/{pid}").exists()]


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that are not gone, in the order of their numbers."""
    return sorted(int(place.name) for place in Path("/proc").glob("[0-9]*") if _parent_of(place) == pid)


def _parent_of(place: Path) -> int | None:
    try:
        told = (place / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None  # it is gone meanwhile
    return int(told.rpartition(")")[2].split()[1])


def wait_for_end(pid: int) -> None:
    """Return once a process of whomever is gone, or is a zombie; fails where it stays."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([descriptor], [], [], PATIENCE_SECONDS)
        assert ready, f"process {pid} lives on"
    finally:
        os.close(descriptor)
