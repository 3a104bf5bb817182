"""The auditor finds what it is there to find: each promise is broken on purpose here, and it says so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from penstock.errors import NotSent
from penstock.options import Timeouts
from penstock.records import HttpCall
from penstock.simulator.behaviour import Phase, Settings
from penstock.simulator.clock import VirtualClock, run
from tests.simulation.auditor import Auditor
from tests.simulation.models import Figures
from tests.simulation.running import Found, broken, watch
from tests.simulation.servers import MODELS
from tests.simulation.table import failures, main, table
from tests.simulation.timeline import timeline

CALL = HttpCall("http://simulated/v1/chat/completions", (), b"")
SECOND = Settings(requests_per_minute=60, burst_seconds=1)
"""One request a second."""


def body(index: int) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": f"row {index}"}]}).encode()


def audited(settings: Settings, times: list[float]) -> Auditor:
    """What the auditor knows after sends at these times."""

    async def send(auditor: Auditor, clock: VirtualClock, index: int, at: float) -> None:
        await clock.sleep(at)
        try:
            await auditor.send(msgspec.structs.replace(CALL, body=body(index)), Timeouts())
        except NotSent:
            pass

    async def main() -> Auditor:
        clock = VirtualClock()
        auditor = Auditor(settings, clock)
        await asyncio.gather(*[send(auditor, clock, index, at) for index, at in enumerate(times)])
        return auditor

    return run(main())


def test_use_is_what_was_charged_of_what_was_to_be_had() -> None:
    """At the limit's own pace it is 1, at half of it a half."""
    assert audited(SECOND, [float(k) for k in range(121)]).use(((0.0, 60.0),)) == pytest.approx(1)
    assert audited(SECOND, [2.0 * k for k in range(61)]).use(((0.0, 60.0),)) == pytest.approx(0.5)


def test_use_follows_what_is_available() -> None:
    """Half of the limit for half of the time, and nothing during an outage."""
    times = [*map(float, range(60)), *(60.0 + 2 * k for k in range(31))]
    assert audited(SECOND, times).use(((0.0, 60.0), (60.0, 30.0))) == pytest.approx(1, abs=0.02)
    assert audited(SECOND, [*map(float, range(61)), 120.0]).use(((0.0, 60.0), (60.0, 0.0))) == pytest.approx(
        1, abs=0.02
    )


def test_what_others_take_is_not_available() -> None:
    """Half of the limit is all that is left where others have the other half."""
    settings = Settings(requests_per_minute=600, schedule=(Phase(at=0.0, foreign_share=0.5),))
    auditor = audited(settings, [k / 5 for k in range(1500)])
    assert sum(auditor.server.others_charged) == pytest.approx(1500, rel=0.1)
    assert auditor.use(((0.0, 600.0),)) == pytest.approx(1, abs=0.1)


def test_throttles_are_counted_by_when_they_were_given() -> None:
    """All of them, and those after the first minute."""
    auditor = audited(SECOND, [0.0, 0.1, 70.0, 70.1, 70.2])
    assert (auditor.throttled(), auditor.throttled(since=60.0)) == (3, 2)


def test_a_send_within_a_told_wait_is_early_unless_it_was_on_its_way() -> None:
    """The 429 of 0.1 s is told at once and names 0.9 s: 0.5 s is early, 1.0 s is not."""
    assert audited(SECOND, [0.0, 0.1, 1.0]).early_sends() == 0
    assert audited(SECOND, [0.0, 0.1, 0.5]).early_sends() == 1
    assert audited(SECOND, [0.0, 0.1, 0.1, 1.0]).early_sends() == 0


def test_429s_of_an_episode_count_from_the_second_on_that_was_sent_after_the_first_was_told() -> None:
    """A new episode begins fifteen seconds later."""
    assert audited(SECOND, [0.0, 0.1]).extra_throttles() == 0
    assert audited(SECOND, [0.0, 0.1, 0.2, 0.3]).extra_throttles() == 2
    assert audited(SECOND, [0.0, 0.1, 20.0, 20.1, 40.0, 40.1]).extra_throttles() == 0


def test_what_was_on_its_way_is_no_extra_throttle() -> None:
    """Sent before the client could know of the first one."""

    async def main() -> int:
        clock = VirtualClock()
        auditor = Auditor(SECOND, clock, arrival_delay=1.0)
        calls = [auditor.send(msgspec.structs.replace(CALL, body=body(k)), Timeouts()) for k in range(5)]
        await asyncio.gather(*calls)
        return auditor.extra_throttles() + 10 * len(auditor.throttles)

    assert run(main()) == 40


