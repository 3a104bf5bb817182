"""Lines into rows, one generator for each format, and the table of suffixes.

It decides what a row of a format is. A bad row is told as `RawRow.error`, so that several can be shown at once; what
makes a whole file unreadable is raised as `InputError`. It never opens anything.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import msgspec

from penstock.edges.files import lines
from penstock.edges.files.lines import numbered_lines, text_lines
from penstock.errors import InputError
from penstock.records import RawRow

Skip: TypeAlias = Callable[[int], bool]
Reader: TypeAlias = Callable[[Iterable[bytes], str, Skip], Iterator[RawRow]]

NOT_UTF8 = "not valid UTF-8; convert the file to UTF-8"
_decode = msgspec.json.decode


def too_long() -> str:
    """Why a line or a file over the bound is refused."""
    return f"longer than {lines.MAX_LINE_BYTES >> 20} MiB, the most that a row may have"


def json_row(index: int, where: str, line: bytes) -> RawRow:
    """The row of one line of JSON: an object, or a string, which is a bare prompt."""
    if len(line) > lines.MAX_LINE_BYTES:
        return RawRow(index, where, None, too_long())
    try:
        values = _decode(line)
    except UnicodeDecodeError:
        return RawRow(index, where, None, NOT_UTF8)
    except RecursionError:
        return RawRow(index, where, None, "JSON nested too deeply")
    except msgspec.DecodeError as error:
        return RawRow(index, where, None, f"not valid JSON: {error}")
    if type(values) is dict or type(values) is str:
        return RawRow(index, where, values)
    return RawRow(index, where, None, f"a row must be a JSON object or string, not {_json_kind(values)}")


def _json_kind(value: Any) -> str:
    kinds = {list: "an array", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def jsonl_rows(chunks: Iterable[bytes], name: str, skip: Skip) -> Iterator[RawRow]:
    """JSON Lines: each line that is not blank is a row. A skipped one is not decoded."""
    for index, (number, line) in enumerate(numbered_lines(chunks, name)):
        if not skip(index):
            yield json_row(index, f"{name}:{number}", line)


def text_rows(chunks: Iterable[bytes], name: str, skip: Skip) -> Iterator[RawRow]:
    """Plain text: each line that is not blank is a bare prompt, kept as it stands but for its line end."""
    for index, (number, line) in enumerate(numbered_lines(chunks, name)):
        if not skip(index):
            yield _text_row(index, f"{name}:{number}", line.removesuffix(b"\r"))


def _text_row(index: int, where: str, content: bytes) -> RawRow:
    if len(content) > lines.MAX_LINE_BYTES:
        return RawRow(index, where, None, too_long())
    try:
        return RawRow(index, where, content.decode())
    except UnicodeDecodeError:
        return RawRow(index, where, None, NOT_UTF8)


class _CsvLines:
    """Decoded lines for `csv.reader`, which stops for good where its source raises: what is wrong is noted instead."""

    def __init__(self, chunks: Iterable[bytes], name: str) -> None:
        self._lines = text_lines(chunks, name)
        self.count = 0
        self._fault: str | None = None

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.count += 1
        if len(line) > lines.MAX_LINE_BYTES:
            self._fault = too_long()
            return "\n"
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            self._fault = NOT_UTF8
            return line.decode(errors="replace") + "\n"

    def take_fault(self) -> str | None:
        """What was wrong with the lines since the last call."""
        fault, self._fault = self._fault, None
        return fault


class _Record(msgspec.Struct):
    """One record of delimited text: the line that it starts on, and its fields or what is wrong with them."""

    line: int
    fields: list[str]
    fault: str | None


def _records(source: _CsvLines, delimiter: str) -> Iterator[_Record]:
    """Every record that is not a blank line. A quote that is never closed is an error, not a field of a whole file."""
    # The limit is a global of the csv module and 128 KiB at first, less than many a document; it is never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), lines.MAX_LINE_BYTES))
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        start = source.count + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _Record(start, [], source.take_fault() or _csv_fault(error))
            continue
        fault = source.take_fault()
        if fields or fault:
            yield _Record(start, fields, fault)


def _csv_fault(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quote that opens in this row is never closed"
    return f"not valid CSV: {error} (a quote inside a quoted field is written twice)"


def _header(record: _Record | None, name: str) -> list[str]:
    """The column names, stripped; raises `InputError` where there is no usable header."""
    if record is None:
        raise InputError(name, "the file is empty; its first line must name the columns")
    where = f"{name}:{record.line}"
    if record.fault:
        raise InputError(where, record.fault)
    names = [field.strip() for field in record.fields]
    if "" in names:
        raise InputError(where, f"column {names.index('') + 1} has no name; the first line must name every column")
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise InputError(where, f"column names must differ; more than one is called {', '.join(twice)}")
    return names


def _delimited_rows(delimiter: str) -> Reader:
    def rows(chunks: Iterable[bytes], name: str, skip: Skip) -> Iterator[RawRow]:
        records = _records(_CsvLines(chunks, name), delimiter)
        header = _header(next(records, None), name)
        index = 0
        for record in records:
            if len(header) > 1 and len(record.fields) == 1 and record.fields[0].isspace():
                continue
            if not skip(index):
                yield _csv_row(index, f"{name}:{record.line}", header, record)
            index += 1

    return rows


def _csv_row(index: int, where: str, header: list[str], record: _Record) -> RawRow:
    if record.fault:
        return RawRow(index, where, None, record.fault)
    if len(record.fields) != len(header):
        return RawRow(index, where, None, f"{len(record.fields)} fields where the header has {len(header)}")
    return RawRow(index, where, dict(zip(header, record.fields, strict=True)))


READERS: dict[str, Reader] = {
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".csv": _delimited_rows(","),
    ".tsv": _delimited_rows("\t"),
    ".txt": text_rows,
}
