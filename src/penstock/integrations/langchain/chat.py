"""ChatPenstock: LangChain's chat model over `penstock.Client`.

It decides what of LangChain's contract becomes which part of a request. Limits, retries, time-outs and the breaker are the
client's; nothing here waits, tries again or counts.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Annotated, Any, Self, TypeAlias

import msgspec
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import (
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from penstock.edges.environment import api_key as key_of
from penstock.errors import UsageError
from penstock.integrations.langchain.clients import Clients, Settings, shared
from penstock.integrations.langchain.messages import asked_messages, first_piece, last_piece, piece_of, result_of
from penstock.integrations.langchain.rows import RunRow, current_row, in_one_piece
from penstock.integrations.langchain.tools import Form, Schema, Tool, structured, tool_params
from penstock.options import Limits
from penstock.providers.catalog import Service, bare_model, split_model
from penstock.records import Request, Response
from penstock.rules.estimate import SCRIPTS, script_of

_OF_THE_CLIENT = frozenset({"api_key", "base_url", "limits", "max_concurrency", "max_retries", "timeout"})
"""Of the model and not of a call: in a request the provider would refuse them, or worse, take no notice."""

_SENT_OTHERWISE = frozenset({"stream", "stream_options"})
"""Whether an answer is streamed is said by the method that is called."""


def _as_limits(value: Any) -> Any:
    return Limits(**value) if isinstance(value, Mapping) else value


def _as_mapping(limits: Limits | None) -> dict[str, float] | None:
    """Those that are set, as the constructor takes them too."""
    if limits is None:
        return None
    plain = msgspec.structs.asdict(limits)
    return {name: value for name, value in plain.items() if value != getattr(Limits(), name)}


LimitsField: TypeAlias = Annotated[Limits | None, BeforeValidator(_as_limits), PlainSerializer(_as_mapping)]


class ChatPenstock(BaseChatModel):
    """A chat model of any provider that Penstock knows, within the account's limits.

        model = ChatPenstock(model="openai/gpt-5-mini", limits=Limits(requests_per_minute=3_000))
        model.invoke("Explain quantum computing in simple terms.").text

    Copies (`bind`, `bind_tools`, `with_config`, `model_copy`), and models made with equal settings, share one client in each
    event loop and one for all calls without a loop: its connections, its limits, its retries. The limits of two loops
    are apart. A call raises a `RequestError` where it comes to nothing; the constructor raises `UsageError`.
    """

    model: str = Field(validation_alias=AliasChoices("model", "model_name"))
    """`provider/model`; a bare name is OpenAI's. For one call: `invoke(..., model="...")`, of the same provider."""

    base_url: str | None = None
    """The address with `/v1`, where it is not the provider's own."""

    api_key: SecretStr | None = None
    """The key; by default the provider's usual variable, such as `OPENAI_API_KEY`."""

    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = Field(default=None, validation_alias=AliasChoices("stop", "stop_sequences"))

    timeout: float | None = Field(default=None, validation_alias=AliasChoices("timeout", "request_timeout"))
    """Seconds for one attempt."""

    max_retries: int = 5
    """After an answer that was lost or useless, and after a 5xx; throttles cost none."""

    limits: LimitsField = None
    """What the account allows, as `penstock.Limits` or a mapping of its names; what is not set is learned."""

    max_concurrency: int | None = None
    """How many requests go at once; without it, as many as the limits or the server allow."""

    streaming: bool = False
    """True streams `invoke` too, so that callbacks are told of each token."""

    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further parameters of every request, such as `top_p` or `seed`."""

    model_config = ConfigDict(extra="forbid")

    _clients: Clients = PrivateAttr()

    @model_validator(mode="after")
    def _take_clients(self) -> Self:
        if self.api_key is None and (key := key_of(self._service.key_variables, os.environ)):
            self.api_key = SecretStr(key)
        _refuse_what_is_of_the_client(self.model_kwargs)
        self._clients = shared(self.settings())
        return self

    def settings(self) -> Settings:
        """What its clients are made of."""
        return Settings(
            model=self.model,
            base_url=self.base_url,
            api_key=self.api_key.get_secret_value() if self.api_key is not None else None,
            limits=self.limits,
            max_concurrency=self.max_concurrency,
            max_retries=self.max_retries,
            timeout=self.timeout,
        )

    @property
    def clients(self) -> Clients:
        """The clients of the settings as they are now: a copy may have been given others, and nothing checks those."""
        settings = self.settings()
        if self._clients.settings != settings:
            self._clients = shared(settings)
        return self._clients

    @property
    def _service(self) -> Service:
        return split_model(self.model, self.base_url)[0]

    def close(self) -> None:
        """Close the connections of calls without an event loop, for all who share them; the next call opens new ones.

        It happens by itself when the program ends, and when no model with these settings is held any more.
        """
        self.clients.close()

    async def aclose(self) -> None:
        """Close the connections of the running loop too. It happens by itself when `asyncio.run` ends."""
        await self.clients.aclose()

    # -- one call

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002  LangChain tells callbacks of the end itself
        **kwargs: Any,
    ) -> ChatResult:
        request, model = self._request(messages, stop, kwargs)
        if (row := self._row()) is not None:
            return result_of(row.generate_blocking(request), model)
        return result_of(self.clients.blocking().generate(request), model)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        request, model = self._request(messages, stop, kwargs)
        if (row := self._row()) is not None:
            return result_of(await row.generate(request), model)
        return result_of(await self.clients.here().generate(request), model)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request, model = self._request(messages, stop, kwargs)
        metadata = first_piece(model)
        if (row := self._row()) is not None:
            yield from _at_once(row.generate_blocking(request), metadata)
            return
        with self.clients.blocking().stream(request) as stream:
            for chunk in stream:
                piece, metadata = piece_of(chunk, metadata), {}
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=piece)
                yield piece
            yield last_piece(stream.response, metadata)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request, model = self._request(messages, stop, kwargs)
        metadata = first_piece(model)
        if (row := self._row()) is not None:
            for piece in _at_once(await row.generate(request), metadata):
                yield piece
            return
        async with self.clients.here().stream(request) as stream:
            async for chunk in stream:
                piece, metadata = piece_of(chunk, metadata), {}
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=piece)
                yield piece
            yield last_piece(stream.response, metadata)

    def _row(self) -> RunRow | None:
        """The row of a run that this call belongs to, where its answer is recorded with it."""
        row = current_row.get()
        return row if row is not None and row.carries(self.settings()) else None

    def _request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> tuple[Request, str]:
        """The request of a call and the model that it asks. Raises `UsageError` for what cannot be right."""
        _refuse_what_is_of_the_client(kwargs)
        own = {"temperature": self.temperature, "max_tokens": self.max_tokens, "stop": stop or self.stop or None}
        params = {**self.model_kwargs, **own, **kwargs}
        service, model = split_model(self.model, self.base_url)
        if (named := params.pop("model", None)) is not None:
            model = bare_model(service, named)
        sent = {name: value for name, value in params.items() if value is not None and name not in _SENT_OTHERWISE}
        return Request(asked_messages(messages), model, sent), model

    # -- tools and forms

    def bind_tools(
        self,
        tools: Sequence[Tool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools on offer: functions, pydantic models, `BaseTool`s, or OpenAI's own form.

        `tool_choice` is the name of the tool that must be called, "any" (or True) for one of them, "auto" or "none".
        """
        offered = tool_params(tools, tool_choice=tool_choice, strict=strict, parallel=parallel_tool_calls)
        return super().bind(**offered, **kwargs)

    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: Form = "function_calling",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """This model, answering with objects of `schema`: a pydantic model, a TypedDict, a JSON schema or a function's.

        `method` is how it is asked for: by a tool that must be called, which every provider understands; by the provider's
        own form (`json_schema`); or as any JSON (`json_mode`), where the prompt must say which. With `include_raw` the
        outcome is a dict of `raw`, `parsed` and `parsing_error`, and what cannot be parsed does not raise.
        """
        return structured(self, schema, method=method, include_raw=include_raw, strict=strict, further=kwargs)

    # -- what LangChain asks about a model

    def get_num_tokens(self, text: str) -> int:
        """About how many tokens a text has, by its bytes and its script, as for limits before the first answer."""
        body = text.encode()
        _, bytes_per_token = SCRIPTS[script_of(body)]
        return math.ceil(len(body) / bytes_per_token)

    @property
    def _llm_type(self) -> str:
        return "penstock"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        shown = ("model", "base_url", "temperature", "max_tokens", "stop", "timeout", "max_retries", "max_concurrency")
        values = {name: getattr(self, name) for name in shown}
        return values | {"limits": _as_mapping(self.limits), "model_kwargs": self.model_kwargs}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop or None, **kwargs)
        service, model = split_model(self.model, self.base_url)
        named = kwargs.get("model")
        params["ls_provider"] = service.name
        params["ls_model_name"] = bare_model(service, named) if isinstance(named, str) else model
        return params

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """LangChain may write this model down; the key is written as the name of its variable."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Where the key comes from when such a text is read."""
        return {"api_key": next(iter(self._service.key_variables), "PENSTOCK_API_KEY")}

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """The limits in a form that can be written down."""
        return {} if self.limits is None else {"limits": _as_mapping(self.limits)}


def _at_once(response: Response, metadata: dict[str, Any]) -> list[ChatGenerationChunk]:
    return [piece_of(in_one_piece(response), metadata), last_piece(response, {})]


def _refuse_what_is_of_the_client(params: Mapping[str, Any]) -> None:
    wrong = sorted(_OF_THE_CLIENT.intersection(params))
    if wrong:
        raise UsageError(
            f"{', '.join(wrong)} cannot be set for a call: give it to ChatPenstock(...), or make a model of its own"
        )
