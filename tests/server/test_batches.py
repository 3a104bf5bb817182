"""`/v1/batches`: from an uploaded input to its output, whatever comes between."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.edges.batches import BatchStore, Content
from penstock.errors import RunStopped
from penstock.server import batch_runner, batches
from penstock.server.settings import LaneWeight
from tests.kit.batching import (
    ONE_AT_A_TIME,
    answers_but,
    begin,
    clock_of,
    content_of,
    ended,
    jsonl,
    line,
    lines,
    rows_of,
    text_of,
    until,
    upload,
)
from tests.kit.serving import MODEL, Asked, Peer, Served, echoes, error_answer, gateway, key_of, served, settings_for

STATUSES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
CHAT = "/v1/chat/completions"


def dated(batch: dict[str, Any]) -> set[str]:
    """The states whose time a batch tells."""
    return {status for status in STATUSES if batch[f"{status}_at"] is not None}


# -- a whole life


async def test_a_batch_from_its_input_to_its_output(tmp_path: Path) -> None:
    """Each row with its own answer as the provider gave it, joined by `custom_id`; times, counts, model and usage."""
    async with gateway(echoes, tmp_path) as (server, provider):
        names = ["gpt-5-mini", "openai/gpt-5-mini"]
        batch = await begin(server, jsonl(line(n, names[n % 2], top_p=n) for n in range(9)), metadata={"k": "v"})
        assert (batch["status"], batch["request_counts"]["total"], batch["errors"]) == ("validating", 0, None)
        done = await ended(server, batch, "completed")
        rows = await rows_of(server, done["output_file_id"])
        output = (await server.ask(f"/v1/files/{done['output_file_id']}")).json
    assert dated(done) == {"in_progress", "finalizing", "completed"}
    assert done["request_counts"] == {"total": 9, "completed": 9, "failed": 0}
    assert (done["model"], done["metadata"], done["error_file_id"]) == ("gpt-5-mini", {"k": "v"}, None)
    usage = {name: done["usage"][name] for name in ("input_tokens", "output_tokens", "total_tokens")}
    assert usage == {"input_tokens": 27, "output_tokens": 45, "total_tokens": 72}
    assert {name: text_of(row) for name, row in rows.items()} == {f"row-{n}": f"answer to prompt {n}" for n in range(9)}
    assert all(row["error"] is None and row["response"]["status_code"] == 200 for row in rows.values())
    assert output["purpose"] == "batch_output"
    assert output["expires_at"] - output["created_at"] == 30 * 86_400
    sent = sorted((asked.fields for asked in provider.asked.all), key=lambda fields: fields["top_p"])
    assert [(fields["model"], fields["top_p"]) for fields in sent] == [("gpt-5-mini", n) for n in range(9)]


async def test_rows_that_fail_stand_in_the_error_file(tmp_path: Path) -> None:
    """With the provider's status; the others have their answers."""
    refused = {"prompt 1": "400 Bad Request", "prompt 3": "500 Internal Server Error"}
    async with gateway(answers_but(refused), tmp_path) as (server, _):
        done = await ended(server, await begin(server, lines(5)), "completed")
        answers, errors = await rows_of(server, done["output_file_id"]), await rows_of(server, done["error_file_id"])
    assert (set(answers), set(errors)) == ({"row-0", "row-2", "row-4"}, {"row-1", "row-3"})
    assert done["request_counts"] == {"total": 5, "completed": 3, "failed": 2}
    for name, status in (("row-1", 400), ("row-3", 500)):
        assert errors[name]["response"]["status_code"] == status
        assert set(errors[name]["response"]["body"]["error"]) == {"message", "type", "param", "code"}
        assert errors[name]["error"] is None


async def test_a_batch_in_which_every_row_fails(tmp_path: Path) -> None:
    """It is completed, and has no output."""
    async with gateway(answers_but({"prompt 0": "400 Bad Request"}), tmp_path) as (server, _):
        done = await ended(server, await begin(server, lines(1)), "completed")
        assert done["output_file_id"] is None
        assert set(await rows_of(server, done["error_file_id"])) == {"row-0"}


