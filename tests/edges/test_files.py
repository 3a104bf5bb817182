"""Rows in and lines out: formats, streams that break, folders, standard input, and what is never overwritten."""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.edges.files import InputFile, OutputFile, StandardInput, check_output, lines, open_input, output
from penstock.edges.files.lines import split_lines
from penstock.edges.files.standard_input import HandOver
from penstock.errors import InputError, OutputRefused, RunStopped, UsageError
from penstock.records import RawRow

MARK = b"\xef\xbb\xbf"
NOT_UTF8 = "not valid UTF-8; convert the file to UTF-8"
OPEN_QUOTE = "a quote that opens in this row is never closed"


def never(_index: int) -> bool:
    return False


def read(path: Path, skip: Callable[[int], bool] = never) -> list[RawRow]:
    source = open_input(str(path))
    assert source.repeatable
    return list(source.rows(skip))


def told(row: RawRow) -> tuple[int, int, Any]:
    """(index, line, values or the error)."""
    return row.index, int(row.where.rpartition(":")[2]), row.error if row.error is not None else row.values


JSONL: list[tuple[str, bytes, list[tuple[int, int, Any]]]] = [
    ("empty file", b"", []),
    ("only a mark", MARK, []),
    ("objects", b'{"a":1}\n{"a":2}\n', [(0, 1, {"a": 1}), (1, 2, {"a": 2})]),
    ("no last newline", b'{"a":1}\n{"a":2}', [(0, 1, {"a": 1}), (1, 2, {"a": 2})]),
    ("mark and CRLF", MARK + b'{"a":1}\r\n{"a":2}\r\n', [(0, 1, {"a": 1}), (1, 2, {"a": 2})]),
    ("blank lines count as lines only", b'\n  \n"x"\n\r\n\t\n"y"\n\n', [(0, 3, "x"), (1, 6, "y")]),
    ("line separators inside a string", '"a\u2028b\x85c"\n"d"'.encode(), [(0, 1, "a\u2028b\x85c"), (1, 2, "d")]),
    ("escaped NUL", b'"a\\u0000b"', [(0, 1, "a\0b")]),
    ("large whole number", b'{"a":123456789012345678901234567890}', [(0, 1, {"a": 123456789012345678901234567890})]),
    ("an array", b'[1]\n"x"', [(0, 1, "a row must be a JSON object or string, not an array"), (1, 2, "x")]),
    ("a number", b"1", [(0, 1, "a row must be a JSON object or string, not a number")]),
    ("a fraction", b"1.5", [(0, 1, "a row must be a JSON object or string, not a number")]),
    ("a boolean", b"true", [(0, 1, "a row must be a JSON object or string, not a boolean")]),
    ("null", b"null", [(0, 1, "a row must be a JSON object or string, not null")]),
    ("Latin-1", b'{"a":"\xe9"}\n"x"', [(0, 1, NOT_UTF8), (1, 2, "x")]),
]


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in JSONL], ids=[case[0] for case in JSONL])
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".JSONL", ".jsonl.gz"])
def test_json_lines_give_their_rows_with_index_and_line(
    tmp_path: Path, suffix: str, content: bytes, expected: list[tuple[int, int, Any]]
) -> None:
    path = tmp_path / f"in{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    assert [told(row) for row in read(path)] == expected


@pytest.mark.parametrize(
    "line",
    [b"{", b'{"a":1} x', b"NaN", b'{"a":NaN}', b'{"a":1e999}', b'"\\ud800"', b'{"a":"\x00"}', b"\xff", b"[" * 200_000],
    ids=["cut", "trailing", "NaN", "NaN inside", "huge", "surrogate", "raw NUL", "no text", "deep"],
)
def test_a_line_that_is_no_json_is_an_error_on_its_row_and_the_next_is_read(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'"a"\n' + line + b'\n"b"\n')
    before, bad, after = read(path)
    assert (before.values, after.values, after.index) == ("a", "b", 2)
    assert bad.error is not None
    assert "JSON" in bad.error
    assert (bad.values, bad.where) == (None, f"{path}:2")


