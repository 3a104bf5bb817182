"""What the process was given: keys, proxies, descriptor limits, terminals."""

from __future__ import annotations

import io
import os
import resource

import pytest

from penstock.edges.environment import (
    api_key,
    connection_cap,
    is_terminal,
    raise_descriptor_limit,
)
from penstock.errors import UsageError


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({}, None),
        ({"A_KEY": ""}, None),
        ({"A_KEY": " \n"}, None),
        ({"A_KEY": "sk-1"}, "sk-1"),
        ({"A_KEY": " sk-1\r\n"}, "sk-1"),
        ({"A_KEY": "", "B_KEY": "sk-2"}, "sk-2"),
        ({"A_KEY": "sk-1", "B_KEY": "sk-2"}, "sk-1"),
    ],
)
def test_a_key_is_the_first_variable_that_is_set(environ: dict[str, str], key: str | None) -> None:
    assert api_key(["A_KEY", "B_KEY"], environ) == key


@pytest.mark.parametrize("key", ["sk-1\nX-Header: 2", "sk 1", "sk\x00", "sk\x7f", "schlüssel", "\u201csk-1\u201d"])
def test_a_key_that_no_header_can_carry_is_refused_by_name_without_its_value(key: str) -> None:
    with pytest.raises(UsageError, match="A_KEY") as refused:
        api_key(["A_KEY"], {"A_KEY": key})
    assert key not in str(refused.value)
    assert "sk" not in str(refused.value)


@pytest.mark.parametrize(
    ("limits", "allowed", "expected"),
    [((1024, 4096), True, 4096), ((4096, 4096), True, 4096), ((1024, resource.RLIM_INFINITY), False, 1024)],
)
def test_the_descriptor_limit_is_raised_where_the_system_lets_us(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], allowed: bool, expected: int
) -> None:
    now = limits

    def set_limit(_which: int, wanted: tuple[int, int]) -> None:
        nonlocal now
        if not allowed:
            raise ValueError("current limit exceeds maximum limit")
        now = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _which: now)
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    assert raise_descriptor_limit() == expected
    assert now == (expected, limits[1])


@pytest.mark.parametrize(
    ("limit", "connections"),
    [(0, 1), (64, 1), (65, 1), (256, 153), (1024, 768), (resource.RLIM_INFINITY, 838_809)],
)
def test_connections_leave_room_for_everything_else(limit: int, connections: int) -> None:
    assert connection_cap(limit) == connections


def test_a_terminal_is_told_from_files_and_from_nothing() -> None:
    closed = io.StringIO()
    closed.close()
    controller, terminal = os.openpty()
    with os.fdopen(controller, "rb"), os.fdopen(terminal, "w") as screen:
        assert [is_terminal(stream) for stream in (screen, io.StringIO(), closed, None)] == [True, False, False, False]
