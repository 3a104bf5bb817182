"""The command `penstock run`: a file of prompts in, a file of answers out. Further arguments are its options."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from contest import KEY, MODEL, Work, given, measure

from penstock.cli import status_of


def command(work: Work, folder: Path, name: str) -> list[str]:
    options = ["--base-url", work.base_url, "--max-concurrency", str(work.in_flight), "--no-progress", *sys.argv[1:]]
    paths = [str(folder / f"{name}.jsonl"), "--output", str(folder / f"{name}-answers.jsonl")]
    return ["run", *paths, "--model", f"custom/{MODEL}", *options, "--summary", str(folder / f"{name}.json")]


def main() -> None:
    work, numbers = given(), count()
    os.environ["PENSTOCK_API_KEY"] = KEY
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)

        def answer_all(asked: Iterable[str]) -> int:
            name = str(next(numbers))
            with (folder / f"{name}.jsonl").open("w") as rows:
                rows.writelines(f'{{"prompt": "{prompt}"}}\n' for prompt in asked)
            if status := status_of(command(work, folder, name)):
                sys.exit(status)  # the command has said why
            return int(json.loads((folder / f"{name}.json").read_text())["ok"])

        measure(answer_all, work, "penstock")


if __name__ == "__main__":
    main()