def test_where_is_the_file_as_the_user_named_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_bytes(b'"a"\n')
    source = open_input("./in.jsonl")
    assert isinstance(source, InputFile)
    assert [row.where for row in source.rows(never)] == ["./in.jsonl:1"]


def test_a_skipped_row_is_not_decoded_and_still_counts(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'not json\n\n"a"\nnot json either\n"b"\n')
    assert [told(row) for row in read(path, {0, 2}.__contains__)] == [(1, 3, "a"), (3, 5, "b")]


@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".csv", ".tsv"])
def test_a_line_over_the_bound_is_an_error_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr("penstock.edges.files.inputs.CHUNK_BYTES", 64)
    path = tmp_path / f"in{suffix}"
    path.write_bytes(b'"head"\n' + b'"' + b"x" * 999 + b'"\n"last"\n')
    *_, long, last = read(path)
    assert "longer than" in (long.error or "")
    assert (long.where, last.where) == (f"{path}:2", f"{path}:3")
    assert "last" in str(last.values)


@given(content=st.binary(max_size=60).map(lambda raw: raw.replace(b"\x00", b"\n")), size=st.integers(1, 7))
def test_lines_do_not_depend_on_how_the_bytes_come(content: bytes, size: int) -> None:
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    expected = content.split(b"\n")
    assert list(split_lines(chunks)) == (expected if expected[-1] else expected[:-1])


def test_of_a_line_over_the_bound_no_more_is_held_than_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    assert [len(line) for line in split_lines([b"x" * 60] * 50 + [b"\n", b"y"])] == [120, 1]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
json_rows = st.lists(st.dictionaries(st.text(), json_values, max_size=4) | st.text(), max_size=6)
blank_lines = st.lists(st.sampled_from(["", " ", "\t  "]), max_size=2)


def layout(data: st.DataObject, texts: list[str]) -> tuple[bytes, list[int]]:
    """Texts as lines in any mix of byte order mark, line ends and blank lines, and the line that each starts on."""
    written, starts, number = "", [], 1
    for text in texts:
        for line in (*data.draw(blank_lines), text):
            start, end = number, data.draw(st.sampled_from(["\n", "\r\n"]))
            written += line + end
            number += line.count("\n") + 1
        starts.append(start)
    if data.draw(st.booleans()):
        written = written.removesuffix("\n").removesuffix("\r")
    return data.draw(st.sampled_from([b"", MARK])) + written.encode(), starts


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=json_rows, ascii_only=st.booleans())
def test_json_lines_come_back_equal_in_any_layout(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: list[Any], ascii_only: bool
) -> None:
    content, starts = layout(data, [json.dumps(row, ensure_ascii=ascii_only) for row in rows])
    path = tmp_path_factory.mktemp("rows") / "in.jsonl"
    path.write_bytes(content)
    assert [told(row) for row in read(path)] == list(zip(range(len(rows)), starts, rows, strict=True))


cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), suffix=st.sampled_from([".csv", ".tsv"]), width=st.integers(1, 4))
def test_tables_come_back_equal_in_any_layout(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, suffix: str, width: int
) -> None:
    header = [f"column {k}" for k in range(width)]
    table = data.draw(st.lists(st.lists(cells, min_size=width, max_size=width), max_size=5))
    # A table of one column cannot have lines of white space only: there they are values.
    end = st.sampled_from(["\n", "\r\n"])
    written, starts, number = "", [], 1
    for fields in [header, *table]:
        line = io.StringIO()
        csv.writer(
            line, delimiter="\t" if suffix == ".tsv" else ",", quoting=csv.QUOTE_ALL, lineterminator=""
        ).writerow(fields)
        blank = "".join(data.draw(end) for _ in range(data.draw(st.integers(0, 2))))
        starts.append(number + blank.count("\n"))
        written += blank + line.getvalue() + data.draw(end)
        number = 1 + written.count("\n")
    path = tmp_path_factory.mktemp("table") / f"in{suffix}"
    path.write_bytes(data.draw(st.sampled_from([b"", MARK])) + written.encode())
    values = [dict(zip(header, fields, strict=True)) for fields in table]
    assert [told(row) for row in read(path)] == list(zip(range(len(table)), starts[1:], values, strict=True))


