"""ChatPenstock keeps LangChain's contract: answers, streams, callbacks, tools, forms, errors."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler, StreamingStdOutCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.tools import tool
from pydantic import BaseModel, ValidationError

from penstock.errors import BadAnswer, InputError, PenstockError, Refused, RequestError, UsageError
from penstock.integrations.langchain import ChatPenstock
from penstock.integrations.langchain.messages import asked_messages
from penstock.records import Request
from penstock.simulator.behaviour import expected_text
from tests.integrations.conftest import NewModel

TOPICS = ("the tides", "green tea", "old maps")


# -- the guide's chain


async def test_the_chain_of_the_guide(new_model: NewModel, capsys: pytest.CaptureFixture[str]) -> None:
    """Prompt, model and parser, three topics at once, each token shown by a callback as it comes."""
    template = PromptTemplate(input_variables=["topic"], template="Write a short paragraph about {topic}.")
    model = new_model(temperature=0.7, streaming=True, callbacks=[StreamingStdOutCallbackHandler()])
    chain = template | model | StrOutputParser()
    texts = await asyncio.gather(*(chain.ainvoke({"topic": topic}) for topic in TOPICS))
    assert texts == [expected_text(f"Write a short paragraph about {topic}.") for topic in TOPICS]
    assert sorted(capsys.readouterr().out.replace("\n", "")) == sorted("".join(texts).replace("\n", ""))


# -- answers and streams


def whole(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return sum(chunks[1:], start=chunks[0])


async def every_way(model: Any, prompt: Any) -> dict[str, AIMessage]:
    """The same question by each of the four methods."""
    return {
        "invoke": await asyncio.to_thread(model.invoke, prompt),
        "ainvoke": await model.ainvoke(prompt),
        "stream": whole(await asyncio.to_thread(lambda: list(model.stream(prompt)))),
        "astream": whole([chunk async for chunk in model.astream(prompt)]),
    }


async def test_four_ways_one_answer(new_model: NewModel) -> None:
    """Text, usage, model and the reason of the end are the same, whole or streamed, with a loop or without."""
    answers = await every_way(new_model(), "Row 1 asks")
    usage = {"input_tokens": 3, "output_tokens": 7, "total_tokens": 10}
    details = {"input_token_details": {"cache_read": 0}, "output_token_details": {"reasoning": 0}}
    for answer in answers.values():
        assert answer.text == expected_text("Row 1 asks")
        assert answer.usage_metadata == usage | details
        metadata = dict(answer.response_metadata)
        assert metadata.pop("request_id").startswith("req_")
        assert metadata == {"model_name": "m", "finish_reason": "stop"}


async def test_what_the_pieces_of_a_stream_tell(new_model: NewModel) -> None:
    """The model's name stands in the first, usage and the end in the last, each once."""
    chunks = [chunk async for chunk in new_model().astream("Row 1 asks")]
    assert [chunk.response_metadata.get("model_name") for chunk in chunks] == ["m"] + [None] * (len(chunks) - 1)
    assert [bool(chunk.usage_metadata) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]
    assert len([chunk for chunk in chunks if chunk.text]) > 2


