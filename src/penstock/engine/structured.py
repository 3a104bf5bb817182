"""An answer of a given form: asked for, read, and asked for again with what was wrong with it.

It owns the repairs; the retries of each send are those of whoever sends. What came and could not be used is told in
`discarded`, in the answer and in every error, so that nothing that was paid for is lost from sight.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from penstock.errors import Kind, RequestError, UsageError, request_error
from penstock.records import FinishReason, Request, Response, Structured, Usage
from penstock.rules.schema import Form, Native, Unfit, ask_for, correction_of, weaker

# No repair mends these: the same limit cuts the next answer too, the same filter stops it.
_ENDINGS: dict[FinishReason, tuple[Kind, str]] = {
    "length": ("schema", "the answer was cut off at its limit of output tokens; raise max_tokens or ask for less"),
    "content_filter": ("content_blocked", "a content filter stopped the answer; change the prompt"),
    "refusal": ("content_blocked", "the model refused to answer; change the prompt"),
    "tool_calls": ("schema", "the model called a tool instead of answering; leave tools out, or response_model"),
}


async def answer(
    send: Callable[[Request], Awaitable[Response]], request: Request, form: Form, native: Native, repairs: int = 2
) -> Response:
    """The first answer that has the form, as a `Structured`; `repairs` is how many more are asked for where one has not.

    Each repair shows the model its last answer and what is wrong with it. A service that refuses the native form itself
    is asked in a weaker one, at the cost of no repair. Raises what `send` raises; kind `schema` where no answer has the
    form, or where one was cut off by its length (`code` is then `length`) or calls tools (`tool_calls`); kind
    `content_blocked` for a refusal and for a filtered answer (`code` is `refusal` or `content_filter`); and
    `UsageError` for a request with a `response_format` of its own, before anything is sent.
    """
    require_whole(repairs)
    discarded: tuple[Usage | None, ...] = ()
    correction = None
    while True:
        try:
            response = await send(ask_for(request, form, native, correction))
        except RequestError as error:
            less = weaker(native, error)
            if less is None:
                error.discarded = discarded + error.discarded
                raise
            native = less
            continue
        try:
            value = _read(response, form)
        except Unfit as unfit:
            discarded += (response.usage,)
            if len(discarded) > repairs:
                raise _never_fitting(response, form, unfit, discarded) from unfit
            correction = correction_of(response.text, unfit, form, native)
        except RequestError as error:
            error.discarded = (*discarded, response.usage)
            raise
        else:
            return Structured(**msgspec.structs.asdict(response) | {"value": value, "discarded": discarded})


def require_whole(repairs: object) -> None:
    """Raise `UsageError` for a number of repairs that is none."""
    if not isinstance(repairs, int) or isinstance(repairs, bool) or repairs < 0:
        raise UsageError(f"repairs must be 0 or a positive whole number, not {repairs!r}")


def _read(response: Response, form: Form) -> object:
    """The value of an answer that ended as it should."""
    if response.finish_reason not in _ENDINGS:
        return form.read(response.text)
    kind, why = _ENDINGS[response.finish_reason]
    said = f' (it said: "{_excerpt(response.text)}")' if response.text.strip() else ""
    raise request_error(
        kind,
        f"no {form.name}: {why}{said}",
        code=response.finish_reason,
        request_id=response.request_id,
        maybe_billed=True,
    )


def _never_fitting(response: Response, form: Form, unfit: Unfit, discarded: tuple[Usage | None, ...]) -> RequestError:
    tries = f"{len(discarded)} answers have" if len(discarded) > 1 else "the answer has"
    return request_error(
        "schema",
        f"{tries} not the form of {form.name}; the last one: {unfit} "
        f'(it was: "{_excerpt(response.text)}"). Make the form simpler, explain it in the prompt, or raise repairs',
        request_id=response.request_id,
        maybe_billed=True,
        discarded=discarded,
    )


def _excerpt(text: str) -> str:
    """How an answer begins, in one line."""
    line = " ".join(text[:400].split())
    return line if len(line) <= 120 else f"{line[:117]}..."
