"""The table of figures at the end of a test run; `tests/conftest.py` takes its hook from here."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.simulation.running import Found
from tests.simulation.table import table

PROPERTY = "simulation"
"""The property under which a test hands in what it found, as JSON: so it reaches us from another process too."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what the server models' tests of this run have found; nothing where there was none of them."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    found = [
        msgspec.json.decode(value, type=Found)
        for report in reports
        for name, value in getattr(report, "user_properties", [])
        if name == PROPERTY
    ]
    if found:
        terminalreporter.section("flow control in simulation: worst and median over the seeds")
        for line in table(found):
            terminalreporter.write_line(line)