class Heard(BaseCallbackHandler):
    """What callbacks are told."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.started: list[dict[str, Any]] = []
        self.errors: list[BaseException] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **told: Any) -> None:
        self.started.append({"serialized": serialized, **told})

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens.append(token)

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.errors.append(error)


@pytest.mark.parametrize("streaming", [True, False])
async def test_callbacks_hear_tokens_of_streams_only(new_model: NewModel, streaming: bool) -> None:
    """With `streaming` an `invoke` is a stream too, and every piece is told once."""
    model, heard = new_model(streaming=streaming), Heard()
    answer = await model.ainvoke("Row 1 asks", config={"callbacks": [heard]})
    assert "".join(heard.tokens) == (answer.text if streaming else "")
    heard.tokens.clear()
    answer = await asyncio.to_thread(model.invoke, "Row 1 asks", config={"callbacks": [heard]})
    assert "".join(heard.tokens) == (answer.text if streaming else "")


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_events_of_version_3_hear_tokens_once(new_model: NewModel) -> None:
    """There LangChain leaves it to the model to tell the callbacks."""
    heard = Heard()
    stream = await new_model().astream_events("Row 1 asks", version="v3", config={"callbacks": [heard]})
    message = await stream.output
    assert "".join(heard.tokens) == message.text == expected_text("Row 1 asks")
    heard.tokens.clear()
    events = await asyncio.to_thread(
        lambda: list(new_model().stream_events("Row 1 asks", version="v3", config={"callbacks": [heard]}))
    )
    assert events
    assert "".join(heard.tokens) == message.text


# -- what is asked


@pytest.mark.parametrize(
    ("options", "stop", "call", "model", "params"),
    [
        ({}, None, {}, "m", {}),
        ({"temperature": 0, "max_tokens": 9}, None, {}, "m", {"temperature": 0, "max_tokens": 9}),
        ({"temperature": 0}, None, {"temperature": 1}, "m", {"temperature": 1}),
        ({"temperature": 0}, None, {"temperature": None}, "m", {}),
        ({"stop": ["a"]}, None, {}, "m", {"stop": ["a"]}),
        ({"stop": ["a"]}, ["b"], {}, "m", {"stop": ["b"]}),
        ({"stop": []}, [], {}, "m", {}),
        ({"model_kwargs": {"top_p": 0.5, "seed": 1}}, None, {"seed": 2}, "m", {"top_p": 0.5, "seed": 2}),
        ({}, None, {"model": "other"}, "other", {}),
        ({"model": "vllm/org/a"}, None, {}, "org/a", {}),
        ({"model": "openai/a"}, None, {"model": "openai/b"}, "b", {}),
        ({"model": "a"}, None, {"model": "b"}, "b", {}),
        ({}, None, {"stream": True, "stream_options": {}}, "m", {}),
        ({"model_name": "custom/n", "model": ...}, None, {}, "n", {}),
        ({"stop_sequences": ["a"]}, None, {}, "m", {"stop": ["a"]}),
    ],
)
def test_the_request_of_a_call(
    new_model: NewModel, options: dict[str, Any], stop: Any, call: dict[str, Any], model: str, params: dict[str, Any]
) -> None:
    """What a call says wins over what the model was made with; what is None is not sent."""
    given = {"model": "custom/m", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-x", **options}
    chat = ChatPenstock(**{name: value for name, value in given.items() if value is not ...})
    request, _ = chat._request([HumanMessage("Hello")], stop, call)
    assert request == Request([{"role": "user", "content": "Hello"}], model, params)


CALL = {"name": "add", "args": {"a": 1}, "id": "call_1", "type": "tool_call"}
SENT_CALL = {"type": "function", "id": "call_1", "function": {"name": "add", "arguments": '{"a": 1}'}}
BROKEN = invalid_tool_call(name="add", args='{"a":', id="call_2", error="cut off")
SENT_BROKEN = {"type": "function", "id": "call_2", "function": {"name": "add", "arguments": '{"a":'}}
PICTURE = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
SENT_PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (SystemMessage("Be brief."), {"role": "system", "content": "Be brief."}),
        (HumanMessage("Hello", name="ann"), {"role": "user", "content": "Hello", "name": "ann"}),
        (
            HumanMessage([{"type": "text", "text": "What is it?"}, PICTURE]),
            {"role": "user", "content": [{"type": "text", "text": "What is it?"}, SENT_PICTURE]},
        ),
        (AIMessage("", tool_calls=[CALL]), {"role": "assistant", "content": "", "tool_calls": [SENT_CALL]}),
        (
            AIMessage("", tool_calls=[CALL], invalid_tool_calls=[BROKEN]),
            {"role": "assistant", "content": "", "tool_calls": [SENT_CALL, SENT_BROKEN]},
        ),
        (
            AIMessage([{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Yes."}, CALL]),
            {"role": "assistant", "content": "Yes."},
        ),
        (
            ToolMessage("3", name="add", tool_call_id="call_1"),
            {"role": "tool", "content": "3", "tool_call_id": "call_1"},
        ),
    ],
)
def test_messages_as_they_are_sent(message: BaseMessage, sent: dict[str, Any]) -> None:
    """Text, pictures, calls of tools, broken ones too, and their results; thoughts stay here."""
    assert asked_messages([message]) == [sent]


def test_content_without_a_form_is_told_by_its_place() -> None:
    """What LangChain cannot put into Chat Completions names the message, and not the film that it holds."""
    film = {"type": "media", "mime_type": "video/mp4", "data": "A" * 10_000}
    with pytest.raises(InputError, match="message 1: OpenAI messages can only") as caught:
        asked_messages([HumanMessage("Hello"), HumanMessage([film])])
    assert len(str(caught.value)) < 300


# -- tools


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def get_weather(place: str) -> str:
    """Tell the weather."""
    return "sunny"


async def test_calls_of_tools_whole_and_in_pieces(new_model: NewModel) -> None:
    """All four ways tell the same call; a stream brings it in several pieces."""
    model = new_model().bind_tools([add, get_weather], tool_choice="add")
    for answer in (await every_way(model, "What is 3 + 4?")).values():
        (call,) = answer.tool_calls
        assert (call["name"], call["args"]) == ("add", {"a": 3, "b": 4})
        assert call["id"]
        assert answer.text == ""
        assert answer.response_metadata["finish_reason"] == "tool_calls"
    pieces = [piece for chunk in model.stream("What is 3 + 4?") for piece in chunk.tool_call_chunks]
    assert len(pieces) > 1
    assert json.loads("".join(piece["args"] or "" for piece in pieces)) == {"a": 3, "b": 4}


async def test_a_call_that_was_cut_off_is_told_as_what_it_is(new_model: NewModel) -> None:
    """Its arguments are no JSON: it is an invalid call, never one with arguments that were made up."""
    model = new_model(max_tokens=3).bind_tools([add], tool_choice="any")
    for answer in (await model.ainvoke("What is 3 + 4?"), await asyncio.to_thread(model.invoke, "What is 3 + 4?")):
        assert answer.tool_calls == []
        (invalid,) = answer.invalid_tool_calls
        assert (invalid["name"], invalid["args"]) == ("add", '{"a":3,"b')
        assert answer.response_metadata["finish_reason"] == "length"


def test_a_loop_of_an_agent(new_model: NewModel) -> None:
    """The model asks for a tool, gets its result, and answers."""
    model = new_model().bind_tools([add, get_weather])
    messages: list[BaseMessage] = [HumanMessage("How is the weather in 'Oslo'?")]
    messages.append(model.invoke(messages))
    (call,) = messages[-1].tool_calls
    messages.append(get_weather.invoke(call))
    assert messages[-1].text == "sunny"
    assert model.invoke(messages).tool_calls == []


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("any", "required"),
        (True, "required"),
        ("required", "required"),
        ("auto", "auto"),
        ("none", "none"),
        (False, "none"),
        ("add", {"type": "function", "function": {"name": "add"}}),
        ({"type": "function", "function": {"name": "add"}}, {"type": "function", "function": {"name": "add"}}),
    ],
)
def test_which_tool_is_asked_for(new_model: NewModel, choice: Any, sent: Any) -> None:
    """LangChain's words for it become those of Chat Completions."""
    bound = new_model().bind_tools([add], tool_choice=choice, parallel_tool_calls=False, strict=True)
    assert bound.kwargs["tool_choice"] == sent
    assert bound.kwargs["parallel_tool_calls"] is False
    assert bound.kwargs["tools"][0]["function"]["strict"] is True
    assert "tool_choice" not in new_model().bind_tools([add]).kwargs


