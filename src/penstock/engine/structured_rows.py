"""Rows that are one answer of a given form each, with its repairs: recorded call by call, so that none is paid for twice.

Such a row is a workflow of one step. What the ledger keeps of it is the text that had the form, not the value: the form
reads it again when it is shown, so that a row out of the ledger has the same value, of the same type.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from penstock.engine.run import Task
from penstock.engine.workflow import Llm, Workflow
from penstock.errors import InputError, UsageError, request_error
from penstock.records import FinishReason, RawRow, Request, Result, Structured, Usage
from penstock.rules.identity import options_digest, request_digest, row_digest
from penstock.rules.schema import Form, require_no_other_form


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer that had the form, as the ledger keeps it; the fields are those of a `Response` but for its raw bytes."""

    text: str
    finish_reason: FinishReason
    model: str
    usage: Usage | None = None
    reasoning: str = ""
    request_id: str | None = None
    discarded: tuple[Usage | None, ...] = ()


def identity_of(form: Form) -> bytes:
    """The digest of what all rows are asked to be."""
    return options_digest({"response_model": [form.name, form.schema]})


def accepted_answer(form: Form, repairs: int) -> Callable[[Request, Llm], Awaitable[Accepted]]:
    """The function of the workflow: the row's request, asked for the form."""

    async def ask(request: Request, llm: Llm) -> Accepted:
        response = await llm.generate(request, response_model=form, repairs=repairs)
        return Accepted(**{name: getattr(response, name) for name in Accepted.__struct_fields__})

    return ask


class StructuredRows(Workflow):
    """`engine.run.Work`. The flow's `row_of` gives rows with their requests, and its function is given those."""

    def prepare(self, raw: RawRow) -> Task:
        # A line of a batch is answered by a value here, and not in the form of a batch.
        row, account = msgspec.structs.replace(self.flow.row_of(raw), batch=False), self.caller.account
        try:
            require_no_other_form(row.request.params)
        except UsageError as error:
            raise InputError(raw.where, str(error)) from error
        account.provider.encode(row.request, row.request.model or account.model)  # what cannot be written is told here
        return Task(row, row.request)

    def digest(self, task: Task) -> bytes:
        account, request = self.caller.account, task.row.request
        body = account.provider.encode(request, request.model or account.model)
        return row_digest(self.flow.identity, request_digest(account.provider.name, body).hex())


async def with_values(results: AsyncGenerator[Result, None], form: Form) -> AsyncGenerator[Result, None]:
    """The results as the form reads them. Leaving early closes the run."""
    async with aclosing(results):
        async for result in results:
            yield with_value(result, form)


def with_value(result: Result, form: Form) -> Result:
    """The result with the value and the response that its accepted answer makes.

    A recorded answer that the form refuses is the row's error: a validator was changed since then.
    """
    if result.error is not None:
        return result
    accepted = msgspec.convert(result.value, Accepted)
    try:
        value = form.read(accepted.text)
    except Exception as cause:  # noqa: BLE001  whatever a validator of the caller's raises is its row's
        error = request_error(
            "schema",
            f"the answer that is recorded does not fit {form.name} as it is now ({cause}); to ask again, use another ledger",
            request_id=accepted.request_id,
        )
        error.__cause__ = cause
        return msgspec.structs.replace(result, value=None, error=error)
    response: Structured[Any] = Structured(**msgspec.structs.asdict(accepted), value=value)
    return msgspec.structs.replace(result, value=value, response=response)