async def test_output_expires_when_it_was_asked_to(tmp_path: Path) -> None:
    """Counted from its own creation."""
    async with gateway(echoes, tmp_path) as (server, _):
        asked = {"output_expires_after": {"anchor": "created_at", "seconds": 3_600}}
        done = await ended(server, await begin(server, lines(1), **asked), "completed")
        output = (await server.ask(f"/v1/files/{done['output_file_id']}")).json
    assert output["expires_at"] - output["created_at"] == 3_600


async def test_nothing_but_input_and_output_is_left(tmp_path: Path) -> None:
    """The ledger goes when the files are recorded."""
    async with gateway(echoes, tmp_path) as (server, _):
        done = await ended(server, await begin(server, lines(3)), "completed")
        await server.server.keeping.do(lambda: None)
        kept = {done["input_file_id"], done["output_file_id"]}
        assert {path.name for path in (tmp_path / "files").iterdir()} == kept
        assert list((tmp_path / "batches").iterdir()) == []


async def test_counts_are_live(tmp_path: Path) -> None:
    """While rows are under way: by the object and by the metrics."""
    async with gateway(answers_but({}, hold_from=3), tmp_path, grace=0.1, **ONE_AT_A_TIME) as (server, _):
        batch = await begin(server, lines(5))
        now = await until(server, batch, lambda now: now["request_counts"]["completed"] == 3)
        assert (now["status"], now["request_counts"]) == ("in_progress", {"total": 5, "completed": 3, "failed": 0})
        page = (await server.ask("/metrics")).body.decode()
        assert 'penstock_batch_rows{state="completed"} 3.0' in page
        assert 'penstock_batch_rows{state="left"} 2.0' in page
        (listed,) = (await server.ask("/v1/batches")).json["data"]
        assert listed["request_counts"]["completed"] == 3


# -- what cannot be


@pytest.mark.parametrize("why", ["no file", "an output"])
async def test_an_input_that_is_none(tmp_path: Path, why: str) -> None:
    """404 for what is not there, 400 for a file of another purpose."""
    async with gateway(echoes, tmp_path) as (server, _):
        file_id = "file-0123456789abcdef01234567"
        if why == "an output":
            file_id = (await ended(server, await begin(server, lines(1)), "completed"))["output_file_id"]
        asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
        told = await server.ask("/v1/batches", asked)
        assert told.status == (404 if why == "no file" else 400)
        assert told.error["param"] == "input_file_id"


BAD_INPUTS: list[tuple[bytes, list[tuple[str, int | None, str | None]]]] = [
    (b"", [("empty_batch", None, None)]),
    (b"\n \n\t\n", [("empty_batch", None, None)]),
    (b"\xff\xfe\x00", [("invalid_file", None, None)]),
    (lines(1) + b"\n{]\n\xff\n" + lines(1)[:-2], [("invalid_json_line", n, None) for n in (3, 4, 5)]),
    (b"[" * 100_000 + b"\n", [("invalid_json_line", 1, None)]),
    (jsonl([line(0), line(0)]), [("duplicate_custom_id", 2, "custom_id")]),
    (jsonl([line(0) | {"method": "GET"}]), [("invalid_request", 1, "method")]),
    (jsonl([line(0) | {"url": "/v1/embeddings"}]), [("url_mismatch", 1, "url")]),
    (jsonl([line(0, "gpt-9")]), [("model_not_found", 1, "body.model")]),
    (jsonl([line(0, "gpt-5-mini"), line(1, "other")]), [("model_mismatch", 2, "body.model")]),
    (jsonl([line(0, messages=[])]), [("invalid_request", 1, "body")]),
    (jsonl([line(0, stream=True)]), [("invalid_request", 1, "body")]),
    (lines(1, note="x" * 30_000), [("invalid_json_line", 1, None)]),
    (lines(6), [("too_many_tasks", None, None)]),
]


async def test_bad_inputs_fail_and_send_nothing(tmp_path: Path) -> None:
    """`failed`, with code, line and field of each mistake; not one row of it was sent."""
    models: dict[str, Any] = {MODEL: {}, "other": {"model": "openai/other"}}
    small = {"max_batch_lines": 5, "max_body_mib": 0.02}
    async with gateway(echoes, tmp_path, models=models, **small) as (server, provider):
        for content, errors in BAD_INPUTS:
            failed = await ended(server, await begin(server, content), "failed")
            told = failed["errors"]["data"]
            assert [(error["code"], error["line"], error["param"]) for error in told] == errors, content[:100]
            assert all(error["message"] and str(tmp_path) not in error["message"] for error in told)
            assert (failed["errors"]["object"], dated(failed)) == ("list", {"failed"})
        assert provider.asked.all == []


