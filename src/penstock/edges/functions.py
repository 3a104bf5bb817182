"""A user's function: found by its name, checked before anything is sent, known again by its source. It never calls one.

The hash is over the source of the function itself. What the function uses (other functions, constants, a template file) is not
seen: after a change there, ask for `--update`.
"""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from textwrap import dedent
from types import CodeType, ModuleType
from typing import Any, TypeAlias

import msgspec

from penstock.errors import UsageError

Function: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
READY_MADE = "penstock.workflows"


def load_function(named: str) -> Function:
    """The function of `module:function`, or the ready-made one of a bare name. Modules of the current folder are found too."""
    module_name, colon, name = named.partition(":")
    if not colon:
        module_name, name = READY_MADE, named
    module = _module(module_name, named)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not colon and (found is None or isinstance(found, ModuleType)):
        there = ", ".join(sorted(module.__all__))
        raise UsageError(
            f"--workflow {named}: there is none of that name ({there}); for one of yours give module:function"
        )
    if found is None:
        raise UsageError(f"--workflow {named}: the module {module_name} ({module.__file__}) has no {name!r}")
    require_workflow(found)
    function: Function = found
    return function


def _module(name: str, named: str) -> ModuleType:
    folder = os.getcwd()  # noqa: PTH109  it goes into sys.path, which has texts
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"--workflow {named}: {name} needs the module {error.name}, which is not there") from error
        raise UsageError(
            f"--workflow {named}: there is no module {name!r} in {folder}, nor is one installed; give module:function"
        ) from error
    except Exception as error:
        where = trace_of(error)
        raise UsageError(
            f"--workflow {named}: importing {name} raised {type(error).__name__}: {error}\n{where}"
        ) from error


def require_workflow(function: Any) -> None:
    """Raise `UsageError` unless it is an async function of a row and an `llm`."""
    name = _qualname(function)
    if not callable(function):
        raise UsageError(f"{name} is no function: a workflow is `async def {name}(row, llm)`")
    if not inspect.iscoroutinefunction(function):
        raise UsageError(f"{name} is not async: a workflow is `async def {name}(row, llm)`")
    try:
        inspect.signature(function).bind("row", "llm")
    except TypeError as error:
        raise UsageError(f"{name} cannot be called as {name}(row, llm): {error}") from error


def identity_of(function: Function) -> dict[str, Any]:
    """What tells a function from another, and from what it was before: its name, the hash of its source, bound arguments."""
    inner, bound = function, {}
    if isinstance(function, partial):
        inner = function.func
        bound = {"arguments": _told([list(function.args), dict(function.keywords)], inner)}
    return {"workflow": f"{inner.__module__}:{_qualname(inner)}", "code": _source_digest(inner)} | bound


def _told(arguments: Any, function: Any) -> Any:
    """Bound arguments as they are written down with the run."""
    try:
        return msgspec.json.decode(msgspec.json.encode(arguments))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"an argument that is bound to {_qualname(function)} cannot be written as JSON ({error}), so that a change of "
            "it would go unseen: write an async function that has it inside"
        ) from error


def _qualname(function: Any) -> str:
    inner = function.func if isinstance(function, partial) else function
    return str(getattr(inner, "__qualname__", None) or repr(inner))


def _source_digest(function: Any) -> str:
    try:
        content = dedent(inspect.getsource(function)).encode()
    except (OSError, TypeError):  # typed at a prompt: there is no file to read
        content = repr(_code_of(inspect.unwrap(function).__code__)).encode()
    from hashlib import blake2b  # it brings OpenSSL's whole table of digests

    return blake2b(content, digest_size=8).hexdigest()


def _code_of(code: CodeType) -> tuple[Any, ...]:
    """What a code object does, without where it stands."""
    constants = tuple(_code_of(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts)
    return code.co_code, code.co_names, constants


def trace_of(error: BaseException) -> str:
    """Where an exception came from, as Python prints it, without the frame that called the user's code."""
    inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
    return "".join(traceback.format_exception(type(error), error, inner or error.__traceback__))
