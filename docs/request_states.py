"""Draw the engine's table of request states into ARCHITECTURE.md: `python docs/request_states.py`. A test compares the two."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.rules.journey import mermaid

PAGE = Path(__file__).parent.parent / "ARCHITECTURE.md"
PLACE = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def drawn(page: str) -> str:
    """The page with the present table in it."""
    return PLACE.sub(lambda _: f"```mermaid\n{mermaid()}\n```", page, count=1)


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