async def test_fields_of_a_row_choose_no_address(tmp_path: Path) -> None:
    """What looks like an address or a key goes to the provider as a field, and nowhere else."""
    async with gateway(echoes, tmp_path) as (server, provider):
        stranger = "http://127.0.0.1:9/v1"
        further = {"base_url": stranger, "api_base": stranger, "api_key": "sk-other", "extra_headers": {"x-evil": "1"}}
        await ended(server, await begin(server, lines(1, **further)), "completed")
    (asked,) = provider.asked.all
    assert asked.fields["base_url"] == stranger
    assert b"x-evil" not in asked.head
    assert b"sk-other" not in asked.head


async def test_a_line_of_windows_and_a_mark(tmp_path: Path) -> None:
    """Carriage returns, a byte order mark, blank lines and no last line end."""
    content = b"\xef\xbb\xbf" + lines(3).replace(b"\n", b"\r\n\r\n").strip()
    async with gateway(echoes, tmp_path) as (server, _):
        done = await ended(server, await begin(server, content), "completed")
        assert done["request_counts"]["completed"] == 3


# -- cancelled


async def test_a_batch_is_cancelled(tmp_path: Path) -> None:
    """What was answered is in the output, what was not says so, what was under way is given up after the grace."""
    async with gateway(answers_but({}, hold_from=3), tmp_path, grace=0.05, **ONE_AT_A_TIME) as (server, provider):
        batch = await begin(server, lines(6))
        await provider.asked.at_least(4)
        told = await server.ask(f"/v1/batches/{batch['id']}/cancel", {})
        assert (told.status, told.json["status"]) == (200, "cancelling")
        done = await ended(server, batch, "cancelled")
        answers, errors = await rows_of(server, done["output_file_id"]), await rows_of(server, done["error_file_id"])
        again = await server.ask(f"/v1/batches/{batch['id']}/cancel", {})
    assert dated(done) == {"in_progress", "cancelling", "cancelled"}
    assert {name: text_of(row) for name, row in answers.items()} == {
        f"row-{n}": f"answer to prompt {n}" for n in range(3)
    }
    assert {name: row["error"]["code"] for name, row in errors.items()} == {
        f"row-{n}": "batch_cancelled" for n in (3, 4, 5)
    }
    assert done["request_counts"] == {"total": 6, "completed": 3, "failed": 0}
    assert done["usage"]["input_tokens"] == 9
    assert (again.status, len(provider.asked.all), len(provider.left.all)) == (409, 4, 1)


async def test_what_is_under_way_at_a_cancel_may_finish(tmp_path: Path) -> None:
    """It is paid for, so it is waited for within the grace and recorded."""
    release = asyncio.Event()

    async def waits(asked: Asked, peer: Peer) -> None:
        await release.wait()
        await echoes(asked, peer)

    async with gateway(waits, tmp_path, **ONE_AT_A_TIME) as (server, provider):
        batch = await begin(server, lines(3))
        await provider.asked.at_least(1)
        await server.ask(f"/v1/batches/{batch['id']}/cancel", {})
        assert (await server.ask(f"/v1/batches/{batch['id']}/cancel", {})).json["status"] == "cancelling"
        release.set()
        done = await ended(server, batch, "cancelled")
        assert set(await rows_of(server, done["output_file_id"])) == {"row-0"}
        assert len(provider.asked.all) == 1


