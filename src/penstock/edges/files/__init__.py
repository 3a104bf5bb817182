"""Rows in, lines out: the files that a run reads and the one that it writes.

The folder decides formats, names and what may be overwritten; it never decides what a row asks (`rules.template`) or
what a line says. `lines` cuts bytes, `formats` makes rows, `inputs` and `standard_input` open, `output` writes.
"""

from __future__ import annotations

from penstock.edges.files.inputs import Input, InputFile, InputFolder, open_input
from penstock.edges.files.output import OutputFile, check_output
from penstock.edges.files.standard_input import StandardInput

__all__ = ["Input", "InputFile", "InputFolder", "OutputFile", "StandardInput", "check_output", "open_input"]
