"""The programs in docs/streaming.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "streaming.md").read_text(), re.DOTALL
)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_program_of_the_document_runs(number: int, tmp_path: Path) -> None:
    """As a script of its own, in an empty folder, without a key or a network."""
    program = [sys.executable, "-W", "error", "-c", BLOCKS[number]]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "error" not in done.stdout