async def test_a_cancel_may_come_at_any_moment(tmp_path: Path) -> None:
    """The batch ends cancelled, or had ended before: each of its rows stands once in one of its files, or in none."""
    seen = set()
    async with gateway(echoes, tmp_path, grace=0.05, **ONE_AT_A_TIME) as (server, provider):
        for moment in range(15):
            sent = len(provider.asked.all)
            batch = await begin(server, lines(4))
            await provider.asked.at_least(sent + moment % 5)
            for _ in range(moment // 5):
                await server.ask("/healthz")
            told = await server.ask(f"/v1/batches/{batch['id']}/cancel", {})
            done = await ended(server, batch, "cancelled" if told.status == 200 else "completed")
            answers, errors = (
                await rows_of(server, done["output_file_id"]),
                await rows_of(server, done["error_file_id"]),
            )
            assert sorted([*answers, *errors]) in ([], [f"row-{n}" for n in range(4)])
            assert {row["error"]["code"] for row in errors.values()} <= {"batch_cancelled"}
            counts = done["request_counts"]
            assert (counts["completed"], counts["failed"]) == (len(answers), 0)
            seen.add((done["status"], len(answers)))
        files = {path.name for path in (tmp_path / "files").iterdir()}
        assert files == {file["id"] for file in (await server.ask("/v1/files")).json["data"]}
    assert len(seen) > 1, "all came at the same moment"


async def test_a_batch_is_cancelled_before_its_input_was_checked(tmp_path: Path) -> None:
    """It ends without files; nothing was sent."""
    async with gateway(echoes, tmp_path) as (server, provider), server.server.batches._shop.checks:
        batch = await begin(server, lines(3))
        assert (await server.ask(f"/v1/batches/{batch['id']}/cancel", {})).json["status"] == "cancelling"
        done = await ended(server, batch, "cancelled")
    assert (done["output_file_id"], done["error_file_id"], provider.asked.all) == (None, None, [])
    assert dated(done) == {"cancelling", "cancelled"}


async def test_what_has_ended_cannot_be_cancelled(tmp_path: Path) -> None:
    """A 409 that names the state; 404 for what never was."""
    async with gateway(echoes, tmp_path) as (server, _):
        done = await ended(server, await begin(server, lines(1)), "completed")
        told = await server.ask(f"/v1/batches/{done['id']}/cancel", {})
        assert (told.status, "completed" in told.error["message"]) == (409, True)
        assert (await server.ask("/v1/batches/batch_0123456789abcdef01234567/cancel", {})).status == 404


# -- expired


async def test_a_batch_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its window nothing more is sent; what was answered is there, the rest is told as expired."""
    clock = clock_of(monkeypatch)
    async with gateway(answers_but({}, hold_from=2), tmp_path, **ONE_AT_A_TIME) as (server, provider):
        batch = await begin(server, lines(4))
        await provider.asked.at_least(3)
        clock.advance(86_399)
        assert (await server.ask(f"/v1/batches/{batch['id']}")).json["status"] == "in_progress"
        clock.advance(1)
        clock.advance(31)  # the grace
        done = await ended(server, batch, "expired")
        answers, errors = await rows_of(server, done["output_file_id"]), await rows_of(server, done["error_file_id"])
    assert set(answers) == {"row-0", "row-1"}
    assert {name: row["error"]["code"] for name, row in errors.items()} == {
        "row-2": "batch_expired",
        "row-3": "batch_expired",
    }
    assert dated(done) == {"in_progress", "expired"}
    assert len(provider.asked.all) == 3


async def test_a_batch_that_expired_while_the_server_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended at the next start, without a send."""
    clock = clock_of(monkeypatch)
    async with gateway(answers_but({}, hold_from=0), tmp_path, grace=0.05, **ONE_AT_A_TIME) as (server, provider):
        batch = await begin(server, lines(2))
        await provider.asked.at_least(1)
    clock.advance(100_000)
    async with gateway(echoes, tmp_path, **ONE_AT_A_TIME) as (server, provider):
        done = await ended(server, batch, "expired")
        assert set(await rows_of(server, done["error_file_id"])) == {"row-0", "row-1"}
        assert provider.asked.all == []


# -- what dooms a run


async def test_what_dooms_a_run_holds_a_batch_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells why, tries again every minute, and goes on where it stood once that is mended."""
    clock = clock_of(monkeypatch)
    state = {"refused": True}

    async def sometimes(asked: Asked, peer: Peer) -> None:
        if state["refused"] and asked.prompt != "prompt 0":
            await peer.send(error_answer("401 Unauthorized", "that key is not good"))
        else:
            await echoes(asked, peer)

    async with gateway(sometimes, tmp_path, **ONE_AT_A_TIME) as (server, provider):
        batch = await begin(server, lines(4))
        held = await until(server, batch, lambda now: now["errors"] is not None)
        assert (held["status"], held["request_counts"]["completed"]) == ("in_progress", 1)
        (error,) = held["errors"]["data"]
        assert (error["code"], "that key is not good" in error["message"]) == ("auth", True)
        sent = len(provider.asked.all)
        clock.advance(60)
        await provider.asked.at_least(sent + 1)
        await until(server, batch, lambda _: server.in_flight == 0)
        state["refused"] = False
        while len(provider.asked.all) < sent + 2:
            clock.advance(60)
            await server.ask("/healthz")
        done = await ended(server, batch, "completed")
        assert (done["errors"], done["request_counts"]["completed"]) == (None, 4)
        assert [asked.prompt for asked in provider.asked.all].count("prompt 0") == 1


async def test_a_batch_that_is_held_up_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It expires, and still tells what held it up."""
    clock = clock_of(monkeypatch)
    refused = {f"prompt {n}": "401 Unauthorized" for n in range(2)}
    async with gateway(answers_but(refused), tmp_path, **ONE_AT_A_TIME) as (server, _):
        batch = await begin(server, lines(2))
        await until(server, batch, lambda now: now["errors"] is not None)
        clock.advance(86_400)
        done = await ended(server, batch, "expired")
    assert done["errors"]["data"][0]["code"] == "auth"
    assert done["request_counts"] == {"total": 2, "completed": 0, "failed": 0}


async def test_a_batch_that_is_held_up_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, not at the next try."""
    clock_of(monkeypatch)
    async with gateway(answers_but({"prompt 0": "401 Unauthorized"}), tmp_path) as (server, _):
        batch = await begin(server, lines(1))
        await until(server, batch, lambda now: now["errors"] is not None)
        await server.ask(f"/v1/batches/{batch['id']}/cancel", {})
        await ended(server, batch, "cancelled")


@pytest.mark.parametrize("step", ["new_content", "sync", "save_batch", "ledger_path"])
async def test_a_disk_that_refuses_holds_a_batch_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """At whatever step: it says so without naming a path, leaves nothing behind, and completes once the disk gives way."""
    clock = clock_of(monkeypatch)
    owner: Any = Content if step == "sync" else BatchStore
    real, state = getattr(owner, step), {"refuses": 0}

    def refuses(self: Any, *arguments: Any) -> Any:
        ends = step == "save_batch" and (arguments[0].batch.status, state["refuses"]) != ("completed", 0)
        if state["refuses"] >= 2 or ends:
            return real(self, *arguments)
        state["refuses"] += 1
        raise RunStopped("disk", f"{tmp_path} is full") if owner is BatchStore else OSError(28, f"{tmp_path} is full")

    async with gateway(echoes, tmp_path) as (server, provider):
        file = await upload(server, lines(3))
        monkeypatch.setattr(owner, step, refuses)
        asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        batch = (await server.ask("/v1/batches", asked)).json
        held = await until(server, batch, lambda now: now["errors"] is not None)
        (error,) = held["errors"]["data"]
        assert (error["code"], str(tmp_path) in error["message"]) == ("disk", False)
        for _ in range(1_000):
            clock.advance(60)
            if (await server.ask(f"/v1/batches/{batch['id']}")).json["status"] == "completed":
                break
        done = await ended(server, batch, "completed")
        assert len(await rows_of(server, done["output_file_id"])) == 3
        assert len(provider.asked.all) == 3
        assert {path.name for path in (tmp_path / "files").iterdir()} == {file["id"], done["output_file_id"]}


# -- restarts


@pytest.mark.parametrize("answered", [0, 1, 4])
async def test_a_batch_goes_on_after_a_restart(tmp_path: Path, answered: int) -> None:
    """What was recorded is not sent again, and everything is in the output."""
    async with gateway(answers_but({}, hold_from=answered), tmp_path, grace=0.05, **ONE_AT_A_TIME) as (server, first):
        batch = await begin(server, lines(6))
        await first.asked.at_least(answered + 1)
    async with gateway(echoes, tmp_path, **ONE_AT_A_TIME) as (server, second):
        done = await ended(server, batch, "completed")
        rows = await rows_of(server, done["output_file_id"])
    assert {name: text_of(row) for name, row in rows.items()} == {f"row-{n}": f"answer to prompt {n}" for n in range(6)}
    assert {asked.prompt for asked in second.asked.all} == {f"prompt {n}" for n in range(answered, 6)}
    assert done["request_counts"] == {"total": 6, "completed": 6, "failed": 0}
    assert (done["created_at"], done["id"]) == (batch["created_at"], batch["id"])


async def test_a_row_that_was_given_up_is_over(tmp_path: Path) -> None:
    """A restart does not pay for it once more."""
    refused = {"prompt 0": "500 Internal Server Error"}
    options: dict[str, Any] = {"grace": 0.05, **ONE_AT_A_TIME}
    async with gateway(answers_but(refused, hold_from=2), tmp_path, **options) as (server, first):
        batch = await begin(server, lines(3))
        await first.asked.at_least(3)
    release = asyncio.Event()

    async def waits(asked: Asked, peer: Peer) -> None:
        await release.wait()
        await echoes(asked, peer)

    async with gateway(waits, tmp_path, **options) as (server, second):
        await second.asked.at_least(1)
        counts = (await server.ask(f"/v1/batches/{batch['id']}")).json["request_counts"]
        assert counts == {"total": 3, "completed": 1, "failed": 1}
        release.set()
        done = await ended(server, batch, "completed")
        assert set(await rows_of(server, done["error_file_id"])) == {"row-0"}
    assert [asked.prompt for asked in second.asked.all] == ["prompt 2"]


@pytest.mark.parametrize("status", ["validating", "finalizing", "cancelling"])
async def test_every_state_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    """The server stopped in the middle of it; the next one comes to the end."""
    steps = {"validating": "validate", "finalizing": "finalize", "cancelling": "wind_up"}

    async def stands_still(runner: batch_runner.BatchRunner) -> None:
        await runner._while_not_halted(asyncio.Event().wait())  # type: ignore[arg-type] # it waits for ever

    async with gateway(echoes, tmp_path, grace=0.05) as (server, _):
        with monkeypatch.context() as patch:
            patch.setitem(batch_runner._STEPS, status, stands_still)  # type: ignore[arg-type] # one of the table's
            assert batch_runner._STEPS[status] is not getattr(batch_runner.BatchRunner, steps[status])  # type: ignore[index] # as above
            batch = await begin(server, lines(2))
            if status == "cancelling":
                await server.ask(f"/v1/batches/{batch['id']}/cancel", {})
            await until(server, batch, lambda now: now["status"] == status)
    async with gateway(echoes, tmp_path) as (server, _):
        done = await ended(server, batch, "cancelled" if status == "cancelling" else "completed")
        told = [*await rows_of(server, done["output_file_id"]), *await rows_of(server, done["error_file_id"])]
        assert status == "cancelling" or sorted(told) == ["row-0", "row-1"]


async def test_another_model_under_the_same_name_answers_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch waits until what it began with is served again."""
    clock = clock_of(monkeypatch)

    def serving(model: str) -> dict[str, Any]:
        return {"models": {"mine": {"model": model, "max_concurrency": 1}}, "grace": 0.05}

    async with gateway(answers_but({}, hold_from=1), tmp_path, **serving("openai/gpt-5-mini")) as (server, first):
        batch = await begin(server, lines(3, model="mine"))
        await first.asked.at_least(2)
    for changed in (serving("openai/gpt-5"), {"models": {"another": {"model": "openai/gpt-5-mini"}}}):
        async with gateway(echoes, tmp_path, **changed) as (server, other):
            held = await until(server, batch, lambda now: now["errors"] is not None)
            assert held["errors"]["data"][0]["code"] == "model_not_served"
            clock.advance(60)
            await server.ask("/healthz")
            assert other.asked.all == []
    async with gateway(echoes, tmp_path, **serving("openai/gpt-5-mini")) as (server, _):
        assert (await ended(server, batch, "completed"))["request_counts"]["completed"] == 3


@pytest.mark.parametrize("how", ["deleted", "expired"])
async def test_an_input_that_goes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The batch goes on with it, over a restart too; afterwards its content is gone."""
    clock = clock_of(monkeypatch)
    asked = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    options: dict[str, Any] = {"grace": 0.05, **ONE_AT_A_TIME}
    async with gateway(answers_but({}, hold_from=1), tmp_path, **options) as (server, first):
        file = await upload(server, lines(4), **asked)
        made = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        batch = (await server.ask("/v1/batches", made)).json
        await first.asked.at_least(2)
        if how == "deleted":
            assert (await server.ask(f"/v1/files/{file['id']}", method="DELETE")).status == 200
        else:
            clock.advance(3_600)
        assert (await server.ask(f"/v1/files/{file['id']}/content")).status == 404
    async with gateway(echoes, tmp_path, **options) as (server, _):
        done = await ended(server, batch, "completed")
        assert len(await rows_of(server, done["output_file_id"])) == 4
        await server.server.keeping.sweep()
        assert {path.name for path in (tmp_path / "files").iterdir()} == {done["output_file_id"]}


async def test_damage_in_a_ledger_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded row that can no longer be vouched for is missing when the files are to be written: it is asked once more."""
    clock = clock_of(monkeypatch)
    real, state = batch_runner.write_files, {"first": True}

    def with_damage(papers: Any, new_content: Any) -> Any:
        if state.pop("first", False):
            content = bytearray(papers.ledger.read_bytes())
            place = content.index(b"answer to prompt 1")
            content[place] ^= 1
            papers.ledger.write_bytes(content)
        return real(papers, new_content)

    monkeypatch.setattr(batch_runner, "write_files", with_damage)
    async with gateway(echoes, tmp_path) as (server, provider):
        batch = await begin(server, lines(3))
        held = await until(server, batch, lambda now: now["errors"] is not None)
        assert (held["status"], held["errors"]["data"][0]["code"]) == ("finalizing", "disk")
        clock.advance(60)
        done = await ended(server, batch, "completed")
        rows = await rows_of(server, done["output_file_id"])
    assert {text_of(row) for row in rows.values()} == {f"answer to prompt {n}" for n in range(3)}
    assert [asked.prompt for asked in provider.asked.all].count("prompt 1") == 2
    assert len(provider.asked.all) == 4


# -- many


async def test_batches_belong_to_their_keys(tmp_path: Path) -> None:
    """Another key finds, lists and cancels none of them."""
    keys = {"alice": "interactive", "bob": "interactive"}
    alice, bob = key_of("alice"), key_of("bob")
    async with gateway(answers_but({}, hold_from=0), tmp_path, keys=keys, grace=0.05) as (server, _):
        hers, his = await begin(server, lines(1), alice), await begin(server, lines(1), bob)
        for key, own, other in ((alice, hers, his), (bob, his, hers)):
            listed = (await server.ask("/v1/batches", key=key)).json["data"]
            assert [batch["id"] for batch in listed] == [own["id"]]
            assert (await server.ask(f"/v1/batches/{other['id']}", key=key)).status == 404
            assert (await server.ask(f"/v1/batches/{other['id']}/cancel", {}, key=key)).status == 404
            assert (await server.ask(f"/v1/batches?after={other['id']}", key=key)).status == 400
            assert (await server.ask(f"/v1/batches/{own['id']}", key=key)).status == 200


async def test_batches_are_listed_by_pages(tmp_path: Path) -> None:
    """The newest first; those that have ended and those that have not."""
    async with gateway(answers_but({"prompt 7": "400 Bad Request"}), tmp_path) as (server, _):
        made = [(await begin(server, lines(1)))["id"] for _ in range(3)]
        page = (await server.ask("/v1/batches?limit=2")).json
        assert [batch["id"] for batch in page["data"]] == [made[2], made[1]]
        told = {"object": "list", "first_id": made[2], "last_id": made[1], "has_more": True}
        assert {name: page[name] for name in told} == told
        rest = (await server.ask(f"/v1/batches?after={made[1]}")).json
        assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == ([made[0]], False)
        for query in ("limit=0", "limit=101", "after=x"):
            assert (await server.ask(f"/v1/batches?{query}")).status == 400


async def test_so_many_batches_of_a_model_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one begins when one has ended, or was cancelled; one of another model does not wait."""
    monkeypatch.setattr(batch_runner, "MOST_AT_ONCE", 1)
    models: dict[str, Any] = {MODEL: {}, "other": {"model": "openai/other"}}
    held = {"prompt 0"}

    async def holds_the_first(asked: Asked, peer: Peer) -> None:
        if asked.prompt in held and asked.fields["model"] == "gpt-5-mini":
            await peer.gone()
            raise ConnectionResetError("the client is gone")
        await echoes(asked, peer)

    async with gateway(holds_the_first, tmp_path, models=models, grace=0.05) as (server, provider):
        first = await begin(server, lines(1))
        await provider.asked.at_least(1)
        second, third = await begin(server, jsonl([line(5)])), await begin(server, jsonl([line(6)]))
        await ended(server, await begin(server, jsonl([line(0, "other")])), "completed")
        waiting = await until(server, second, lambda now: now["status"] == "in_progress")
        assert waiting["request_counts"] == {"total": 1, "completed": 0, "failed": 0}
        await server.ask(f"/v1/batches/{second['id']}/cancel", {})
        await ended(server, second, "cancelled")
        assert [asked.fields["model"] for asked in provider.asked.all] == ["gpt-5-mini", "other"]
        await server.ask(f"/v1/batches/{first['id']}/cancel", {})
        await ended(server, third, "completed")
        assert [asked.prompt for asked in provider.asked.all] == ["prompt 0", "prompt 0", "prompt 6"]


async def test_so_many_batches_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it a 429; when one has ended the next one is taken."""
    monkeypatch.setattr(batches, "MOST_LIVE", 1)
    async with gateway(answers_but({}, hold_from=0), tmp_path, grace=0.05) as (server, _):
        first = await begin(server, lines(1))
        asked = {"input_file_id": first["input_file_id"], "endpoint": CHAT, "completion_window": "24h"}
        refused = await server.ask("/v1/batches", asked)
        assert (refused.status, refused.error["code"]) == (429, "too_many_batches")
        await server.ask(f"/v1/batches/{first['id']}/cancel", {})
        await ended(server, first, "cancelled")
        await until(server, first, lambda _: not server.server.batches._live)
        assert (await server.ask("/v1/batches", asked)).status == 200


async def test_rows_stand_in_the_lane_of_batches(tmp_path: Path) -> None:
    """By its configured weight, so that an interactive request does not wait behind all of them."""
    release = asyncio.Event()

    async def waits(asked: Asked, peer: Peer) -> None:
        await release.wait()
        await echoes(asked, peer)

    async with gateway(waits, tmp_path, grace=0.05, **ONE_AT_A_TIME) as (server, provider):

        async def stands_in(lane: str) -> None:
            while not server.server.serving.models.statistics()["gpt-5-mini"].get(f"waiting ({lane})"):
                await server.ask("/healthz")

        first, second = await begin(server, lines(5)), await begin(server, lines(5))
        await stands_in("batch")
        question = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "me"}]}
        interactive = asyncio.create_task(server.ask(body=question))
        await stands_in("interactive")
        release.set()
        assert (await interactive).status == 200
        await ended(server, first, "completed")
        await ended(server, second, "completed")
        assert [asked.prompt for asked in provider.asked.all].index("me") <= 2


async def test_the_lane_of_batches_has_the_weight_of_the_settings(tmp_path: Path) -> None:
    """`[lanes.batch]` holds for them."""
    settings = settings_for("http://127.0.0.1:9/v1", tmp_path)
    settings = msgspec.structs.replace(settings, lanes={"batch": LaneWeight(weight=3.0)})
    async with served(settings) as server:
        running: Served = server
        assert running.server.serving.models.lanes["batch"].weight == 3.0


async def test_a_thousand_rows(tmp_path: Path) -> None:
    """More than fit into a page of the input, each answered once."""
    async with gateway(echoes, tmp_path) as (server, provider):
        done = await ended(server, await begin(server, lines(1_000)), "completed")
        text = await content_of(server, done["output_file_id"])
    told = {row["custom_id"]: text_of(row) for row in map(json.loads, text.splitlines())}
    assert told == {f"row-{n}": f"answer to prompt {n}" for n in range(1_000)}
    assert len(provider.asked.all) == 1_000
