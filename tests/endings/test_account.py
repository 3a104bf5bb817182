"""An answer that was paid for and could not be used stays in the account, whatever became of its row afterwards."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from penstock import jobs
from penstock.records import HttpAnswer, HttpCall
from penstock.testing import Scripted, ScriptedTransport, completion, error
from tests.kit.endings import run_in_turns
from tests.kit.rows import VirtualClient, collect, prompts

ROWS = 3
ALIVE = "Are you there?"
"""Answered in any case: a provider that never answered at all stops the run, which is another matter."""


def given(body: bytes) -> HttpAnswer:
    """A status of 200, and this."""
    return HttpAnswer(200, [(b"content-type", b"application/json")], body)


def cut_off() -> HttpAnswer:
    """A generation that did not end."""
    body = msgspec.json.decode(completion("half an ans").body)
    body["choices"][0]["finish_reason"] = None
    return given(msgspec.json.encode(body))


DROPPED = {
    "no choice": given(b'{"choices": []}'),
    "no JSON": given(b"<html>all is well</html>"),
    "not UTF-8": given(completion("x").body.replace(b'"x"', b'"\xff\xfe"')),
    "no finish reason": cut_off(),
    "no message": given(b'{"choices": [{"index": 0, "finish_reason": "stop"}]}'),
    "reset within it": error("disconnected", maybe_billed=True),
    "no end in time": error("timeout", maybe_billed=True),
}


@pytest.mark.parametrize("then_answered", [True, False], ids=["then answered", "never answered"])
@pytest.mark.parametrize("shape", DROPPED)
def test_an_answer_that_was_dropped_is_counted_with_its_row(shape: str, then_answered: bool, tmp_path: Path) -> None:
    """The result, the ledger and `verify` tell the same number of sends that may be billed, and the account balances."""
    asked: set[bytes] = set()

    def answer(call: HttpCall) -> Scripted:
        again = call.body in asked
        asked.add(call.body)
        answered = ALIVE.encode() in call.body or (then_answered and again)
        return completion("good") if answered else DROPPED[shape]

    transport = ScriptedTransport(answer)

    async def main() -> int:
        async with VirtualClient(transport=transport, max_retries=1) as client:
            await client.generate(ALIVE)
            results = await collect(client, prompts(ROWS), ledger=tmp_path / "out.jsonl.ledger")
        assert [result.ok for result in results] == [then_answered] * ROWS
        return sum(result.ambiguous for result in results)

    told = run_in_turns(main())
    assert told == len(transport.calls) - 1 - ROWS * then_answered >= ROWS
    account = jobs.verify(str(tmp_path / "out.jsonl"))
    assert (account.ok, account.failed, account.ambiguous) == (ROWS * then_answered, ROWS * (not then_answered), told)
    assert account.problems == []
