"""Penstock: many LLM API calls, as fast as the limits allow, nothing lost, nothing paid twice.

Names are loaded at their first use, so that importing the package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
"""A type checker takes this name for true; importing `typing` for it would double what `import penstock` takes."""

if TYPE_CHECKING:
    from typing import Any

    from penstock.client import Client as Client
    from penstock.engine.workflow import Llm as Llm
    from penstock.errors import BadAnswer as BadAnswer
    from penstock.errors import DeadlineExceeded as DeadlineExceeded
    from penstock.errors import InputError as InputError
    from penstock.errors import LedgerFailed as LedgerFailed
    from penstock.errors import LedgerLocked as LedgerLocked
    from penstock.errors import LoopMismatch as LoopMismatch
    from penstock.errors import NoAnswer as NoAnswer
    from penstock.errors import NotSent as NotSent
    from penstock.errors import OutputRefused as OutputRefused
    from penstock.errors import PenstockError as PenstockError
    from penstock.errors import Refused as Refused
    from penstock.errors import RequestError as RequestError
    from penstock.errors import RunChanged as RunChanged
    from penstock.errors import RunStopped as RunStopped
    from penstock.errors import Throttled as Throttled
    from penstock.errors import Unavailable as Unavailable
    from penstock.errors import UsageError as UsageError
    from penstock.errors import WorkflowFailed as WorkflowFailed
    from penstock.options import Limits as Limits
    from penstock.records import Chunk as Chunk
    from penstock.records import Request as Request
    from penstock.records import Response as Response
    from penstock.records import Result as Result
    from penstock.records import RowChunk as RowChunk
    from penstock.records import ToolCall as ToolCall
    from penstock.records import Usage as Usage

__version__ = "0.1.0"

_HOMES = {
    "penstock.client": ("Client",),
    "penstock.engine.workflow": ("Llm",),
    "penstock.options": ("Limits",),
    "penstock.records": ("Chunk", "Request", "Response", "Result", "RowChunk", "ToolCall", "Usage"),
    "penstock.errors": (
        "PenstockError",
        "UsageError",
        "InputError",
        "OutputRefused",
        "RunChanged",
        "LedgerLocked",
        "RunStopped",
        "LedgerFailed",
        "LoopMismatch",
        "RequestError",
        "NotSent",
        "NoAnswer",
        "Throttled",
        "Unavailable",
        "Refused",
        "BadAnswer",
        "DeadlineExceeded",
        "WorkflowFailed",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604  the table above is the list
    *_HOME_OF,
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