TABLES: list[tuple[str, bytes, list[tuple[int, int, Any]]]] = [
    ("header only", b"a,b\n", []),
    ("fields", b"a,b\n1,x\n", [(0, 2, {"a": "1", "b": "x"})]),
    ("names are stripped", b" a , b\n1, x\n", [(0, 2, {"a": "1", "b": " x"})]),
    ("quoted newlines", b'a,b\n1,"x\r\ny\n"\n2,z', [(0, 2, {"a": "1", "b": "x\r\ny\n"}), (1, 5, {"a": "2", "b": "z"})]),
    ("quoted quotes", b'a,b\n1,"say ""hi"""\n', [(0, 2, {"a": "1", "b": 'say "hi"'})]),
    ("NUL", b"a,b\n1,x\x00y\n", [(0, 2, {"a": "1", "b": "x\0y"})]),
    ("empty cells", b"a,b\n,\n", [(0, 2, {"a": "", "b": ""})]),
    ("blank lines", b"\na,b\n\n  \n1,2\n", [(0, 5, {"a": "1", "b": "2"})]),
    ("an empty cell in the only column", b'a\n""\n', [(0, 2, {"a": ""})]),
    ("white space in the only column", b"a\n  \n", [(0, 2, {"a": "  "})]),
    ("too few fields", b"a,b\n1\n2,3", [(0, 2, "1 fields where the header has 2"), (1, 3, {"a": "2", "b": "3"})]),
    ("too many fields", b"a,b\n1,2,3", [(0, 2, "3 fields where the header has 2")]),
    ("Latin-1", b"a,b\n\xe9,1\n2,3", [(0, 2, NOT_UTF8), (1, 3, {"a": "2", "b": "3"})]),
    ("open quote", b'a,b\n1,2\n3,"x\n4,5\n', [(0, 2, {"a": "1", "b": "2"}), (1, 3, OPEN_QUOTE)]),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in TABLES], ids=[case[0] for case in TABLES])
def test_delimited_text_gives_its_rows_with_the_line_they_start_on(
    tmp_path: Path, content: bytes, expected: list[tuple[int, int, Any]]
) -> None:
    comma, tab, packed = tmp_path / "in.csv", tmp_path / "in.tsv", tmp_path / "in.csv.gz"
    comma.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    tab.write_bytes(content.replace(b",", b"\t"))
    for path in (comma, tab, packed):
        assert [told(row) for row in read(path)] == expected


def test_a_stray_quote_is_an_error_on_its_row_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b'a,b\n1,"x"y\n2,3\n')
    bad, good = read(path)
    assert "not valid CSV" in (bad.error or "")
    assert told(good) == (1, 3, {"a": "2", "b": "3"})


