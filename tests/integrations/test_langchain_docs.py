"""What docs/langchain.md shows runs as it stands, from top to bottom."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "langchain.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_page_runs(tmp_path: Path) -> None:
    """All blocks as one program; the chain over many inputs gives every row."""
    program = "\n".join(BLOCK.findall(PAGE.read_text()))
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    said = [line for line in done.stderr.splitlines() if "LangChainBetaWarning" not in line]
    assert (done.returncode, said) == (0, [])
    assert sorted(re.findall(r"page-\d", done.stdout)) == [f"page-{page}" for page in range(4)]
    assert (tmp_path / "pages.ledger").exists()
