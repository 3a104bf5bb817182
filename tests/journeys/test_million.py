"""A million rows through the command: every line right, and no more memory than for a hundred thousand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.kit.journey import command, note, write_input, wrong_lines
from tests.kit.simulated import simulated

ROWS_FEW, ROWS_MANY = 100_000, 1_000_000
MOST_BYTES = 250 * 10**6
MOST_GROWTH = 1.2

# The peak of a process counts what its parent had when it was forked, so that a small process must be the parent.
MEASURED = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(status)
"""


def _run(model: str, rows: int) -> tuple[int, dict[str, Any]]:
    """The peak of memory in bytes and the summary of a run whose every line was found right."""
    with TemporaryDirectory() as name, simulated() as provider:
        folder = Path(name)
        output, summary = folder / "out.jsonl", folder / "summary.json"
        run = command("run", write_input(folder / "in.jsonl", rows), "-o", output, "-m", model, "--no-progress")
        run += ["--base-url", provider.base_url, "--summary", str(summary)]
        done = subprocess.run([sys.executable, "-c", MEASURED, *run], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert wrong_lines(output, rows) == []
        assert provider.stats()["arrived"] == rows
        return int(done.stdout), json.loads(summary.read_bytes())


@pytest.mark.conformance
@pytest.mark.parametrize("model", ["custom/m", "openai/gpt-5-mini"])
def test_a_million_rows_need_no_more_memory_than_a_hundred_thousand(
    model: str, record_property: Callable[[str, object], None]
) -> None:
    """At most 250 MB, at most 1.2 times what a tenth of the rows needs; each row has its own answer on its own line."""
    few, _ = _run(model, ROWS_FEW)
    many, summary = _run(model, ROWS_MANY)
    speed = round(ROWS_MANY / summary["wall_s"])
    note(record_property, few_mb=few // 10**6, many_mb=many // 10**6, rows_per_s=speed, cost=summary["cost"])
    account = [summary[name] for name in ("rows", "ok", "failed", "left", "sent")]
    assert account == [ROWS_MANY, ROWS_MANY, 0, 0, ROWS_MANY]
    assert (summary["cost"] is None) == (model == "custom/m"), "only a model without a known price has no cost"
    assert many <= MOST_BYTES
    assert many <= MOST_GROWTH * few
