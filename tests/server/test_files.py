"""`/v1/files`: what a client may put in, what it gets back, and what nobody can make of it."""

from __future__ import annotations

import asyncio
import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest

from penstock.edges.batches import Content
from penstock.server import uploads
from tests.kit.batching import BOUNDARY, UPLOAD, begin, clock_of, content_of, ended, form, lines, part, upload
from tests.kit.command import snapshot
from tests.kit.serving import Served, echoes, gateway, key_of, serving_process, wire

ID = re.compile(r"file-[0-9a-f]{24}")
END = f"--{BOUNDARY}--\r\n".encode()


def contents(data: Path) -> set[str]:
    """The names that lie among the contents of files."""
    return {path.name for path in (data / "files").iterdir()}


# -- the shape


async def test_a_file_goes_in_and_comes_back_byte_for_byte(tmp_path: Path) -> None:
    """Any bytes, also what looks like the form around them; the object has every required key."""
    content = b"\x00\xff\r\n--" + BOUNDARY[:-1].encode() + b"\r\n" + bytes(range(256)) * 5_000 + b"\r\n--"
    async with gateway(echoes, tmp_path) as (server, _):
        file = await upload(server, content, filename="in put.jsonl")
        known = {"object": "file", "purpose": "batch", "status": "processed", "filename": "in put.jsonl"}
        times = {"created_at": file["created_at"], "expires_at": file["created_at"] + 30 * 86_400}
        assert file == {"id": file["id"], "bytes": len(content), **known, **times}
        assert ID.fullmatch(file["id"])
        assert (await server.ask(f"/v1/files/{file['id']}")).json == file
        told = await server.ask(f"/v1/files/{file['id']}/content", headers={"accept": "application/binary"})
        assert (told.body, told.header("content-length")) == (content, str(len(content)))
        assert (told.kind, told.header("x-content-type-options")) == ("application/octet-stream", "nosniff")


async def test_files_are_listed_by_pages(tmp_path: Path) -> None:
    """The newest first, or the oldest; `after` is the last id of the page before; by purpose."""
    async with gateway(echoes, tmp_path) as (server, _):
        made = [(await upload(server, b"x", filename=f"{n}"))["id"] for n in range(3)]
        listed = (await server.ask("/v1/files?limit=2")).json
        assert [file["id"] for file in listed["data"]] == [made[2], made[1]]
        told = {"object": "list", "first_id": made[2], "last_id": made[1], "has_more": True}
        assert {name: listed[name] for name in told} == told
        rest = (await server.ask(f"/v1/files?limit=2&after={made[1]}")).json
        assert ([file["id"] for file in rest["data"]], rest["has_more"]) == ([made[0]], False)
        oldest = (await server.ask("/v1/files?order=asc&purpose=batch")).json
        assert [file["id"] for file in oldest["data"]] == made
        empty = (await server.ask("/v1/files?purpose=batch_output")).json
        assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_a_list_that_cannot_be(tmp_path: Path) -> None:
    """A 400 that names the parameter."""
    async with gateway(echoes, tmp_path) as (server, _):
        for query in ("limit=0", "limit=10001", "limit=x", "order=up", "after=file-1", "after=%00"):
            told = await server.ask(f"/v1/files?{query}")
            assert (told.status, query.partition("=")[0] in told.error["param"]) == (400, True), query


async def test_a_file_is_deleted(tmp_path: Path) -> None:
    """It is gone for every question, and its content from the disk; a second deletion finds nothing."""
    async with gateway(echoes, tmp_path) as (server, _):
        file = await upload(server, b"x")
        path = f"/v1/files/{file['id']}"
        told = await server.ask(path, method="DELETE")
        assert told.json == {"id": file["id"], "object": "file", "deleted": True}
        for method, target in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            assert (await server.ask(target, method=method)).status == 404
        assert contents(tmp_path) == set()


