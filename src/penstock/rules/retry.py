"""What an answer means: done, again at t, give up, or stop the run; and when an origin counts as down.

One owner of retries: neither the transport nor a provider tries anything again on its own account.

    treatment   kinds                                                    what follows
    throttle    rate_limited                                             the shared pause; costs no retry
    outage      overloaded, server_error                                 a retry, while other rows are answered
    connect     connect                                                  waits for the origin; costs no retry
    retry       timeout, disconnected, truncated, malformed              a retry: it may be billed again
    doom        auth, billing; not_found of the run's own model          stops the run; no row fails for it
    fail        everything else                                          the row's error

A 5xx is a row's own fault only while other rows are answered. While none is, the breaker is open: one probe at a time
goes out, and no row fails for it before it has been failing for ten minutes (else one row that the server cannot digest
would hold the end of a run for ever). Connections that break, one after the other with no answer between, are such a time too.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from penstock.errors import Kind, RequestError, RunStopped

Treatment: TypeAlias = Literal["throttle", "outage", "connect", "retry", "doom", "fail"]

TREATMENT: dict[Kind, Treatment] = {
    "rate_limited": "throttle",
    "overloaded": "outage",
    "server_error": "outage",
    "connect": "connect",
    "timeout": "retry",
    "disconnected": "retry",
    "truncated": "retry",
    "malformed": "retry",
    "auth": "doom",
    "billing": "doom",
    "not_found": "fail",
    "invalid_request": "fail",
    "context_too_long": "fail",
    "content_blocked": "fail",
    "too_large": "fail",
    "schema": "fail",
    "never_fits": "fail",
    "input": "fail",
    "deadline": "fail",
    "workflow": "fail",
}

FIRST_BACKOFF: dict[Treatment, float] = {"outage": 1.0, "connect": 0.05, "retry": 0.5}
LONGEST_BACKOFF = 60.0
LONGEST_NAMED_WAIT = 600.0
"""A 5xx that names its wait is obeyed up to here; what it names is a guess about its own recovery."""
STREAK_THAT_OPENS = 5
PATIENCE = 600.0
UNREACHABLE_AFTER = 30.0
LONGEST_PROBE_GAP_BEFORE_FIRST_ANSWER = 4.0
UNVERIFIED = "tls"


def backoff(first: float, failures: int, random: float) -> float:
    """Seconds to wait before the next try: full jitter, `random * min(first * 2^failures, 60)`."""
    return random * min(first * 2.0 ** min(failures, 20), LONGEST_BACKOFF)


class Breaker:
    """Whether an origin answers at all. Open after five failures in a row; then one probe at a time, by growing gaps."""

    def __init__(self) -> None:
        self._streak = 0
        self.open = False
        """True while nothing but failures comes back."""
        self._reached = False
        self._answered = False
        self._failing_since: float | None = None
        self._probing = False
        self._probe_at = 0.0

    @property
    def reached(self) -> bool:
        """True once this origin has sent anything, be it a 5xx."""
        return self._reached

    @property
    def answered(self) -> bool:
        """True once this origin has sent anything but 5xx."""
        return self._answered

    def statistics(self, now: float) -> dict[str, float]:
        """Failures in a row, whether only probes go out, and for how many seconds it has been so."""
        return {"failures": self._streak, "open": float(self.open), "failing_for_s": self.failing_for(now)}

    def failing_for(self, now: float) -> float:
        """Seconds since the first failure of the present streak."""
        return 0.0 if self._failing_since is None else now - self._failing_since

    def ready_at(self) -> float:
        """When the next request may go: at once while closed, at the next probe while open, never while one is out."""
        if not self.open:
            return 0.0
        return float("inf") if self._probing else self._probe_at

    def admit(self) -> None:
        """A request goes out; while open, it is the probe."""
        self._probing = self.open

    def answer(self) -> None:
        """The origin is alive: an answer that is neither 5xx nor a failure to connect."""
        self._streak, self.open, self._probing, self._failing_since = 0, False, False, None
        self._reached = self._answered = True

    def failure(self, now: float, random: float, *, connected: bool) -> None:
        """A 5xx, no connection, or one that broke. Of those that went out together five open it, the others say no more."""
        self._reached = self._reached or connected
        if self._failing_since is None:
            self._failing_since = now
        if self.open and not self._probing:
            return
        self._streak += 1
        self.open, self._probing = self._streak >= STREAK_THAT_OPENS, False
        gap = min(2.0 ** min(self._streak - STREAK_THAT_OPENS, 6), LONGEST_BACKOFF) * (0.75 + random / 4)
        self._probe_at = now + (gap if self._reached else min(gap, LONGEST_PROBE_GAP_BEFORE_FIRST_ANSWER))

    def lost(self, now: float) -> None:
        """An attempt ended without a word about the origin (time-out, cancel): if it was the probe, another may go."""
        if self._probing:
            self._probing, self._probe_at = False, now + 1.0


class Tries(msgspec.Struct):
    """What one row has been through. `retries` are those that count; `failures` all but throttles."""

    retries: int = 0
    failures: int = 0
    failing_since: float | None = None


class Verdict(msgspec.Struct, frozen=True):
    """`done`, `again` (not before `at`), `fail` (the row's error stands) or `stop` (the run ends, for `reason`)."""

    action: Literal["again", "done", "fail", "stop"]
    at: float = 0.0
    reason: str = ""


FAIL = Verdict("fail")


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How long to try. `patient` is for runs, which wait for an origin that is down; a single call fails instead."""

    max_retries: int
    patient: bool = True

    def judge(
        self, error: RequestError, tries: Tries, breaker: Breaker, now: float, random: float, *, own_model: bool
    ) -> Verdict:
        """What follows from a failed attempt. The breaker has been told of it already.

        `own_model` is true where the request's model is the run's own, so that its absence dooms every row.
        """
        treatment: Treatment = "doom" if error.kind == "not_found" and own_model else TREATMENT[error.kind]
        match treatment:
            case "fail":
                return FAIL
            case "doom":
                return Verdict("stop", reason=error.kind) if self.patient else FAIL
            case "throttle":
                return Verdict("again", at=now)
            case _:
                return self._once_more(error, treatment, tries, breaker, now, random)

    def _once_more(
        self, error: RequestError, treatment: Treatment, tries: Tries, breaker: Breaker, now: float, random: float
    ) -> Verdict:
        if tries.failing_since is None:
            tries.failing_since = now
        tries.failures += 1
        if self.patient and (reason := doomed(error, breaker, now)):
            return Verdict("stop", reason=reason)
        if self._counts(error, treatment, tries, breaker, now):
            tries.retries += 1
        if tries.retries > self.max_retries:
            return FAIL
        wait = backoff(FIRST_BACKOFF[treatment], tries.failures - 1, random)
        return Verdict("again", at=now + max(wait, min(error.retry_after or 0.0, LONGEST_NAMED_WAIT)))

    def _counts(self, error: RequestError, treatment: Treatment, tries: Tries, breaker: Breaker, now: float) -> bool:
        if not self.patient or (treatment == "retry" and error.kind != "disconnected"):
            return True
        if treatment == "connect":
            return False
        assert tries.failing_since is not None
        return not breaker.open or now - tries.failing_since > PATIENCE


ADVICE = {
    "auth": "The provider refused the key. Set the right one",
    "billing": "The account has no credit or has reached its spending limit. Mend that",
    "not_found": "The provider does not know the model, or the base URL is wrong. Correct -m or --base-url",
    "unreachable": "The provider never answered. Check --base-url, the network, the proxy and SSL_CERT_FILE",
    "unavailable": "The provider has answered nothing but server errors from the start. Wait until it has recovered",
}
"""What to do about each reason that stops a run."""


def stopped(reason: str, error: RequestError) -> RunStopped:
    """The error that ends a run, with what to do and what the provider said."""
    status = f"{error.status}: " if error.status else ""
    advice = f"{ADVICE[reason]}, then run the same command again: it resumes where it stopped."
    return RunStopped(reason, f"{advice} ({status}{error.message})")


def doomed(error: RequestError, breaker: Breaker, now: float) -> str | None:
    """Why no row can succeed: a certificate that does not verify, or an origin that from the start never answered.

    Thirty seconds of refused connections, or ten minutes of nothing but 5xx, say that the address is wrong rather than
    that the origin has a bad moment.
    """
    if error.code == UNVERIFIED:
        return "unreachable"
    if breaker.answered or not breaker.open:
        return None
    if breaker.reached:
        return "unavailable" if breaker.failing_for(now) >= PATIENCE else None
    return "unreachable" if breaker.failing_for(now) >= UNREACHABLE_AFTER else None
