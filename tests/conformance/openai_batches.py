"""What the openai SDK makes of a gateway's files and batches. Part of `openai_gateway.py`; it judges nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
from openai.types import Batch, FileDeleted, FileObject
from openai_asking import ask, checked, failure
from openai_sdk import batch_line

ENDED = ("completed", "failed", "expired", "cancelled")


def files(client: openai.OpenAI) -> Any:
    """A file from its upload to its end; the pages of a list; what is refused."""
    content = b'{"custom_id": "1"}\n'
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    first = checked(client.files.create(file=("in.jsonl", content), purpose="batch", expires_after=expiry), FileObject)
    others = [client.files.create(file=(f"{n}.jsonl", content), purpose="batch").id for n in range(2)]
    listed = [checked(file, FileObject) for file in client.files.list(limit=2)]
    found = checked(client.files.retrieve(first.id), FileObject)
    read = client.files.content(first.id)
    return {
        "object": [first.filename, first.purpose, first.status, first.bytes, first.expires_at - first.created_at],
        "same": found == first,
        "all": sorted(file.id for file in listed) == sorted([first.id, *others]),
        "by_purpose": len(list(client.files.list(purpose="batch"))),
        "content": read.content == content and read.text == content.decode(),
        "processed": client.files.wait_for_processing(first.id).status,
        "deleted": [checked(client.files.delete(name), FileDeleted).deleted for name in (first.id, *others)],
        "gone": failure(client.files.retrieve, file_id=first.id),
        "gone_content": failure(client.files.content, file_id=first.id),
        "gone_again": failure(client.files.delete, file_id=first.id),
        "purpose": failure(client.files.create, file=("in.jsonl", content), purpose="assistants"),
        "left": len(list(client.files.list())),
    }


def lines(prompts: dict[str, str]) -> Iterator[dict[str, Any]]:
    for name, prompt in prompts.items():
        yield {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": ask(prompt)}


def submitted(client: openai.OpenAI, rows: Any, **params: Any) -> Batch:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    told = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **params
    )
    return checked(told, Batch)


def at_its_end(client: openai.OpenAI, batch: Batch) -> Batch:
    until = time.monotonic() + 60
    while batch.status not in ENDED:
        assert time.monotonic() < until, batch
        time.sleep(0.05)
        batch = checked(client.batches.retrieve(batch.id), Batch)
    return batch


def read_lines(client: openai.OpenAI, file_id: str | None) -> Any:
    if file_id is None:
        return None
    return {line["custom_id"]: batch_line(line) for line in map(json.loads, client.files.content(file_id).iter_lines())}


def batches(client: openai.OpenAI) -> Any:
    """A batch from its input to both its outputs, one with a bad input, the list of them."""
    prompts = {f"row-{n}": f"Row {n} asks: what follows {n}?" for n in range(20)} | {"bad": "[[simulate:too-long]]"}
    begun = submitted(client, lines(prompts), metadata={"who": "me"})
    ended = at_its_end(client, begun)
    bad = at_its_end(client, submitted(client, [{"custom_id": "1", "url": "/v1/embeddings"}]))
    known = {key: value for key, value in ended.to_dict().items() if value is not None}
    return {
        "begun": [begun.object, begun.endpoint, begun.completion_window, begun.metadata and begun.metadata["who"]],
        "ended": [ended.status, ended.request_counts and ended.request_counts.to_dict()],
        "usage": known["usage"]["total_tokens"] > 0,
        "moments": sorted(key for key in known if key.endswith("_at")),
        "output": read_lines(client, ended.output_file_id),
        "errors": read_lines(client, ended.error_file_id),
        "bad": [bad.status, [error.code for error in (bad.errors and bad.errors.data) or ()]],
        "listed": [batch.id for batch in client.batches.list(limit=1)] == [bad.id, ended.id],
        "purpose": client.files.retrieve(ended.output_file_id or "").purpose,
        "unknown": failure(client.batches.retrieve, batch_id="batch_" + "0" * 24),
        "no_file": failure(
            client.batches.create,
            input_file_id="file-" + "0" * 24,
            endpoint="/v1/chat/completions",
            completion_window="24h",
        ),
        "late": failure(client.batches.cancel, batch_id=ended.id),
    }


def cancelled(client: openai.OpenAI) -> Any:
    """A batch that would never end."""
    prompts = {"well": "Row 1 asks"} | {f"stuck-{n}": f"[[simulate:stall]] {n}" for n in range(5)}
    batch = submitted(client, lines(prompts))
    until = time.monotonic() + 30
    while not (batch.request_counts and batch.request_counts.completed):
        assert time.monotonic() < until, batch
        time.sleep(0.05)
        batch = checked(client.batches.retrieve(batch.id), Batch)
    told = checked(client.batches.cancel(batch.id), Batch)
    ended = at_its_end(client, told)
    return {
        "told": told.status in ("cancelling", "cancelled"),
        "ended": [ended.status, ended.request_counts and ended.request_counts.to_dict()],
        "output": read_lines(client, ended.output_file_id),
        "errors": read_lines(client, ended.error_file_id),
    }