def test_a_cell_may_be_longer_than_the_csv_module_allows_at_first(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("a\n" + "x" * 200_000 + "\n")
    assert [len(row.values["a"]) for row in read(path)] == [200_000]


@pytest.mark.parametrize(
    ("content", "where", "reason"),
    [
        (b"", "", "the file is empty; its first line must name the columns"),
        (b"a,,c\n1,2,3", ":1", "column 2 has no name"),
        (b"\na,b,a\n1,2,3", ":2", "more than one is called a"),
        (b"a,\xe9\n1,2", ":1", "not valid UTF-8"),
        (b'a,"b\n1,2', ":1", "never closed"),
    ],
)
def test_a_table_without_a_usable_header_is_refused(tmp_path: Path, content: bytes, where: str, reason: str) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as refused:
        read(path)
    assert refused.value.where == f"{path}{where}"


def test_a_text_file_gives_a_prompt_a_line_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(MARK + b'  one \r\n\r\n"two"\x00\nf\xfcnf\nsix')
    assert [told(row) for row in read(path)] == [
        (0, 1, "  one "),
        (1, 3, '"two"\0'),
        (2, 4, NOT_UTF8),
        (3, 5, "six"),
    ]


@pytest.mark.parametrize("name", ["in", "in.json", "in.parquet", "in.gz", "in.csv.zip", "in.jsonl.gz.bak"])
def test_an_unknown_suffix_is_refused_with_those_that_are_known(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(UsageError, match=r"\.jsonl, \.ndjson, \.csv, \.tsv, \.txt"):
        open_input(str(tmp_path / name))


@pytest.mark.parametrize("name", ["missing.jsonl", "no\0name.jsonl"])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        open_input(str(tmp_path / name))


def test_a_pipe_is_refused_for_it_cannot_be_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    with pytest.raises(InputError, match="not a regular file"):
        open_input(str(tmp_path / "in.jsonl"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
def test_utf_16_is_told_as_such(tmp_path: Path, suffix: str, encoding: str) -> None:
    path = tmp_path / f"in{suffix}"
    path.write_bytes(('\ufeff{"a":1}' if encoding.endswith("be") else '{"a":1}').encode(encoding))
    with pytest.raises(InputError, match="convert it to UTF-8"):
        open_input(str(path))


def test_a_file_without_read_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"{}")

    def denied(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InputError, match="Permission denied"):
        open_input(str(path))


def test_what_is_not_gzip_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(b'{"a":1}\n')
    with pytest.raises(InputError, match="not a gzip file"):
        open_input(str(path))


def damaged(packed: bytes) -> Iterator[bytes]:
    yield packed[:-20]
    yield packed[:-8] + b"\0" * 8
    yield packed + b"garbage"
    middle = len(packed) // 2
    yield packed[:middle] + bytes(byte ^ 0xFF for byte in packed[middle : middle + 50]) + packed[middle + 50 :]


@pytest.mark.parametrize("kind", range(4), ids=["cut", "wrong checksum", "garbage after it", "flipped bytes"])
def test_damaged_gzip_ends_the_reading_with_an_error_that_names_the_file(tmp_path: Path, kind: int) -> None:
    content = b"".join(b'"%s"\n' % hashlib.sha256(b"%d" % k).hexdigest().encode() for k in range(50_000))
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(list(damaged(gzip.compress(content, 1)))[kind])
    with pytest.raises(InputError, match="damaged") as refused:
        read(path)
    assert refused.value.where == str(path)


def test_a_digest_is_that_of_the_bytes_on_disk(tmp_path: Path) -> None:
    content = gzip.compress(b'"a"\n' * 10)
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(content)
    source = open_input(str(path))
    assert source.repeatable
    assert source.digest() == hashlib.blake2b(content, digest_size=16).digest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose order as paths differs from the order in which a walk finds it."""
    root = tmp_path / "docs"
    for name, content in {
        "a/z.txt": b"1",
        "a-b.md": MARK + b"2",
        "a.txt": b"drei\r\n",
        "b/c/d.rst": b"4",
        "B.txt": b"",
        ".hidden": b"no",
        ".git/config": b"no",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_a_folder_gives_a_row_a_file_ordered_by_path_without_hidden_ones(folder: Path) -> None:
    rows = read(folder)
    expected = [("B.txt", ""), ("a-b.md", "2"), ("a.txt", "drei\r\n"), ("a/z.txt", "1"), ("b/c/d.rst", "4")]
    assert [(row.values["path"], row.values["text"]) for row in rows] == expected
    assert [row.index for row in rows] == list(range(5))
    assert rows[3].where == f"{folder}/a/z.txt"
    assert [row.index for row in read(folder, {0, 1, 3}.__contains__)] == [2, 4]


def test_a_file_of_a_folder_that_cannot_be_a_row_is_an_error_not_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    (folder / "c.png").write_bytes(b"\x89PNG\xff")
    (folder / "d.txt").write_bytes("wide".encode("utf-16"))
    (folder / "e.txt").symlink_to("nowhere")
    (folder / "f.txt").write_bytes(b"x" * 101)
    (Path(os.fsdecode(os.fsencode(folder) + b"/g\xff.txt"))).write_bytes(b"x")
    errors = {row.where.rpartition("/")[2]: row.error or "" for row in read(folder) if row.error}
    expected = {
        "c.png": "not UTF-8 text",
        "d.txt": "UTF-16",
        "e.txt": "No such file",
        "f.txt": "longer than",
        "g\\xff.txt": "name is not valid UTF-8",
    }
    assert errors.keys() == expected.keys()
    assert [name for name, part in expected.items() if part not in errors[name]] == []


def test_links_to_files_are_rows_and_links_to_folders_are_not_followed(folder: Path) -> None:
    (folder / "c.txt").symlink_to(folder / "a.txt")
    (folder / "loop").symlink_to(folder)
    assert [row.values["path"] for row in read(folder)][-1] == "c.txt"
    assert len(read(folder)) == 6


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").write_text("x")
    with pytest.raises(InputError, match="no file in this folder"):
        open_input(str(tmp_path))


def test_the_digest_of_a_folder_tells_every_change_of_its_rows(folder: Path) -> None:
    def digest() -> bytes:
        source = open_input(str(folder))
        assert source.repeatable
        return source.digest()

    seen = [digest()]
    assert digest() == seen[0]
    (folder / ".hidden").write_text("changed")
    assert digest() == seen[0]
    (folder / "a.txt").write_text("other")
    seen.append(digest())
    (folder / "a.txt").rename(folder / "c.txt")
    seen.append(digest())
    (folder / "c.txt").unlink()
    seen.append(digest())
    assert len(set(seen)) == 4


class Pipe:
    """A pipe whose reading end is given to StandardInput."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def source(self) -> StandardInput:
        return StandardInput(self.reading)

    def write(self, content: bytes) -> None:
        os.write(self.writing, content)

    def end(self) -> None:
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.end()  # ends the reader thread, which must be gone before its descriptor may be closed
    for thread in threading.enumerate():
        if thread.name == "penstock-standard-input":
            thread.join()
    os.close(made.reading)


def test_a_dash_is_standard_input_which_can_be_read_once() -> None:
    source = open_input("-")
    assert isinstance(source, StandardInput)
    assert not source.repeatable


async def test_standard_input_gives_json_lines_until_its_end(pipe: Pipe) -> None:
    pipe.write(MARK + b'{"a":1}\r\n\n"x"\nbad\n[]\n"last"')
    pipe.end()
    rows = [row async for row in pipe.source().rows(never)]
    assert [(row.index, row.where, row.values) for row in rows] == [
        (0, "-:1", {"a": 1}),
        (1, "-:3", "x"),
        (2, "-:4", None),
        (3, "-:5", None),
        (4, "-:6", "last"),
    ]
    assert [row.error is None for row in rows] == [True, True, False, False, True]


async def test_a_row_of_a_pipe_comes_as_soon_as_its_line_is_whole(pipe: Pipe) -> None:
    rows = aiter(pipe.source().rows(never))
    for k in range(3):
        pipe.write(b'"%d"\n"cut' % k if k == 2 else b'"%d"\n' % k)
        assert (await anext(rows)).values == str(k)
    pipe.write(b' in two"\n')
    assert (await anext(rows)).values == "cut in two"
    pipe.end()
    assert [row async for row in rows] == []


async def test_rows_of_standard_input_that_are_skipped_still_count(pipe: Pipe) -> None:
    pipe.write(b'bad\n"a"\nbad\n"b"\n')
    pipe.end()
    rows = [row async for row in pipe.source().rows({0, 2}.__contains__)]
    assert [told(row) for row in rows] == [(1, 2, "a"), (3, 4, "b")]


async def test_utf_16_on_standard_input_ends_the_reading(pipe: Pipe) -> None:
    pipe.write('"a"\n'.encode("utf-16"))
    pipe.end()
    with pytest.raises(InputError, match="UTF-16"):
        await anext(aiter(pipe.source().rows(never)))


async def test_a_descriptor_that_cannot_be_read_is_an_error_not_an_empty_input(pipe: Pipe) -> None:
    with pytest.raises(InputError, match="standard input cannot be read"):
        await anext(aiter(StandardInput(pipe.writing).rows(never)))


@pytest.mark.parametrize(("line", "room"), [(b"x", 256), (b"x" * (1 << 20), 4)], ids=["by count", "by bytes"])
async def test_a_slow_consumer_holds_back_the_reader_and_loses_nothing(line: bytes, room: int) -> None:
    hand_over, filled = HandOver(), threading.Event()

    def read_on() -> None:
        for number in range(3 * room):
            if number in (room, 2 * room):
                filled.set()
            hand_over.put((number, line))
        hand_over.end(None)

    thread = threading.Thread(target=read_on)
    thread.start()
    numbers: list[int] = []
    while len(numbers) < 2 * room:
        await asyncio.to_thread(filled.wait)
        filled.clear()
        taken = await hand_over.take()
        assert len(taken) == room
        numbers += [number for number, _ in taken]
    while taken := await hand_over.take():
        numbers += [number for number, _ in taken]
    thread.join()
    assert numbers == list(range(3 * room))


async def test_an_error_is_raised_only_after_the_lines_before_it() -> None:
    hand_over = HandOver()
    hand_over.put((1, b"x"))
    hand_over.end(InputError("-", "broken"))
    assert await hand_over.take() == [(1, b"x")]
    with pytest.raises(InputError, match="broken"):
        await hand_over.take()


async def test_a_consumer_that_leaves_sends_a_waiting_reader_home(pipe: Pipe) -> None:
    written = threading.Thread(target=lambda: [pipe.write(b'"x"\n' * 1000) for _ in range(50)])
    source = pipe.source()
    async with aclosing(source._rows(never)) as rows:
        written.start()
        await anext(rows)
        readers = [thread for thread in threading.enumerate() if thread.name == "penstock-standard-input"]
    for reader in readers:
        await asyncio.to_thread(reader.join)
    drained = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(pipe.reading, 1 << 16), b"")])
    drained.start()
    written.join()
    pipe.end()
    drained.join()
    assert len(readers) == 1


