"""Reading a ledger beside the run that writes it: read-only, in short pages, so that the writer's log never grows for us.

It never makes a file, nor changes one: a ledger at rest, without a log, is read as an immutable file (so SQLite makes no log
for it, and a read-only folder will do) for as long as it stays as it is; a run that begins meanwhile is noticed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from penstock.edges.ledger.schema import (
    APPLICATION,
    CALL_PAGE,
    PAGE,
    VERSION,
    place,
    require_numbers,
    require_order,
    to_call,
    to_entry,
)
from penstock.edges.ledger.slots import marks_in
from penstock.edges.ledger.trouble import disk_trouble, read_only, require_readable
from penstock.errors import UsageError
from penstock.records import Call, Entry
from penstock.rules.identity import ANSWERED

ROWS_A_PAGE = 500


class RunRecord(msgspec.Struct, frozen=True):
    """What a run was made with. `input_digest` is None where the rows came from an iterable or standard input.

    `options` shape what is asked, `provider` and `model` tell how to read the answers, `rows` is None until it is known.
    `limit` is how many of them the last session was to have answered; it is no part of the run's identity.
    """

    input_digest: bytes | None
    options: dict[str, object]
    rows: int | None = None
    input_name: str | None = None
    limit: int | None = None


class LedgerReader:
    """One run of a ledger, the latest; raises `UsageError` where the file is none."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"there is no ledger {path}: give the OUTPUT of an earlier `penstock run`")
        self._path = path
        try:
            self._connect()
            try:
                self.run, self.record = self._latest()
            except BaseException:
                self._connection.close()
                raise
        except (sqlite3.DatabaseError, msgspec.MsgspecError, TypeError) as error:
            require_readable(path)
            raise UsageError(f"{path} is not a ledger of Penstock, or is damaged ({error})") from error

    def _connect(self) -> None:
        self._at_rest = _at_rest(self._path)
        self._connection = read_only(self._path, "mode=ro" if self._at_rest is None else "immutable=1")

    def _rows(self, query: str, *values: int) -> list[Any]:
        """All rows of a query, none of them from a file that changed under it."""
        if self._at_rest is not None:
            try:
                rows: list[Any] | None = self._connection.execute(query, values).fetchall()
            except sqlite3.DatabaseError:
                rows = None
            changed = _at_rest(self._path) != self._at_rest
            if rows is not None and not changed:
                return rows
            if changed:
                self._connection.close()
                self._connect()
        return self._connection.execute(query, values).fetchall()

    def _latest(self) -> tuple[int, RunRecord]:
        known = self._rows("PRAGMA application_id")[0][0] == APPLICATION
        runs = self._rows("SELECT run, record FROM runs ORDER BY run DESC LIMIT 1")
        if not known or not runs:
            raise UsageError(f"{self._path} is not a ledger of Penstock, or holds no run yet")
        if (version := self._rows("PRAGMA user_version")[0][0]) != VERSION:
            raise UsageError(
                f"{self._path} was written by another version of Penstock (format {version}, not {VERSION})"
            )
        return runs[0][0], msgspec.json.decode(runs[0][1], type=RunRecord)

    def entries(self, first: int = 0, last: int | None = None) -> Iterator[Entry | None]:
        """The rows with something recorded, in input order, up to but without `last`; None for a damaged one."""
        at, end = place(self.run, first), place(self.run + 1, 0) if last is None else place(self.run, last)
        while True:
            with disk_trouble(self._path):
                page = self._rows(PAGE, at, end, ROWS_A_PAGE)
                if page:
                    require_order(page, at, end)
            yield from map(to_entry, page)
            if len(page) < ROWS_A_PAGE:
                return
            at = page[-1][0] + 1

    def calls(self) -> Iterator[Call | None]:
        """The recorded calls of the rows of a workflow, as they were appended; None for a damaged one of whatever run."""
        number, first, end = 0, place(self.run, 0), place(self.run + 1, 0)
        while True:
            with disk_trouble(self._path):
                page = self._rows(CALL_PAGE, number, ROWS_A_PAGE)
                require_numbers(page, number)
            for row in page:
                call = to_call(row)
                if call is None or first <= row[1] < end:
                    yield call
            if len(page) < ROWS_A_PAGE:
                return
            number = page[-1][0]

    def forgotten(self) -> int:
        """Sends of this run that may be billed and that no row tells of any more: most of them cut by a crash."""
        query = "SELECT coalesce(sum(sends), 0) FROM forgotten WHERE position >= ? AND position < ?"
        return self._number(query, place(self.run, 0), place(self.run + 1, 0))

    def under_way(self) -> int:
        """Sends of this run that may be billed: in flight now, or cut by a crash that no run has taken note of yet."""
        marks = marks_in(self._path.with_name(f"{self._path.name}.slots"))
        if marks.run != self.run:
            return 0
        query = "SELECT count(*) FROM results WHERE position = ? AND state = ?"
        answered = (index for index in marks.sends if self._number(query, place(self.run, index), ANSWERED))
        return sum(marks.sends.values()) - sum(marks.sends[index] for index in answered)

    def lost(self) -> int:
        """Rows that were committed once and were gone when the ledger was opened again."""
        return self._number("SELECT coalesce(sum(rows), 0) FROM losses")

    def requests(self) -> Iterator[bytes]:
        """The identities of all answered requests, of every run."""
        with disk_trouble(self._path):
            yield from (row[0] for row in self._connection.execute("SELECT request FROM results WHERE state = 1"))

    def _number(self, query: str, *values: int) -> int:
        with disk_trouble(self._path):
            return int(self._rows(query, *values)[0][0])

    def close(self) -> None:
        self._connection.close()


def _at_rest(path: Path) -> tuple[int, int, int] | None:
    """What tells one state of a ledger at rest from another; None where a log says that a run has it, or had and died."""
    if path.with_name(f"{path.name}-wal").exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
