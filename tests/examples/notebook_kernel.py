"""Runs a notebook as Jupyter does and prints what its cells gave, as JSON: `python notebook_kernel.py NOTEBOOK`.

Runs in an environment that has nbclient and a kernel. It judges nothing; a cell that raises ends it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(Path(sys.argv[1]), as_version=4)
nbformat.validate(notebook)
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
told = {
    "text": "".join(output["text"] for output in outputs if output["output_type"] == "stream"),
    "shown": [sorted(output["data"]) for output in outputs if "data" in output],
}
sys.stdout.write(json.dumps(told))