def test_a_tool_that_is_not_on_offer_cannot_be_asked_for(new_model: NewModel) -> None:
    """A misspelt name is told before anything is sent."""
    with pytest.raises(UsageError, match="ad"):
        new_model().bind_tools([add], tool_choice="ad")


# -- structured answers


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str | None = None


class JokeDict(TypedDict):
    """A joke."""

    setup: Annotated[str, ..., "the question"]
    punchline: Annotated[str, ..., "the answer"]


ASKED = "Tell a joke as JSON with 'setup' and 'punchline'."
SCHEMAS = {"pydantic": Joke, "dict": JokeDict, "json": Joke.model_json_schema()}


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
@pytest.mark.parametrize("kind", SCHEMAS)
async def test_structured_answers(new_model: NewModel, method: Any, kind: str) -> None:
    """Objects of the schema, whole and streamed, however they are asked for."""
    chain = new_model().with_structured_output(SCHEMAS[kind], method=method)
    streamed = [part async for part in chain.astream(ASKED)]
    for answer in (await chain.ainvoke(ASKED), await asyncio.to_thread(chain.invoke, ASKED), streamed[-1]):
        values = answer.model_dump() if kind == "pydantic" else answer
        assert isinstance(answer, Joke if kind == "pydantic" else dict)
        assert set(values) == {"setup", "punchline"}
        assert values["setup"]


