"""The states of a request: every one can be left or is an end, and the drawing shows the table that the engine moves by."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from penstock.rules.journey import FIRST, JOURNEY, follow, mermaid

ROOT = Path(__file__).parent.parent.parent


def test_every_state_is_reached_from_the_first_and_every_end_is_reached_from_every_other() -> None:
    def reached(state: str) -> set[str]:
        found, fresh = set(), {state}
        while fresh:
            found |= fresh
            fresh = {after for one in fresh for after in JOURNEY[one].values()} - found  # type: ignore[index]  # states
        return found

    assert reached(FIRST) == set(JOURNEY)
    ends = {state for state, events in JOURNEY.items() if not events}
    assert all(ends <= reached(state) for state, events in JOURNEY.items() if events)


def test_what_is_not_in_the_table_cannot_happen() -> None:
    with pytest.raises(KeyError):
        follow("answered", "admitted")


def test_the_drawing_in_the_documents_is_that_of_the_table() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    assert runpy.run_path(str(ROOT / "docs" / "request_states.py"))["drawn"](page) == page
    assert mermaid() in page
