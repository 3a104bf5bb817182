"""The account of a simulated provider: what came in, what was answered, which prompts twice.

Pure. It counts and never decides what a request gets.
"""

from __future__ import annotations

from collections import Counter

import msgspec

_DUPLICATES_NAMED = 20
_TALLIED = ("arrived", "answered", "duplicates", "throttled", "abandoned", "input_tokens", "output_tokens")


class Stats(msgspec.Struct, frozen=True):
    """The account so far. `answered` counts 200s sent whole, `prompts` the different prompts among them, `duplicates`
    the answers to a prompt that had been answered before (some named in `duplicate_digests`, see `prompt_digest`),
    `abandoned` the answers whose client left first, `elapsed` the seconds since the first arrival."""

    arrived: int
    answered: int
    prompts: int
    duplicates: int
    duplicate_digests: list[str]
    throttled: int
    failed: dict[str, int]
    abandoned: int
    in_flight: int
    peak: int
    input_tokens: int
    output_tokens: int
    elapsed: float


class Account:
    """Counts arrivals and departures; `turns` also remembers how often each prompt was admitted."""

    def __init__(self) -> None:
        # A prompt's digest -> twice the times it was admitted, plus one once it is answered. An int rather than a
        # pair, so that a million prompts stay near 100 MB.
        self._seen: dict[int, int] = {}
        self._tally: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._duplicates: list[str] = []
        self._in_flight = self._peak = 0
        self.first_arrival: float | None = None

    @property
    def arrived(self) -> int:
        """Requests so far."""
        return self._tally["arrived"]

    def turns(self, digest: int) -> int:
        """How often a prompt was admitted so far."""
        return self._seen.get(digest, 0) // 2

    def arrives(self, now: float) -> None:
        """A request is there, whatever becomes of it."""
        self._tally["arrived"] += 1
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        if self.first_arrival is None:
            self.first_arrival = now

    def admitted(self, digest: int) -> None:
        """It was let in."""
        self._seen[digest] = self._seen.get(digest, 0) + 2

    def decided(self, outcome: str) -> None:
        """What it will get."""
        if outcome == "throttled":
            self._tally["throttled"] += 1
        elif outcome != "answered":
            self._failed[outcome] += 1

    def leaves(self, outcome: str, whole: bool) -> None:
        """It is over; `whole` says that all of its answer went out."""
        self._in_flight -= 1
        if outcome == "answered":
            self._tally["answered" if whole else "abandoned"] += 1

    def answered(self, digest: int, input_tokens: int, output_tokens: int) -> None:
        """A prompt has its answer, maybe not its first."""
        self._tally["input_tokens"] += input_tokens
        self._tally["output_tokens"] += output_tokens
        if not self._seen[digest] & 1:
            self._seen[digest] += 1
            return
        self._tally["duplicates"] += 1
        if len(self._duplicates) < _DUPLICATES_NAMED:
            self._duplicates.append(f"{digest:016x}")

    def stats(self, now: float) -> Stats:
        """The account at `now`."""
        tally = self._tally
        first = now if self.first_arrival is None else self.first_arrival
        return Stats(
            **{name: tally[name] for name in _TALLIED},
            prompts=tally["answered"] - tally["duplicates"],
            duplicate_digests=list(self._duplicates),
            failed=dict(self._failed),
            in_flight=self._in_flight,
            peak=self._peak,
            elapsed=now - first,
        )
