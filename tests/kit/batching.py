"""Batches as a client works with them: uploads, inputs, questions until a batch has come so far, and its files as rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from penstock.testing import ManualClock
from tests.kit.serving import MODEL, Answer, Asked, Peer, Respond, Served, error_answer, whole

BOUNDARY = "----form-of-a-test"
BATCH_CHAT = "/v1/chat/completions"
MOST_QUESTIONS = 20_000
"""Each waits for its answer; a batch that has not come so far by then is stuck."""


def line(index: int, model: str = "gpt-5-mini", **body: Any) -> dict[str, Any]:
    """A line of an input, named `row-INDEX`, that asks `prompt INDEX`."""
    messages = [{"role": "user", "content": f"prompt {index}"}]
    return {
        "custom_id": f"row-{index}",
        "method": "POST",
        "url": BATCH_CHAT,
        "body": {"model": model, "messages": messages, **body},
    }


def lines(rows: int, **body: Any) -> bytes:
    """An input of so many rows."""
    return jsonl(line(index, **body) for index in range(rows))


def jsonl(values: Iterable[Any]) -> bytes:
    """Values as JSON lines."""
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    """One part of a form."""
    named = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    return f"--{BOUNDARY}\r\nContent-Disposition: {named}\r\n\r\n".encode() + content + b"\r\n"


def form(content: bytes, filename: str = "input.jsonl", purpose: str | None = "batch", **fields: str) -> bytes:
    """The form of an upload."""
    told = ({} if purpose is None else {"purpose": purpose}) | fields
    parts = [part(name, value.encode()) for name, value in told.items()]
    return b"".join([*parts, part("file", content, filename), f"--{BOUNDARY}--\r\n".encode()])


UPLOAD = {"content-type": f"multipart/form-data; boundary={BOUNDARY}", "x-penstock-upload": "1"}


async def upload(server: Served, content: bytes, key: str | None = None, **options: Any) -> dict[str, Any]:
    """The file that an upload makes."""
    told = await server.ask("/v1/files", form(content, **options), headers=UPLOAD, key=key)
    assert told.status == 200, told
    return dict(told.json)


async def begin(server: Served, content: bytes, key: str | None = None, **further: Any) -> dict[str, Any]:
    """A batch over an input."""
    file = await upload(server, content, key)
    asked = {"input_file_id": file["id"], "endpoint": BATCH_CHAT, "completion_window": "24h", **further}
    told = await server.ask("/v1/batches", asked, key=key)
    assert told.status == 200, told
    return dict(told.json)


async def until(
    server: Served, batch: dict[str, Any], enough: Callable[[dict[str, Any]], bool], key: str | None = None
) -> dict[str, Any]:
    """Ask for a batch until it has come so far."""
    for _ in range(MOST_QUESTIONS):
        told = (await server.ask(f"/v1/batches/{batch['id']}", key=key)).json
        if enough(told):
            return dict(told)
    raise AssertionError(f"it did not come so far: {told}")


async def ended(server: Served, batch: dict[str, Any], status: str, key: str | None = None) -> dict[str, Any]:
    """A batch at its end, which must be this one."""
    ends = ("completed", "failed", "expired", "cancelled")
    told = await until(server, batch, lambda now: now["status"] in ends, key)
    assert told["status"] == status, told
    return told


async def content_of(server: Served, file_id: str | None, key: str | None = None) -> bytes:
    """The bytes of a file; nothing where there is no file."""
    if file_id is None:
        return b""
    told: Answer = await server.ask(f"/v1/files/{file_id}/content", key=key)
    assert told.status == 200, told
    return told.body


async def rows_of(server: Served, file_id: str | None, key: str | None = None) -> dict[str, dict[str, Any]]:
    """The lines of a batch's file by their `custom_id`, each of which stands once."""
    told = [json.loads(text) for text in (await content_of(server, file_id, key)).splitlines()]
    rows = {row["custom_id"]: row for row in told}
    assert len(rows) == len(told)
    assert all(set(row) == {"id", "custom_id", "response", "error"} for row in told)
    assert len({row["id"] for row in told}) == len(told)
    return rows


def text_of(row: dict[str, Any]) -> str:
    """What the model said."""
    return str(row["response"]["body"]["choices"][0]["message"]["content"])


def answers_but(refused: dict[str, str], hold_from: int | None = None) -> Respond:
    """`answer to PROMPT`, or the error with the status that a prompt is to get; from request `hold_from` on, nothing."""
    came = 0

    async def respond(asked: Asked, peer: Peer) -> None:
        nonlocal came
        came += 1
        if hold_from is not None and came > hold_from:
            await peer.gone()
            raise ConnectionResetError("the client is gone")
        status = refused.get(asked.prompt)
        await peer.send(whole(f"answer to {asked.prompt}") if status is None else error_answer(status, "not this one"))

    return respond


def clock_of(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock by which a server dates files and batches from now on."""
    clock = ManualClock()
    monkeypatch.setattr("penstock.server.app.SystemClock", lambda: clock)
    return clock


ONE_AT_A_TIME = {"models": {MODEL: {"max_concurrency": 1}}}