@pytest.mark.parametrize("strict", [None, True, False])
def test_a_strict_form_says_so(new_model: NewModel, strict: bool | None) -> None:
    """What a provider needs for it is in the schema then."""
    chain = new_model().with_structured_output(Joke, method="json_schema", strict=strict)
    form = chain.first.kwargs["response_format"]["json_schema"]
    assert form["name"] == "Joke"
    assert form.get("strict") is strict
    assert (form["schema"].get("additionalProperties") is False) is bool(strict)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_half_an_object_is_none(new_model: NewModel, method: Any, kind: str, streaming: bool) -> None:
    """An answer that was cut off raises, where LangChain's own parsers would complete it to an object of half the values."""
    model = new_model(max_tokens=4, streaming=streaming)
    with pytest.raises(OutputParserException):
        model.with_structured_output(SCHEMAS[kind], method=method).invoke(ASKED)
    told = model.with_structured_output(SCHEMAS[kind], method=method, include_raw=True).invoke(ASKED)
    assert told["parsed"] is None
    assert isinstance(told["parsing_error"], OutputParserException)
    assert told["raw"].response_metadata["finish_reason"] == "length"


def test_the_raw_answer_beside_the_parsed_one(new_model: NewModel) -> None:
    """Its usage is not lost."""
    told = new_model().with_structured_output(Joke, include_raw=True).invoke(ASKED)
    assert isinstance(told["parsed"], Joke)
    assert told["parsing_error"] is None
    assert told["raw"].usage_metadata["output_tokens"] > 0


@pytest.mark.parametrize(
    ("schema", "options"),
    [
        (None, {"method": "function_calling"}),
        (None, {"method": "json_schema"}),
        (Joke, {"method": "magic"}),
        (Joke, {"method": "json_mode", "strict": True}),
    ],
)
def test_forms_that_cannot_be(new_model: NewModel, schema: Any, options: dict[str, Any]) -> None:
    """They are told at once."""
    with pytest.raises(UsageError):
        new_model().with_structured_output(schema, **options)


# -- errors


@pytest.mark.parametrize(
    ("prompt", "error", "kind"),
    [
        ("[[simulate:400]]", Refused, "invalid_request"),
        ("[[simulate:too-long]]", Refused, "context_too_long"),
        ("[[simulate:content-filter]]", Refused, "content_blocked"),
        ("[[simulate:truncate]]", BadAnswer, "truncated"),
    ],
)
async def test_errors_are_penstocks_own(new_model: NewModel, prompt: str, error: type[RequestError], kind: str) -> None:
    """By all four methods; callbacks hear of them."""
    model = new_model(max_retries=0)

    async def streamed() -> None:
        async for _ in model.astream(prompt):
            pass

    for way in (
        lambda config: model.ainvoke(prompt, config=config),
        lambda config: asyncio.to_thread(model.invoke, prompt, config=config),
        lambda _: asyncio.to_thread(lambda: list(model.stream(prompt))),
        lambda _: streamed(),
    ):
        heard = Heard()
        with pytest.raises(error) as caught:
            await way({"callbacks": [heard]})
        assert caught.value.kind in (kind, "truncated" if kind == "truncated" else kind, "disconnected")
        assert heard.errors in ([], [caught.value])


