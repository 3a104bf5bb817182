"""What a client is told of an error: whose words, and whether to try again."""

from __future__ import annotations

import pytest

from penstock.errors import KINDS, request_error
from penstock.server.replies import STATUS, reply_to


def should_retry(kind: str, sends: int) -> str | None:
    """The header `x-should-retry` of a reply."""
    headers = dict(reply_to(request_error(kind, "no"), sends=sends).headers)  # type: ignore[arg-type]
    told = headers.get(b"x-should-retry")
    return told.decode() if told is not None else None


def test_every_kind_of_error_has_its_status() -> None:
    assert set(STATUS) == set(KINDS)
    assert all(400 <= status < 600 for status in STATUS.values())


@pytest.mark.parametrize(
    ("kind", "sends", "told"),
    [
        ("rate_limited", 1, None),
        ("rate_limited", 2, "false"),
        ("invalid_request", 1, None),
        ("server_error", 1, "false"),
        ("timeout", 1, "false"),
        ("connect", 0, "false"),
    ],
)
def test_what_was_retried_here_is_not_to_be_retried_again(kind: str, sends: int, told: str | None) -> None:
    """A throttle that was waited for counts as a send; one that was passed on at once may be waited for by the client."""
    assert should_retry(kind, sends) == told
