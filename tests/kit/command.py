"""The command line as a user has it: run in this process or in one of its own, over a folder whose state can be compared."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from penstock.cli import status_of
from tests.kit.threaded import Handler, threaded

PROGRAM = (sys.executable, "-m", "penstock")
PATIENCE_SECONDS = 30.0
"""Bounds a wait for another process; nothing is measured by it."""


class Ran(NamedTuple):
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


class Command:
    """`penstock ARGUMENTS` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ran:
        self._capsys.readouterr()
        status = status_of(list(arguments))
        return Ran(status, *self._capsys.readouterr())


def in_process_of_its_own(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Ran:
    """`penstock ARGUMENTS` as the shell starts it."""
    done = subprocess.run(
        [*PROGRAM, *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, **(env or {})},
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`penstock ARGUMENTS` under way, its standard error to be read; killed at the end of the block."""
    process = subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What a process says on standard error, up to the line with these words; fails where it ends before."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended without {words!r}: {said}")


def ended(process: subprocess.Popen[str]) -> Ran:
    """Wait for the end of a process; what it said since the last reading."""
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    return Ran(process.returncode, "", err)


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Status and screen of `penstock ARGUMENTS` on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen([*PROGRAM, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        screen = b"".join(_read_all(ours))
        os.close(ours)
        return process.wait(timeout=PATIENCE_SECONDS), screen.decode()


def _read_all(descriptor: int) -> Iterator[bytes]:
    try:
        while piece := os.read(descriptor, 65536):
            yield piece
    except OSError:
        return  # Linux tells the end of a terminal as an input error


Snapshot = dict[str, tuple[int, int, int, bytes | str]]


def snapshot(folder: Path) -> Snapshot:
    """Mode, size, time of change and content of everything in a folder; a link by where it points."""
    found: Snapshot = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        size = 0 if path.is_dir() else state.st_size
        found[str(path.relative_to(folder))] = (state.st_mode, size, state.st_mtime_ns, content)
    return found


class Recorder:
    """A provider that keeps every body it gets and answers `answer to PROMPT`; from request `hold_from` on, only once released."""

    def __init__(self, hold_from: int | None = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.connections = 0
        self.base_url = ""
        self.released = threading.Event()
        self.hold_from = hold_from
        self._arrived = threading.Condition()

    @property
    def prompts(self) -> list[str]:
        """The last message of each body, in the order of arrival."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def wait_for(self, requests: int) -> None:
        """Wait until so many requests have arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.bodies) >= requests, PATIENCE_SECONDS)

    def answer(self, body: bytes) -> bytes:
        """Keep a body; its answer."""
        asked = json.loads(body)
        with self._arrived:
            self.bodies.append(asked)
            place = len(self.bodies)
            self._arrived.notify_all()
        if self.hold_from is not None and place >= self.hold_from:
            self.released.wait(PATIENCE_SECONDS)
        message = {"role": "assistant", "content": f"answer to {asked['messages'][-1]['content']}"}
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps({"id": "x", "model": asked["model"], "choices": [choice], "usage": usage}).encode()


@contextmanager
def recorder(hold_from: int | None = None) -> Iterator[Recorder]:
    """A recording provider on loopback, in threads; what it holds is released at the end of the block."""
    kept = Recorder(hold_from)

    class Asked(Handler):
        def setup(self) -> None:
            kept.connections += 1
            super().setup()

        def answer(self, body: bytes) -> None:
            told = kept.answer(body)
            try:
                self.tell(told)
            except OSError:
                self.close_connection = True  # the client has given up waiting

    with threaded(Asked) as base_url:
        kept.base_url = base_url
        try:
            yield kept
        finally:
            kept.released.set()


def json_lines(rows: Iterable[Any]) -> bytes:
    """Rows as JSON Lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, a line each."""
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]