SILENT = """
import asyncio
from penstock.edges.files import open_input

async def main():
    rows = aiter(open_input("-").rows(lambda index: False))
    print((await anext(rows)).values, flush=True)
    waiting = asyncio.ensure_future(anext(rows))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    print(waiting.cancelled(), flush=True)

asyncio.run(main())
"""


def test_a_silent_pipe_does_not_keep_a_cancelled_process_from_ending() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SILENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b'"first"\n')
        process.stdin.flush()
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() == b"first\nTrue\n"
        assert process.stderr.read() == b""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_output_is_seen_whole_and_only_at_the_finish(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_bytes(b"old\n")
    sink = OutputFile(str(target))
    for k in range(100):
        sink.write(b"%d" % k * 20_000)
    assert target.read_bytes() == b"old\n"
    assert names(tmp_path) == [f".out.jsonl.{os.getpid()}.tmp", "out.jsonl"]
    sink.finish()
    assert target.read_bytes() == b"".join(b"%d" % k * 20_000 + b"\n" for k in range(100))
    assert names(tmp_path) == ["out.jsonl"]
    sink.abandon()
    assert names(tmp_path) == ["out.jsonl"]


def test_an_output_without_lines_is_an_empty_file(tmp_path: Path) -> None:
    OutputFile(str(tmp_path / "out.jsonl")).finish()
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_an_abandoned_output_leaves_everything_as_it_was(tmp_path: Path) -> None:
    sink = OutputFile(str(tmp_path / "out.jsonl"))
    sink.write(b"line")
    sink.abandon()
    sink.abandon()
    assert names(tmp_path) == []


def test_the_finish_syncs_the_file_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, bool]] = []
    target = tmp_path / "out.jsonl"

    def note(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), target.exists()))

    monkeypatch.setattr(os, "fsync", note)
    OutputFile(str(target)).finish()
    assert synced == [(False, False), (True, True)]


