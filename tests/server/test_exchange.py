"""An exchange says what it knows, shows no content, and a trail notes each send of a real request."""

from __future__ import annotations

from penstock.access import Access
from penstock.engine.call import Caller
from penstock.engine.gate import Scope
from penstock.errors import request_error
from penstock.options import Limits, Timeouts
from penstock.records import Request
from penstock.rules.retry import Policy
from penstock.rules.tally import Tally
from penstock.server.exchange import Exchange, Send, Trail
from penstock.simulator.clock import VirtualClock, run
from penstock.testing import ManualClock, ScriptedTransport, completion


def exchange(**fields: object) -> Exchange:
    """One that went well, but for these fields."""
    common = {"request_id": "r-1", "route": "/generate", "status": 200, "began_at": 1_767_225_600.0, "duration_s": 2.0}
    return Exchange(**{**common, **fields})


def test_its_repr_shows_no_content() -> None:
    shown = repr(exchange(prompt=b"my secret diary", answer=b"dear me", traceparent="00-x", upstream_request_id="up-1"))
    assert "r-1" in shown
    assert not any(word in shown for word in ("diary", "dear", "00-x", "up-1"))


def test_without_a_trail_the_send_lasted_from_its_turn_to_the_end() -> None:
    assert exchange(attempts=1, queue_s=0.5).known_sends() == (Send(began_s=0.5, duration_s=1.5),)
    assert exchange(attempts=2, error_kind="timeout").known_sends()[0].error_kind == "timeout"


def test_what_was_never_sent_has_no_send() -> None:
    assert exchange(status=401).known_sends() == ()


def test_a_trail_notes_when_each_send_began_and_ended() -> None:
    clock, tally = ManualClock(), Tally()
    clock.advance(100.0)
    trail = Trail(clock, tally)
    clock.advance(1.0)
    trail.sending(0)
    clock.advance(2.0)
    trail.attempted(request_error("rate_limited", "later", status=429))
    clock.advance(4.0)
    trail.sending(0)
    clock.advance(8.0)
    trail.attempted(None)
    assert trail.sends == [
        Send(began_s=1.0, duration_s=2.0, error_kind="rate_limited", status=429),
        Send(began_s=7.0, duration_s=8.0),
    ]
    assert (tally.sent, tally.throttled) == (2, 1)


def test_the_engine_tells_a_trail_of_every_send() -> None:
    """As marks and as observer of a caller: a refused, a throttled and an answered send."""

    async def scenario() -> list[Send]:
        clock = VirtualClock()
        script = ScriptedTransport(
            [
                request_error("server_error", "down", status=500),
                request_error("rate_limited", "later"),
                completion("yes"),
            ]
        )
        access = Access(
            "openai/m", api_key="k" * 8, base_url=None, limits=Limits(), max_concurrency=1, timeouts=Timeouts(),
            transport=script, clock=clock,
        )  # fmt: skip
        account = await access.open()
        trail = Trail(clock, Tally())
        caller = Caller(account=account, policy=Policy(max_retries=3), scope=Scope(), observer=trail, marks=trail)
        request = Request([{"role": "user", "content": "hello"}])
        outcome = await caller.call(request, access.provider.encode(request, "m"))
        await access.aclose()
        assert outcome.response is not None
        return trail.sends

    sends = run(scenario())
    assert [send.error_kind for send in sends] == ["server_error", "rate_limited", ""]
    assert sends[0].began_s < sends[1].began_s < sends[2].began_s
