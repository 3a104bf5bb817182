"""Every test of the command line works in an empty folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.command import Command, Recorder, recorder
from tests.kit.simulated import Simulated, simulated


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def penstock(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture(scope="session")
def sim() -> Iterator[Simulated]:
    """A simulated provider without limits, latency or faults of its own; prompts choose theirs."""
    with simulated() as running:
        yield running


@pytest.fixture
def provider() -> Iterator[Recorder]:
    """A provider that records what it is asked."""
    with recorder() as running:
        yield running