def test_a_new_output_has_the_permissions_of_any_file_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    plain, target = tmp_path / "plain", tmp_path / "out.jsonl"
    plain.touch()
    OutputFile(str(target)).finish()
    assert target.stat().st_mode == plain.stat().st_mode
    target.chmod(0o600)
    OutputFile(str(target)).finish()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_an_output_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "out.jsonl"
    link.symlink_to("far/real.jsonl")
    sink = OutputFile(str(link))
    sink.write(b"line")
    sink.finish()
    assert link.is_symlink()
    assert (tmp_path / "far" / "real.jsonl").read_bytes() == b"line\n"


def test_temporaries_of_dead_runs_of_this_output_are_removed_and_no_other_file(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    stale = [f".out.jsonl.{process.pid}.tmp", f".out.jsonl.{os.getpid()}.tmp"]
    kept = [
        ".other.jsonl.1.tmp",
        f".out.jsonl.{os.getppid()}.tmp",
        ".out.jsonl.x.tmp",
        f"out.jsonl.{process.pid}.tmp",
        f".out-jsonl.{process.pid}.tmp",
    ]
    for name in stale + kept:
        (tmp_path / name).touch()
    OutputFile(str(tmp_path / "out.jsonl")).abandon()
    assert names(tmp_path) == sorted(kept)


def no_space(*_args: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_stops_the_run_and_leaves_output_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = OutputFile(str(tmp_path / "out.jsonl"))
    sink.write(b"line")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunStopped, match=r"out\.jsonl cannot be written: No space left on device") as stopped:
        sink.finish()
    assert stopped.value.reason == "disk"
    sink.abandon()
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_line_that_does_not_fit_on_the_disk_stops_the_run(tmp_path: Path) -> None:
    sink = OutputFile(str(tmp_path / "out.jsonl"))
    sink._stream.close()
    sink._stream = Path("/dev/full").open("wb")  # noqa: SIM115
    with pytest.raises(RunStopped, match="No space left"):
        sink.write(b"x" * 100_000)
    sink.abandon()
    assert names(tmp_path) == []


def test_an_output_that_cannot_be_started_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match="No such file or directory; mend that"):
        OutputFile(str(tmp_path / "missing" / "out.jsonl"))