async def test_a_file_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the seconds that the form asked for, or thirty days; and the disk is swept."""
    clock = clock_of(monkeypatch)
    asked = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    async with gateway(echoes, tmp_path) as (server, _):
        short, long = await upload(server, b"x", **asked), await upload(server, b"y")
        assert short["expires_at"] - short["created_at"] == 3600
        clock.advance(3_599)
        assert (await server.ask(f"/v1/files/{short['id']}")).status == 200
        clock.advance(1)
        assert (await server.ask(f"/v1/files/{short['id']}")).status == 404
        assert [file["id"] for file in (await server.ask("/v1/files")).json["data"]] == [long["id"]]
        clock.advance(300)
        await server.server.keeping.do(lambda: None)
        await server.server.keeping.do(lambda: None)
        assert contents(tmp_path) == {long["id"]}


async def test_a_download_outlives_its_file(tmp_path: Path) -> None:
    """Whoever has begun to read gets all of it, though it is deleted meanwhile."""
    content = b"0123456789abcdef" * 500_000
    async with gateway(echoes, tmp_path) as (server, _), wire(server.port) as line:
        file = await upload(server, content)
        await line.send(server.request("GET", f"/v1/files/{file['id']}/content"))
        await line.head()
        assert (await server.ask(f"/v1/files/{file['id']}", method="DELETE")).status == 200
        assert await line.body() == content


# -- what is refused


BAD_FORMS: list[tuple[bytes, str]] = [
    (form(b"x", purpose=None), "purpose"),
    (form(b"x", purpose="assistants"), "purpose"),
    (form(b"x", purpose="batch_output"), "purpose"),
    (part("purpose", b"batch") + END, "`file`"),
    (part("purpose", b"batch") + part("file", b"x") + END, "`file`"),
    (part("file", b"x", "a") + part("file", b"y", "b") + part("purpose", b"batch") + END, "more than one file"),
    (form(b"x")[:-10], "cut off"),
    (form(b"x")[:40], "cut off"),
    (b"", "cut off"),
    (b"no form at all", "multipart"),
    (b"\x00" * 1000, "multipart"),
    (form(b"x", note="y" * 5_000), "longer than"),
    (b"".join(part(f"f{n}", b"") for n in range(20)) + END, "parts"),
    (part("x" * 100_000, b"") + END, "multipart"),
    (form(b"x", filename="n" * 513), "longer than"),
    (form(b"x", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "1"}), "expires_after"),
    (form(b"x", **{"expires_after[seconds]": "3600"}), "expires_after"),
]


async def test_bad_uploads(tmp_path: Path) -> None:
    """A 400 that says what is wrong, and nothing is left on the disk."""
    async with gateway(echoes, tmp_path) as (server, _):
        for body, words in BAD_FORMS:
            told = await server.ask("/v1/files", body, headers=UPLOAD)
            assert (told.status, words in told.error["message"]) == (400, True), (body[:200], told)
            assert contents(tmp_path) == set()
        for kind in ("multipart/form-data", "multipart/form-data; boundary=", "application/json"):
            told = await server.ask("/v1/files", b"{}", headers=UPLOAD | {"content-type": kind})
            assert (told.status, "boundary" in told.error["message"]) == (400, True), kind
        assert (await server.ask("/v1/files")).json["data"] == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_that_is_too_large(tmp_path: Path, chunked: bool) -> None:
    """Refused by its length before a byte of it is read, and without a length as soon as it is too much."""
    body = form(b"x" * 200_000)
    async with gateway(echoes, tmp_path, max_upload_mib=0.1) as (server, _), wire(server.port) as line:
        headers = dict(UPLOAD) | ({"transfer-encoding": "chunked"} if chunked else {"content-length": str(len(body))})
        await line.send(server.request("POST", "/v1/files", headers=headers))
        try:
            await line.send(*(b"%x\r\n%b\r\n" % (len(body), body),) if chunked else (body[:1000],))
        except ConnectionError:
            pass  # it need not listen to the end
        told = await line.answer()
        assert (told.status, told.error["code"], told.header("connection")) == (413, "body_too_large", "close")
        assert contents(tmp_path) == set()


async def test_an_upload_whose_sender_goes_leaves_nothing(tmp_path: Path) -> None:
    """Half a file is no file."""
    async with gateway(echoes, tmp_path) as (server, _):
        async with wire(server.port) as line:
            headers = UPLOAD | {"content-length": "1000000"}
            await line.send(server.request("POST", "/v1/files", headers=headers), form(b"x" * 600_000)[:500_000])
            while not contents(tmp_path):
                assert (await server.ask("/healthz")).status == 200
        while contents(tmp_path):
            assert (await server.ask("/healthz")).status == 200
        assert (await server.ask("/v1/files")).json["data"] == []


async def test_an_upload_that_stalls_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 408, and nothing is left."""
    monkeypatch.setattr(uploads, "SLOWEST_PIECE", 0.05)
    async with gateway(echoes, tmp_path) as (server, _), wire(server.port) as line:
        await line.send(
            server.request("POST", "/v1/files", headers=UPLOAD | {"content-length": "1000"}), form(b"x")[:50]
        )
        told = await line.answer()
        assert (told.status, told.error["code"]) == (408, "request_timeout")
        assert contents(tmp_path) == set()