def test_recovery_is_the_least_use_of_a_minute_after_a_change() -> None:
    """Who goes on at half the pace has not recovered, who goes on at the full one has."""
    available = ((0.0, 60.0), (100.0, 60.0))
    fast, slow = map(float, range(400)), [*map(float, range(100)), *(100.0 + 2 * k for k in range(150))]
    assert audited(SECOND, list(fast)).recovered(available) == pytest.approx(1, abs=0.02)
    assert audited(SECOND, slow).recovered(available) == pytest.approx(0.5, abs=0.02)
    assert audited(SECOND, [0.0, 1.0]).recovered(((0.0, 60.0),)) is None


def test_a_refused_connection_bills_nothing() -> None:
    """Neither does a throttle; a 503 may."""
    outage = Settings(requests_per_minute=60, burst_seconds=1, schedule=(Phase(at=10.0, outage="refused"),))
    assert audited(outage, [0.0, 0.1, 20.0, 21.0]).billed_sends() == 1
    outage = Settings(schedule=(Phase(at=10.0, outage="error_503"),))
    assert audited(outage, [0.0, 20.0, 21.0]).billed_sends() == 3


GOOD = Found(
    model="fixed, exact",
    seed=3,
    rows=10_000,
    ok=10_000,
    minutes=15.0,
    use=0.995,
    throttled=0,
    throttled_steady=0,
    throttled_after_30_s=0,
    extra_throttles=0,
    early_sends=0,
    sends_a_row=1.0,
    peak=50,
    recovered=0.97,
)
ALL = Figures(
    least_use=0.99,
    most_throttled=5,
    most_throttled_first=0,
    most_throttled_steady=0,
    most_throttled_share=0.03,
    most_extra_throttles=1,
    least_recovered=0.95,
    most_sends_a_row=1.1,
    most_in_flight=192,
)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"use": 0.98}, "use of what the server lets through"),
        ({"throttled": 6, "throttled_steady": 6}, "429s: 6"),
        ({"throttled": 1}, "in the first 60 s"),
        ({"throttled": 1, "throttled_steady": 1}, "after the first 60 s"),
        ({"throttled_after_30_s": 301}, "after the first 30 s"),
        ({"extra_throttles": 2}, "of one episode"),
        ({"early_sends": 1}, "told wait"),
        ({"sends_a_row": 1.11}, "sends for each row"),
        ({"peak": 193}, "in flight"),
        ({"recovered": 0.94}, "from 10 s after a change on"),
        ({"ok": 9_999}, "rows answered"),
    ],
)
def test_each_figure_can_fail(change: dict[str, Any], word: str) -> None:
    """And its sentence names it, with the seed and the command that replays it."""
    assert broken(ALL, GOOD) == []
    found = msgspec.structs.replace(GOOD, **change)
    found = msgspec.structs.replace(found, broken=broken(ALL, found))
    (sentence,) = [failure for failure in failures(found) if word in failure]
    assert "seed 3" in sentence
    assert "python -m tests.simulation.table --seed 3 'fixed, exact'" in sentence


def test_the_table_has_a_line_for_each_model_that_ran() -> None:
    """Worst and median of the seeds."""
    worse = msgspec.structs.replace(GOOD, use=0.98, broken=["use"])
    head, line = table([GOOD, worse, GOOD])
    assert "use %" in head
    assert "98.00 99.50" in line
    assert line.endswith("3  1")


def test_the_command_prints_lines_and_replays(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0 where all figures hold; where one does not, exit 1 and the command that shows it again."""
    assert main(["--seed", "1", "--rows", "200", "bucket 60 s, exact"]) == 0
    assert "bucket 60 s, exact" in capsys.readouterr().out
    assert main(["--seed", "2", "--rows", "60", "engine"]) == 1
    told = capsys.readouterr().out
    assert "use of what the server lets through" in told
    assert "--seed 2 --rows 60 'engine of 64 slots'" in told


def test_a_timeline_has_a_line_for_each_stretch() -> None:
    """With the use, the throttles and the sends of it."""
    trial = MODELS["no headers"].trial(1)
    auditor, ok = watch(trial, 300)
    lines = timeline(auditor, trial, 10.0)
    assert ok == 300
    assert len(lines) == int(auditor.seconds() / 10) + 1
    assert sum(int(line.split()[-1]) for line in lines) == pytest.approx(len(auditor.sent_at), abs=100)
