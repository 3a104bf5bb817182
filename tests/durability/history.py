"""A recorded life of a ledger, and what is known at each point of it: what was told as recorded may not be lost afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import msgspec

from penstock.rules.identity import ANSWERED
from tests.durability.contents import Mark, entry_of
from tests.kit.disk import MARK, Call, Disk, built_shim, calls_in
from tests.kit.journey import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
LEDGER, OUTPUT = "out.jsonl.ledger", "out.jsonl"
read_mark = msgspec.json.Decoder(Mark).decode


def recorded_history(folder: Path, seed: str) -> list[Call]:
    """Let the program live its life on a watched disk; returns its calls and marks, in order."""
    watched, record = folder / "watched", folder / "record"
    watched.mkdir(parents=True)
    environment = {**os.environ, "LD_PRELOAD": str(built_shim(folder)), "PYTHONPATH": str(ROOT)}
    program = [sys.executable, Path(__file__).with_name("ledger_program.py"), watched, record, seed]
    done = subprocess.run(
        program, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    return calls_in(record)


class Known:
    """What a user has been told up to a point of the history.

    `answers` were told as recorded, in whatever run or ledger; `rows` are those of the run under way, each with the names
    that may stand there; `called` are the answers to calls that the rows under way have; `tried` is all that may be on the disk.
    """

    def __init__(self) -> None:
        self.answers: set[str] = set()
        self.tried: set[str] = set()
        self.rows: dict[int, set[str]] = {}
        self.called: dict[int, set[str]] = {}
        self.run = 0
        self.may_be_set_aside = self.may_begin = False
        self.outputs: set[str | None] = {None}
        self.slots = [""]

    def told(self, mark: Mark) -> None:
        """Take in the next mark."""
        self.slots.append(mark.slots)
        if mark.kind in ("setting-aside", "beginning"):
            self._leaving(mark)
        elif mark.kind == "set-aside":
            self._new_ledger()
        elif mark.kind in ("started", "committed", "found", "claimed"):
            self._sure(mark)
        elif mark.kind == "committing":
            self.tried |= set(mark.rows.values()).union(*mark.calls.values())
            for index, name in mark.rows.items():
                if index in self.rows:
                    self.rows[index].add(name)
        elif mark.kind == "writing":
            self.outputs.add(mark.rows[0])
        elif mark.kind == "written":
            self.outputs = {mark.rows[0]}

    def _leaving(self, mark: Mark) -> None:
        if mark.kind == "setting-aside":
            self.may_be_set_aside = True
        elif self.may_be_set_aside and mark.run == 1:
            self._new_ledger()
        self.may_begin = self.may_begin or mark.kind == "beginning"

    def _new_ledger(self) -> None:
        self.rows, self.run, self.may_be_set_aside, self.may_begin, self.slots = {}, 0, False, False, [""]
        self.called = {}

    def _sure(self, mark: Mark) -> None:
        if mark.kind == "started":
            self.rows, self.called, self.may_begin, self.may_be_set_aside = {}, {}, False, False
        self.run = mark.run
        self.tried |= set(mark.rows.values()).union(*mark.calls.values())
        self.answers |= {name for index, name in mark.rows.items() if entry_of(index, name).state == ANSWERED}
        for index, names in mark.calls.items():
            answered = {name for name in names if entry_of(index, name).state == ANSWERED}
            self.called.setdefault(index, set()).update(answered)
            self.answers |= answered
        self.rows.update({index: {name} for index, name in mark.rows.items()})


class State:
    """One loss of power: where in the history, what the disk has then, and what was known."""

    def __init__(self, history: list[Call], place: int, chance: Random) -> None:
        self.known, disk = Known(), Disk()
        for call in history[:place]:
            if call.kind == MARK:
                self.known.told(read_mark(call.data))
            else:
                disk.do(call)
        self._files = disk.survives(chance)
        self._slots = bytes.fromhex(chance.choice([self.known.slots[-1], chance.choice(self.known.slots)]))

    def lay_out(self, folder: Path) -> Path:
        """Put the files there; returns the path of the ledger. Of the marks any earlier state may have survived."""
        folder.mkdir()
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        ledger = folder / LEDGER
        if self._slots:
            ledger.with_name(f"{LEDGER}.slots").write_bytes(self._slots)
        return ledger