@pytest.mark.parametrize("step", ["write", "sync", "keep"])
async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A 507 at whatever step the disk refuses; nothing is left, and the next upload goes through."""

    def refuses(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with gateway(echoes, tmp_path) as (server, _):
        with monkeypatch.context() as patch:
            patch.setattr(Content, step, refuses)
            told = await server.ask("/v1/files", form(b"x"), headers=UPLOAD)
        assert (told.status, told.error["code"]) == (507, "insufficient_storage")
        assert contents(tmp_path) == set()
        assert (await upload(server, b"x"))["bytes"] == 1


def test_a_large_upload_is_never_in_memory(tmp_path: Path) -> None:
    """160 MB, and a flood of parts, through a server whose memory grows by less than 64 MiB."""
    piece = b"0123456789abcdef" * 65_536
    head, tail = form(b"\0")[: -len(END)].split(b"\0")
    flood = part("a", b"") * 50_000

    async def send(port: int) -> None:
        usual = f"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        usual += "".join(f"{name}: {value}\r\n" for name, value in UPLOAD.items())
        async with wire(port) as line:
            length = len(head) + 160 * len(piece) + len(tail) + len(END)
            await line.send(f"{usual}content-length: {length}\r\n\r\n".encode(), head, *[piece] * 160, tail + END)
            told = await line.answer()
            assert (told.status, json.loads(told.body)["bytes"]) == (200, 160 * len(piece))
        async with wire(port) as line:
            try:
                await line.send(f"{usual}content-length: {len(flood)}\r\n\r\n".encode() + flood)
            except ConnectionError:
                pass  # it need not listen to the end
            # The reset of whoever writes on after the answer may cost it the answer.
            assert (await line.ended())[:13] in (b"HTTP/1.1 400 ", b"")
        async with wire(port) as line:
            await line.send(f"GET /v1/files HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert len(json.loads((await line.answer()).body)["data"]) == 1

    def peak_kib() -> int:
        return int(re.findall(r"VmHWM:\s*(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())[0])

    with serving_process("-m", "builtin/extractive", "--data", str(tmp_path / "data")) as server:
        before = peak_kib()
        asyncio.run(send(server.port))
        assert peak_kib() - before < 64 * 1024


# -- names and paths

NAMES = [
    *("../../../../etc/passwd", "/etc/passwd", "C:\\Windows\\x", "..", ".", "a/b", "a\\b", "\u202egpj.exe", "a\u0000b"),
    *(
        "con",
        "x" * 512,
        "\u00fc\U0001f600.jsonl",
        "-rf",
        "$(id)",
        "<script>alert(1)</script>",
        "; rm -rf /",
        "%2e%2e%2f",
    ),
]


async def test_a_filename_is_nothing_but_text(tmp_path: Path) -> None:
    """Whatever it says, the content lies under a name of the server's, and nothing is written elsewhere."""
    data = tmp_path / "data"
    async with gateway(echoes, data) as (server, _):
        made = [await upload(server, name.encode(), filename=name) for name in NAMES]
        assert contents(data) == {file["id"] for file in made}
        assert {path.name for path in tmp_path.rglob("*")} - contents(data) <= {
            *("data", "files", "batches", "requests.jsonl", "batches.lock"),
            *("batches.sqlite", "batches.sqlite-wal", "batches.sqlite-shm"),
        }
        for name, file in zip(NAMES, made, strict=True):
            assert await content_of(server, file["id"]) == name.encode()
    assert not (tmp_path / "etc").exists()


