"""Whatever stands in a file, a row, a template or a variable: values of our types, or errors of ours."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.edges.environment import api_key
from penstock.edges.files import Input, open_input
from penstock.edges.http.proxies import Proxies
from penstock.edges.http.wire import Origin
from penstock.errors import UsageError
from penstock.providers.catalog import SERVICES
from penstock.providers.openai import chat_completions
from penstock.records import RawRow, Row
from penstock.rules.template import Template
from tests.fuzz.profile import check_told, fuzz

FRAGMENTS = [
    b'{"prompt": "a"}\n',
    b'{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":{}}\n',
    b"a,b\n",
]
FRAGMENTS += [
    b'"',
    b'"a""b",\r\n',
    b"\t",
    b"\r",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x00",
    b"\xed\xa0\x80",
    b"[" * 3_000,
    b"1e999\n",
]
CONTENT = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=30)), max_size=12).map(b"".join)
SUFFIXES = [".jsonl", ".ndjson", ".csv", ".tsv", ".txt"]
TEXT = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
KNOWN = st.sampled_from(
    ["prompt", "messages", "params", "id", "custom_id", "model", "method", "url", "body", "text", "system"]
)
ROWS = st.dictionaries(KNOWN | TEXT, JSON, max_size=6)
PROVIDER = chat_completions(SERVICES["openai"], api_key="sk-x")


def check_rows(source: Input) -> None:
    """Every row is one, in order; reading it twice tells the same."""
    rows = list(source.rows(lambda _: False))  # type: ignore[arg-type]
    assert [row.index for row in rows] == list(range(len(rows)))
    assert all(isinstance(row, RawRow) and row.where for row in rows)
    assert repr(list(source.rows(lambda _: False))) == repr(rows)  # type: ignore[arg-type]


def read(path: Path) -> None:
    try:
        source = open_input(str(path))
        source.digest()  # type: ignore[union-attr]
        check_rows(source)
    except UsageError as error:
        check_told(error)


@pytest.mark.parametrize("suffix", SUFFIXES)
@fuzz
@given(content=CONTENT)
def test_any_bytes_as_an_input_are_rows_or_a_typed_error(tmp_path: Path, suffix: str, content: bytes) -> None:
    """In each format: rows that can be read again, or an error that says what is wrong."""
    path = tmp_path / f"in{suffix}"
    path.write_bytes(content)
    read(path)


@fuzz
@given(content=CONTENT, cut=st.integers(0, 40), at=st.integers(0, 60), flip=st.integers(0, 255))
def test_any_bytes_as_a_compressed_input_are_rows_or_a_typed_error(
    tmp_path: Path, content: bytes, cut: int, at: int, flip: int
) -> None:
    """Whole, cut off, changed by a byte, or not compressed at all."""
    packed = bytearray(gzip.compress(content, mtime=0))
    if at < len(packed):
        packed[at] ^= flip
    path = tmp_path / "in.jsonl.gz"
    for stored in (bytes(packed)[: len(packed) - cut], content):
        path.write_bytes(stored)
        read(path)


@fuzz
@given(
    prompt=st.none() | st.text(alphabet="{}a:!._ \n[]0") | st.just("{text}"),
    row=ROWS | TEXT | JSON,
    system=st.none() | TEXT,
)
def test_any_row_and_template_make_a_request_or_a_typed_error(prompt: str | None, row: Any, system: str | None) -> None:
    """A request that the provider can write as JSON, or an error of the row or of the template."""
    try:
        made = Template(prompt=prompt, system=system).row(RawRow(0, "in:1", row))
        body = PROVIDER.encode(made.request, "m")
    except UsageError as error:
        check_told(error)
    else:
        assert isinstance(made, Row)
        assert body.startswith(b"{")


URLS = st.sampled_from(
    ["http://", "https://", "socks5://", "me:pw@", "h", ":1", ":x", "[::1]", "[", "/", "%zz", "\u20ac", " "]
)
VALUES = st.lists(URLS | TEXT, max_size=5).map("".join)


@fuzz
@given(proxy=VALUES, direct=VALUES, key=TEXT, host=st.sampled_from(["h", "127.0.0.1", "::1"]))
def test_any_variables_are_understood_or_a_typed_error(proxy: str, direct: str, key: str, host: str) -> None:
    """Proxies, exceptions and keys; a proxy's credentials are in no message."""
    environ = {"HTTPS_PROXY": proxy, "NO_PROXY": direct, "KEY": key}
    try:
        chosen = Proxies(environ).proxy_for(Origin("https", host, 443))
        assert chosen is None or chosen.origin.host
    except UsageError as error:
        check_told(error)
    try:
        found = api_key(["KEY"], environ)
        assert found is None or (found.isascii() and found.isprintable() and " " not in found)
    except UsageError as error:
        check_told(error, "KEY")
