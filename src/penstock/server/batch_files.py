"""What a batch does with its files: check the input, read its rows, open its ledger, write output and errors from it.

It blocks, so it runs in threads. It decides what goes into which file; nothing is sent from here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from penstock.access import reviver
from penstock.edges.batches import Content, New
from penstock.edges.files.formats import json_row
from penstock.edges.files.lines import CHUNK_BYTES, numbered_lines
from penstock.edges.ledger import LedgerFile, LedgerReader, RunRecord, has_ledger
from penstock.errors import RunStopped
from penstock.records import Entry, RawRow, Result, Usage
from penstock.rules.batch_lines import InputCheck, Reason, asked, unanswered_line
from penstock.rules.batches import OUTPUT_PURPOSE, BatchUsage, usage_of
from penstock.rules.entries import to_result
from penstock.rules.identity import ABSENT
from penstock.rules.lines import output_line
from penstock.server.files import file_of
from penstock.server.keeping import in_thread

PAGE_ROWS = 256
PAGE_BYTES = 1 << 20
NOTHING_RESENT: frozenset[int] = frozenset()
"""A row that was given up is over: it stands in the error file, and is not paid for once more by a restart."""


def check_input(path: Path, check: InputCheck, most_line_bytes: int, given_up: Callable[[], bool]) -> None:
    """Read an input through, line by line. Raises `OSError`, and `InputError` for what is no UTF-8 text."""
    for number, index, line in _lines(path):
        if given_up() or not check.take(number, _row(index, number, line, most_line_bytes)):
            return
    check.end()


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, index of the row, line) of every line that is not blank."""
    with path.open("rb") as stream:
        chunks = iter(lambda: stream.read(CHUNK_BYTES), b"")
        for index, (number, line) in enumerate(numbered_lines(chunks, "the input")):
            yield number, index, line


def _row(index: int, number: int, line: bytes, most_line_bytes: int) -> RawRow:
    if len(line) > most_line_bytes:
        return RawRow(index, f"line {number}", None, f"the line is longer than {most_line_bytes:,} bytes")
    return json_row(index, f"line {number}", line)


async def rows_to_send(path: Path, store: LedgerFile, most_line_bytes: int) -> AsyncIterator[RawRow]:
    """The rows of which nothing is recorded, read by pages in a thread: the loop never waits for a long line."""
    pages = _pages(path, lambda index: store.state(index) != ABSENT, most_line_bytes)
    while page := await in_thread(lambda: next(pages, None)):
        for raw in page:
            yield raw


def _pages(path: Path, skip: Callable[[int], bool], most_line_bytes: int) -> Iterator[list[RawRow]]:
    page: list[RawRow] = []
    size = 0
    for number, index, line in _lines(path):
        if skip(index):
            continue
        page.append(asked(_row(index, number, line, most_line_bytes)))
        size += len(line)
        if len(page) >= PAGE_ROWS or size >= PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def open_ledger(path: Path, provider: str, model: str) -> LedgerFile:
    """The ledger of a batch, where it stands. Raises `RunStopped` where the disk refuses."""
    store = LedgerFile(path)
    try:
        record = RunRecord(input_digest=None, options={"provider": provider, "model": model})
        if store.latest() is None:
            store.begin(record)
        else:
            store.resume(record, NOTHING_RESENT)
    except BaseException:
        store.close()
        raise
    return store


class Papers(msgspec.Struct, frozen=True, kw_only=True):
    """What output and errors are written from: `provider` says how to read the answers, `rows` how many there are.

    `reason` is what is said of a row without an answer; None where each must have one.
    """

    input: Path
    ledger: Path
    provider: str
    rows: int
    reason: Reason | None
    batch_id: str
    now: int
    expires_at: int


class Written(msgspec.Struct):
    """What was written, not recorded yet: at most one file of answers and one of errors, and what they tell."""

    output: New | None = None
    errors: New | None = None
    completed: int = 0
    failed: int = 0
    usage: BatchUsage | None = None

    @property
    def files(self) -> list[New]:
        """Those that there are."""
        return [new for new in (self.output, self.errors) if new is not None]

    def discard(self) -> None:
        """Nothing is to come of them."""
        for _, content in self.files:
            content.discard()


def write_files(papers: Papers, new_content: Callable[[], Content]) -> Written:
    """Output and errors, whole and durable. Raises `OSError`, and `RunStopped` where a row is missing that must be there."""
    output, errors = _Sheet(new_content), _Sheet(new_content)
    written, usage = Written(), _Sum()
    try:
        # Closed here: SQLite wants it in the thread that it was opened in.
        with closing(_told(papers)) as told:
            for line, result in told:
                (output if result is not None and result.ok else errors).write(line)
                if result is not None:
                    written.completed += result.ok
                    written.failed += not result.ok
                    usage.add(result)
        written.output = output.end(papers, "output")
        written.errors = errors.end(papers, "error")
    except BaseException:
        output.discard()
        errors.discard()
        raise
    written.usage = usage_of(usage.total)
    return written


class _Sheet:
    """A file to which lines are written, made at the first of them."""

    def __init__(self, new_content: Callable[[], Content]) -> None:
        self._new_content = new_content
        self._content: Content | None = None

    def write(self, line: bytes) -> None:
        if self._content is None:
            self._content = self._new_content()
        self._content.write(line)
        self._content.write(b"\n")

    def end(self, papers: Papers, kind: str) -> New | None:
        if self._content is None:
            return None
        self._content.sync()
        name = f"{papers.batch_id}_{kind}.jsonl"
        return file_of(self._content, papers.now, papers.expires_at, name, OUTPUT_PURPOSE), self._content

    def discard(self) -> None:
        if self._content is not None:
            self._content.discard()


class _Sum:
    """Tokens of all answers."""

    def __init__(self) -> None:
        self.total = Usage()

    def add(self, result: Result) -> None:
        usage = result.response.usage if result.response is not None else None
        if usage is not None:
            names = Usage.__struct_fields__
            self.total = Usage(*(getattr(self.total, name) + getattr(usage, name) for name in names))


def _told(papers: Papers) -> Generator[tuple[bytes, Result | None], None, None]:
    """The line of each row in order, and its result; None for a row that has none."""
    if not papers.rows:
        return
    revive = reviver(papers.provider)
    with closing(_entries(papers.ledger)) as entries:
        entry = next(entries, None)
        for _, index, line in _lines(papers.input):
            if entry is not None and entry.index == index:
                result = to_result(entry, revive)
                entry = next(entries, None)
                yield output_line(result), result
            elif papers.reason is None:
                raise RunStopped("disk", f"the record of row {index} is damaged: it is sent again")
            else:
                values: dict[str, Any] = msgspec.json.decode(line)
                yield unanswered_line(index, values["custom_id"], papers.reason), None


def _entries(ledger: Path) -> Generator[Entry, None, None]:
    """What is recorded and intact, in order; nothing where no row was ever sent."""
    if not has_ledger(ledger):
        return
    with closing(LedgerReader(ledger)) as reader:
        for entry in reader.entries():
            if entry is not None:
                yield entry
