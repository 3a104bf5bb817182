"""Tools and forms: what LangChain calls a tool, or the schema of an answer, as parameters of a request, and what reads the answer.

It decides which parameters ask for a form, and which parser fits them. LangChain's parsers complete what was cut off, so
that half an object passes for a whole one; those here do so only for streams, where a half is what is wanted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Literal, TypeAlias

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_function, convert_to_openai_tool
from langchain_core.utils.json import parse_json_markdown
from langchain_core.utils.pydantic import is_basemodel_subclass

from penstock.errors import UsageError

Tool: TypeAlias = dict[str, Any] | type | Callable[..., Any] | BaseTool
Schema: TypeAlias = dict[str, Any] | type
Form: TypeAlias = Literal["function_calling", "json_schema", "json_mode"]

_CHOICES = {"any": "required", True: "required", False: "none"}


def tool_params(
    tools: Sequence[Tool],
    *,
    tool_choice: dict[str, Any] | str | bool | None,
    strict: bool | None,
    parallel: bool | None,
) -> dict[str, Any]:
    """The parameters that offer tools. Raises `UsageError` where the one that must be called is not on offer."""
    offered = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
    params: dict[str, Any] = {"tools": offered}
    if parallel is not None:
        params["parallel_tool_calls"] = parallel
    if tool_choice is not None:
        params["tool_choice"] = _choice(tool_choice, offered)
    return params


def _choice(asked: dict[str, Any] | str | bool, offered: list[dict[str, Any]]) -> dict[str, Any] | str:
    if isinstance(asked, dict):
        return asked
    choice = _CHOICES.get(asked, asked)
    if choice in ("auto", "none", "required"):
        return str(choice)
    names = [tool["function"]["name"] for tool in offered if "function" in tool]
    if choice not in names:
        raise UsageError(f"tool_choice {asked!r} is none of the tools ({', '.join(names)}), nor any, auto, none")
    return {"type": "function", "function": {"name": choice}}


def structured(
    model: BaseChatModel,
    schema: Schema | None,
    *,
    method: Form,
    include_raw: bool,
    strict: bool | None,
    further: dict[str, Any],
) -> Runnable[LanguageModelInput, Any]:
    """The model bound to a form, followed by what reads it. Raises `UsageError` for a method that cannot be."""
    asked, parser = _FORMS.get(method, _unknown)(schema, strict)
    # LangChain takes this out of the call again and tells its callbacks of it.
    told = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    bound = model.bind(**asked, **further, **({"ls_structured_output_format": told} if schema is not None else {}))
    if not include_raw:
        return bound | parser
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _refuse_a_cut_call(result: list[Generation]) -> None:
    """A streamed call has its arguments completed by LangChain before anybody can look at them: only the ending tells."""
    (generation,) = result
    if isinstance(generation, ChatGeneration) and generation.message.response_metadata.get("finish_reason") == "length":
        raise OutputParserException("the call was cut off by the limit of tokens: raise max_tokens")


class _PydanticCall(PydanticToolsParser):
    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial:
            _refuse_a_cut_call(result)
        return super().parse_result(result, partial=partial)


class _PlainCall(JsonOutputKeyToolsParser):
    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial:
            _refuse_a_cut_call(result)
        return super().parse_result(result, partial=partial)


def _refuse_half_json(result: list[Generation]) -> None:
    text = result[0].text
    try:
        parse_json_markdown(text, parser=json.loads)
    except ValueError as error:
        raise OutputParserException(f"the answer is not whole JSON: {error}", llm_output=text) from error


class _PydanticJson(PydanticOutputParser[Any]):
    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial:
            _refuse_half_json(result)
        return super().parse_result(result, partial=partial)


class _PlainJson(JsonOutputParser):
    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial:
            _refuse_half_json(result)
        return super().parse_result(result, partial=partial)


Asked: TypeAlias = tuple[dict[str, Any], BaseOutputParser[Any]]


def _by_tool(schema: Schema | None, strict: bool | None) -> Asked:
    if schema is None:
        raise UsageError("with_structured_output needs a schema; only method='json_mode' goes without")
    name = convert_to_openai_tool(schema)["function"]["name"]
    params = tool_params([schema], tool_choice=name, strict=strict, parallel=None)
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return params, _PydanticCall(tools=[schema], first_tool_only=True)
    return params, _PlainCall(key_name=name, first_tool_only=True)


def _by_schema(schema: Schema | None, strict: bool | None) -> Asked:
    if schema is None:
        raise UsageError("with_structured_output needs a schema; only method='json_mode' goes without")
    function = convert_to_openai_function(schema, strict=strict)
    form = {"name": function["name"], "schema": function.get("parameters", {"type": "object"})}
    form |= {word: function[word] for word in ("description", "strict") if word in function}
    return {"response_format": {"type": "json_schema", "json_schema": form}}, _reader(schema)


def _as_json(schema: Schema | None, strict: bool | None) -> Asked:
    if strict is not None:
        raise UsageError("strict needs a form to be strict about: use method='json_schema' or 'function_calling'")
    return {"response_format": {"type": "json_object"}}, _reader(schema)


def _reader(schema: Schema | None) -> BaseOutputParser[Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return _PydanticJson(pydantic_object=schema)
    return _PlainJson()


def _unknown(schema: Schema | None, strict: bool | None) -> Asked:  # noqa: ARG001
    raise UsageError(f"method must be one of {', '.join(_FORMS)}")


_FORMS: dict[str, Callable[[Schema | None, bool | None], Asked]] = {
    "function_calling": _by_tool,
    "json_schema": _by_schema,
    "json_mode": _as_json,
}
