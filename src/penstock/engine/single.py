"""Rows that are one request each. The request's whole way is `engine.call`; here a row becomes one, and its end a result."""

from __future__ import annotations

from collections.abc import Callable

from penstock.engine.call import Caller, Outcome
from penstock.engine.recorder import Recorder
from penstock.engine.run import Task
from penstock.ports import Prices
from penstock.records import RawRow, Result, Row
from penstock.rules.identity import request_digest


class SingleRequests:
    """`engine.run.Work`: `render` makes a row of what the input has."""

    def __init__(self, caller: Caller, render: Callable[[RawRow], Row], prices: Prices) -> None:
        self._caller, self._render, self._prices = caller, render, prices

    def prepare(self, raw: RawRow) -> Task:
        account, row = self._caller.account, self._render(raw)
        body = account.provider.encode(row.request, row.request.model or account.model)
        return Task(row, body)

    def digest(self, task: Task) -> bytes:
        return request_digest(self._caller.account.provider.name, task.matter)

    async def carry_out(self, task: Task, recorder: Recorder | None) -> Result:  # noqa: ARG002  its end is all there is
        row: Row = task.row
        return self.result(row, await self._caller.call(row.request, task.matter, row.index))

    def close(self) -> None:
        """Nothing needs to be known of it here."""

    def result(self, row: Row, outcome: Outcome) -> Result:
        """The row's result by what became of its request."""
        response = outcome.response
        model = row.request.model or self._caller.account.model
        return Result(
            index=row.index,
            id=row.id,
            response=response,
            error=outcome.error,
            attempts=outcome.attempts,
            ambiguous=outcome.ambiguous,
            latency_s=outcome.latency_s,
            cost=self._prices.cost(model, response.usage) if response is not None else None,
            columns=row.columns,
            batch=row.batch,
            first_token_s=outcome.first_token_s,
        )