async def test_one_failed_row_is_one_exception(new_model: NewModel) -> None:
    """In a batch the others have their answers, and each its own."""
    prompts = [f"Row {index} asks" if index % 3 else f"[[simulate:400]] {index}" for index in range(9)]
    answers = await new_model().abatch(prompts, return_exceptions=True)
    for prompt, answer in zip(prompts, answers, strict=True):
        if isinstance(answer, PenstockError):
            assert "simulate" in prompt
        else:
            assert answer.text == expected_text(prompt)


async def test_a_fallback_takes_over(new_model: NewModel) -> None:
    """LangChain's own means see our errors as any others."""
    model = new_model(api_key="sk-wrong", max_retries=0).with_fallbacks([new_model()])
    assert (await model.ainvoke("Row 1 asks")).text == expected_text("Row 1 asks")


@pytest.mark.parametrize(
    "options",
    [
        {"model": "nowhere/m", "base_url": None},
        {"model": "openai/m", "base_url": None, "api_key": None},
        {"base_url": "not a url"},
        {"max_concurrency": 0},
        {"max_retries": -1},
        {"timeout": 0},
        {"limits": {"requests_per_minute": -5}},
        {"api_key": "with a blank"},
        {"model_kwargs": {"timeout": 5}},
    ],
)
def test_what_cannot_be_right_is_told_by_the_constructor(new_model: NewModel, options: dict[str, Any]) -> None:
    """As a `UsageError`, before anything is asked."""
    with pytest.raises(UsageError):
        new_model(**options)


def test_a_misspelt_option_is_not_taken_silently(new_model: NewModel) -> None:
    """LangChain's models ignore it, and run without a limit."""
    with pytest.raises(ValidationError, match="max_concurency"):
        new_model(max_concurency=5)


@pytest.mark.parametrize("call", [{"timeout": 5}, {"base_url": "http://127.0.0.1:9/v1"}, {"limits": {}}])
def test_what_is_of_the_client_is_no_option_of_a_call(new_model: NewModel, call: dict[str, Any]) -> None:
    """It would go to the provider as a parameter."""
    with pytest.raises(UsageError, match="cannot be set for a call"):
        new_model().invoke("Hello", **call)


def test_a_model_of_another_provider_is_no_option_of_a_call(new_model: NewModel) -> None:
    """One client is one account."""
    with pytest.raises(UsageError, match="another provider"):
        new_model(model="openai/m").invoke("Hello", model="mistral/m")


# -- what LangChain asks about a model


def test_the_traces_of_a_call(new_model: NewModel) -> None:
    """Provider and model as the provider knows it, also where a call names another."""
    model = new_model(model="openai/gpt-5-mini", temperature=0.5, stop=["a"])
    told = model._get_ls_params()
    assert (told["ls_provider"], told["ls_model_name"], told["ls_model_type"]) == ("openai", "gpt-5-mini", "chat")
    assert (told["ls_temperature"], told["ls_stop"]) == (0.5, ["a"])
    assert model._get_ls_params(model="openai/gpt-5")["ls_model_name"] == "gpt-5"


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("Hello you", 3), ("こんにちは", 5)])
def test_how_many_tokens_a_text_has(new_model: NewModel, text: str, tokens: int) -> None:
    """About; LangChain's own way would want a tokenizer of another model, from the network."""
    model = new_model()
    assert model.get_num_tokens(text) == tokens
    assert model.get_num_tokens_from_messages([HumanMessage(text)]) >= tokens


def test_it_works_with_the_built_in_model() -> None:
    """No key, no network."""
    text = "The tide is high at noon today. It is a very long sentence about the sea and its tides. Fish swim in it."
    assert ChatPenstock(model="builtin/extractive").invoke(text).text
