"""One simulated provider for all tests of a module, in a process of its own: calls without a loop need one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from penstock.integrations.langchain import ChatPenstock
from tests.kit.simulated import Simulated, simulated

KEY = "sk-canary-7f3a9"

NewModel: TypeAlias = Callable[..., ChatPenstock]


@pytest.fixture(scope="module")
def provider() -> Iterator[Simulated]:
    """A provider that knows one key."""
    with simulated("--api-key", KEY, "--retry-after", "0.01") as running:
        yield running


@pytest.fixture
def new_model(provider: Simulated) -> NewModel:
    """ChatPenstock before the provider; any argument may be replaced."""

    def new(**options: Any) -> ChatPenstock:
        return ChatPenstock(**{"model": "custom/m", "base_url": provider.base_url, "api_key": KEY, **options})

    return new
