"""The code in the guides: each block is a program of `examples/`, what one printed, or commands for a shell.

    <!-- embeds examples/03_batches.py -->      the block below is that file
    <!-- prints examples/03_batches.py -->      the block below is what it printed, in a folder of its own

`python -m tests.examples.pages` writes such blocks anew; what plain programs print stays as it was measured.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.kit.environment import OFFLINE, ROOT

GUIDES = (ROOT / "docs" / "guide.md", ROOT / "docs" / "guide.ko.md")
PATIENCE_SECONDS = 60

_BLOCK = re.compile(
    r"(?:^<!-- (?P<what>embeds|prints) (?P<names>[^\n]*) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block: `what` is embeds, prints or None, `names` the programs, `kind` the word behind the fence."""

    what: str | None
    names: str
    kind: str
    body: str


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    return [_block(found) for found in _BLOCK.finditer(page.read_text())]


def _block(found: re.Match[str]) -> Block:
    return Block(found["what"], found["names"] or "", found["kind"], found["body"])


def is_plain(block: Block) -> bool:
    """Whether it shows what a program of the plain SDK printed: that needs the SDK."""
    return block.what == "prints" and "_plain.py" in block.names


def printed(commands: str) -> str:
    """What programs printed, one after the other in one folder: `examples/a.py --option; examples/b.py`."""
    said = ""
    with TemporaryDirectory() as folder:
        for command in commands.split(";"):
            name, *arguments = shlex.split(command)
            done = subprocess.run(
                [sys.executable, "-W", "error", ROOT / name, *arguments],
                cwd=folder,
                env=OFFLINE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
            said += done.stdout
    return said


def ran_in_a_shell(commands: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Commands as a reader types them, each of which must succeed; `penstock` is ours."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{OFFLINE['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env={**OFFLINE, "PATH": path, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def without_figures(text: str, *, whole_numbers: bool = False) -> str:
    """A text with its measured figures made equal: decimals, or all numbers."""
    return re.sub(r"\d+(\.\d+)?" if whole_numbers else r"\d+\.\d+", "#", text)


def _renewed(page: Path) -> Iterator[str]:
    at, text = 0, page.read_text()
    for found in _BLOCK.finditer(text):
        block = _block(found)
        yield text[at : found.start("body")]
        if block.what == "embeds":
            yield (ROOT / block.names).read_text()
        else:
            yield printed(block.names) if block.what == "prints" and not is_plain(block) else block.body
        at = found.end("body")
    yield text[at:]


if __name__ == "__main__":
    for guide in GUIDES:
        guide.write_text("".join(_renewed(guide)))
