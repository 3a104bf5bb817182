"""The programs in docs/workflows.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "workflows.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_there_are_programs() -> None:
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_program_of_the_document_runs(number: int, tmp_path: Path) -> None:
    """As a script of its own, in an empty folder, without a key or a network; and once more, over its own ledger."""
    script = tmp_path / "script.py"
    script.write_text(BLOCKS[number])
    told = []
    for _ in range(2):
        program = [sys.executable, "-W", "error", script.name]
        done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Failed" not in done.stdout
        told.append(sorted(done.stdout.splitlines()))
    assert told[0] == told[1]