IDS = [
    *("..%2f..%2f..%2fetc%2fpasswd", "%2e%2e", "%2e%2e%2fbatches.sqlite", "file-%00", "file-*", "%5c..%5c", "file-"),
    *("file-0123456789abcdef01234567%0a", "FILE-0123456789abcdef01234567", "file-%EF%BC%90123456789abcdef01234567"),
    *(
        "file-0123456789abcdef01234567",
        "file-" + "a" * 5_000,
        "batches.sqlite",
        "%252e%252e%252f",
        "..;",
        "~root",
        "'--",
    ),
    *(".", "..", "../batches.sqlite", "%ff%fe", "file-0123456789abcdef01234567%00.jsonl"),
]


async def test_no_id_reaches_the_disk_that_is_not_ours(tmp_path: Path) -> None:
    """Every question about an id that we did not make ends in 404 (or in no route), and changes nothing."""
    async with gateway(echoes, tmp_path) as (server, _):
        await upload(server, b"x")
        before = {name: state for name, state in snapshot(tmp_path).items() if not name.startswith(("batches.", "req"))}
        for name in IDS:
            for method, target in (
                ("GET", f"/v1/files/{name}"),
                ("GET", f"/v1/files/{name}/content"),
                ("DELETE", f"/v1/files/{name}"),
                ("GET", f"/v1/batches/{name}"),
                ("POST", f"/v1/batches/{name}/cancel"),
            ):
                told = await server.ask(target, b"{}" if method == "POST" else None, method=method)
                assert told.status in (404, 405), (method, target, told)
                assert told.error["message"]
            asked = {"input_file_id": name, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            assert (await server.ask("/v1/batches", asked)).status == 404
        after = {name: state for name, state in snapshot(tmp_path).items() if not name.startswith(("batches.", "req"))}
        assert after == before


# -- tenancy


async def test_what_belongs_to_another_key_is_not_there(tmp_path: Path) -> None:
    """404 for each question, nothing in the list, no cursor, no batch over it; its owner finds it as it was."""
    keys = {"alice": "interactive", "bob": "interactive"}
    alice, bob = key_of("alice"), key_of("bob")
    async with gateway(echoes, tmp_path, keys=keys) as (server, _):
        file = await upload(server, b"hers", key=alice)
        path = f"/v1/files/{file['id']}"
        for method, target in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            assert (await server.ask(target, method=method, key=bob)).status == 404
        assert (await server.ask("/v1/files", key=bob)).json["data"] == []
        assert (await server.ask(f"/v1/files?after={file['id']}", key=bob)).status == 400
        asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        refused = await server.ask("/v1/batches", asked, key=bob)
        assert (refused.status, refused.error["param"]) == (404, "input_file_id")
        assert await content_of(server, file["id"], alice) == b"hers"


async def test_the_files_of_a_batch_belong_to_its_key(tmp_path: Path) -> None:
    """Its output is found by its owner and by nobody else."""
    keys = {"alice": "interactive", "bob": "interactive"}
    alice, bob = key_of("alice"), key_of("bob")
    async with gateway(echoes, tmp_path, keys=keys) as (server, _):
        batch = await ended(server, await begin(server, lines(2), alice), "completed", alice)
        assert len((await content_of(server, batch["output_file_id"], alice)).splitlines()) == 2
        assert (await server.ask(f"/v1/files/{batch['output_file_id']}/content", key=bob)).status == 404
        assert (await server.ask("/v1/files", key=bob)).json["data"] == []


async def test_files_are_there_after_a_restart(tmp_path: Path) -> None:
    """With their contents and dates; what a crash left half written is gone."""
    async with gateway(echoes, tmp_path) as (server, _):
        file = await upload(server, b"\x00x")
    (tmp_path / "files" / f".{'0' * 24}.part").write_bytes(b"half")
    async with gateway(echoes, tmp_path) as (server, _):
        listed: Served = server
        assert (await listed.ask("/v1/files")).json["data"] == [file]
        assert await content_of(listed, file["id"]) == b"\x00x"
        assert contents(tmp_path) == {file["id"]}
