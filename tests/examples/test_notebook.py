"""The notebook runs from top to bottom: its cells as they stand, and in Jupyter's own kernel."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.kit.environment import OFFLINE, PATIENCE_SECONDS, ROOT, environment

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
SCRIPT = Path(__file__).with_name("notebook_kernel.py")
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]
SUMMED_UP = "299 ok, 1 failed: ['invalid_request']"


def test_it_is_stored_without_what_it_gave() -> None:
    """Nobody's machine, time or answers are in it."""
    for cell in CELLS:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


async def test_its_cells_run_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """With `await` at the top, as Jupyter allows it; the stop in the middle costs no answer twice."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(CELLS):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            code = compile(source, f"cell {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            value = eval(code, names)
            if code.co_flags & inspect.CO_COROUTINE:
                await value
    said = capsys.readouterr().out
    assert SUMMED_UP in said
    assert "300 of 300 rows, 0 of them" not in said
    assert "Latency" in names["drawn"]


@pytest.mark.conformance
@pytest.mark.timeout(600)
def test_it_runs_in_the_kernel_of_jupyter(tmp_path: Path) -> None:
    """Its charts arrive as plotly's own kind of output, which notebooks draw."""
    python = environment("notebook")
    path = f"{python.parent}{os.pathsep}{OFFLINE['PATH']}"
    variables = {**OFFLINE, "PATH": path, "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [python, SCRIPT, NOTEBOOK],
        capture_output=True,
        text=True,
        env=variables,
        cwd=tmp_path,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert SUMMED_UP in told["text"]
    assert told["shown"]
    assert all("application/vnd.plotly.v1+json" in kinds for kinds in told["shown"])