@pytest.mark.parametrize(("number", "raised"), [(22, False), (95, False), (5, True)])
def test_only_a_folder_that_knows_no_sync_is_forgiven_for_not_doing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: bool
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", fail)
    if raised:
        with pytest.raises(OSError, match="no"):
            output._sync_folder(tmp_path)
    else:
        output._sync_folder(tmp_path)
        assert names(tmp_path) == []


def same(tmp_path: Path) -> tuple[str, str]:
    return str(tmp_path / "in.jsonl"), str(tmp_path / "in.jsonl")


def linked(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "link").symlink_to("in.jsonl")
    return str(tmp_path / "in.jsonl"), str(tmp_path / "link")


def hard_linked(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "link").hardlink_to(tmp_path / "in.jsonl")
    return str(tmp_path / "in.jsonl"), str(tmp_path / "link")


def inside(tmp_path: Path) -> tuple[str, str]:
    return str(tmp_path), str(tmp_path / "out.jsonl")


def is_folder(tmp_path: Path) -> tuple[str, str]:
    return "-", str(tmp_path)


def is_device(_tmp_path: Path) -> tuple[str, str]:
    return "-", os.devnull


def no_folder(tmp_path: Path) -> tuple[str, str]:
    return "-", str(tmp_path / "missing" / "out.jsonl")


def dash(_tmp_path: Path) -> tuple[str, str]:
    return "-", "-"


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (same, "is the input itself"),
        (linked, "is the input itself"),
        (hard_linked, "is the input itself"),
        (inside, "inside the input folder"),
        (is_folder, "is a folder"),
        (is_device, "not a regular file"),
        (no_folder, "does not exist; create it"),
        (dash, "must be a file"),
    ],
)
def test_an_output_that_would_destroy_something_is_refused_even_with_a_ledger(
    tmp_path: Path, paths: Callable[[Path], tuple[str, str]], reason: str
) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"{}\n")
    source, target = paths(tmp_path)
    with pytest.raises(OutputRefused, match=reason):
        check_output(source, target, ledger_exists=True)


def test_an_output_that_exists_needs_its_ledger(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").touch()
    target = tmp_path / "out.jsonl"
    paths = str(tmp_path / "in.jsonl"), str(target)
    check_output(*paths, ledger_exists=False)
    target.touch()
    check_output(*paths, ledger_exists=True)
    with pytest.raises(OutputRefused, match="no ledger stands beside it"):
        check_output(*paths, ledger_exists=False)


def test_an_output_in_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(OutputRefused, match="is not writable"):
        check_output("-", str(tmp_path / "out.jsonl"), ledger_exists=False)
