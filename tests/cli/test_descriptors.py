"""`penstock run` where a process can have 1,024 open files: what that allows is told, and all that it allows is possible."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from pathlib import Path

from penstock.edges.environment import connection_cap
from tests.kit.command import PATIENCE_SECONDS, PROGRAM, Ran, json_lines, read_lines
from tests.kit.hostile import Peer, answer, hostile
from tests.kit.simulated import simulated

LOW_LIMIT = 1024
CAP = connection_cap(LOW_LIMIT)
ROWS = CAP + 150
COMPLETION = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"Once."},"finish_reason":"stop"}]}'


def under_a_low_limit(base_url: str, *options: str) -> Ran:
    """The command in a process that can have no more open files, whatever it asks for."""
    Path("in.jsonl").write_bytes(json_lines({"prompt": f"Tell story {index}."} for index in range(ROWS)))
    arguments = ["run", "in.jsonl", "-o", "out.jsonl", "-m", "vllm/m", "--base-url", base_url, *options]
    done = subprocess.run(
        [*PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (LOW_LIMIT, LOW_LIMIT)),
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def assert_all_are_answered(ran: Ran) -> None:
    assert ran.status == 0, ran.err
    assert f"{ROWS} rows = {ROWS} ok + 0 failed + 0 left" in ran.err
    assert len(read_lines("out.jsonl")) == ROWS


def test_a_figure_above_the_limit_is_refused_with_what_to_do_and_nothing_is_made() -> None:
    ran = under_a_low_limit("http://127.0.0.1:9/v1", "--max-concurrency", "5000")
    assert ran.status == 2
    assert ran.err == (
        "penstock: max_concurrency: 5,000 requests in flight need more open files than the system allows:"
        f" at most {CAP:,}, or raise the limit (ulimit -n)\n"
    )
    assert os.listdir() == ["in.jsonl"]  # noqa: PTH208 - names alone are compared


def test_our_own_figure_is_lowered_with_a_note_and_all_rows_are_answered() -> None:
    with simulated() as server:
        ran = under_a_low_limit(server.base_url)
        assert server.stats()["peak"] <= CAP
    assert_all_are_answered(ran)
    assert f"{CAP:,} go at once (ulimit -n raises the limit)" in ran.err


async def test_as_many_as_were_promised_can_be_in_flight() -> None:
    """Nobody is answered before that many are there: want of one descriptor would show as a row that failed, or never end."""
    at_once = most = 0
    all_there = asyncio.Event()

    async def answers(peer: Peer) -> None:
        nonlocal at_once, most
        while True:
            await peer.request()
            at_once += 1
            most = max(most, at_once)
            if at_once == CAP:
                all_there.set()
            await all_there.wait()
            at_once -= 1
            await peer.send(answer(COMPLETION))

    async with hostile(answers) as server:
        base_url = f"http://127.0.0.1:{server.port}/v1"
        ran = await asyncio.to_thread(under_a_low_limit, base_url, "--max-concurrency", str(CAP))
    assert_all_are_answered(ran)
    assert "ulimit" not in ran.err
    assert most == CAP
