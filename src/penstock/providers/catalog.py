"""The services that speak OpenAI Chat Completions, as data: where each listens, how it is paid, where it deviates.

Decides what a model name like `mistral/mistral-small` means. Never reads the environment: it only names the
variables in which a key is usually kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import msgspec

from penstock.errors import UsageError
from penstock.records import FinishReason

if TYPE_CHECKING:
    from penstock.rules.schema import Native

KeyHeader: TypeAlias = Literal["bearer", "api-key"]
StreamEnd: TypeAlias = Literal["done", "finish_reason", "close"]

OPENAI_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}

# Sent by a service that gave up in the middle of an answer.
_GAVE_UP: dict[str, FinishReason] = {"error": "error", "aborted": "error", "abort": "error"}


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One service of the family.

    `base_url` is None where only the user can know it. `key_variables` are the environment variables that may hold
    the key, best first; `key_needed` is false where the service also answers without one. `deployments_api_version`
    is set where the model stands in the URL (Azure's classic form): it is the `api-version` where none is given.
    `renamed` maps a parameter to the name under which this service knows it; `dropped` are parameters that it refuses
    although they do not change the answer. `finish_reasons` are those beyond OpenAI's; `finish_reason_optional` is
    true where an answer without one can be a whole answer. `request_id_headers` are lower-case, best first.

    `stream_end` is the least that shows a stream to be whole: `done` is `data: [DONE]`; `finish_reason` is for a server
    known to send one and then to close (text-generation-inference before its pull request 2221, llama-box before its
    issue 2); `close` for one known to do no more than close, and only with `finish_reason_optional`. No service here
    is known to need the latter two: Ollama may end without `[DONE]` just where it failed. `stream_options` is false
    where the request for usage is refused.

    `native` is the form of answers that the service keeps to by itself; a model of it that does not answers 400.
    """

    name: str
    base_url: str | None
    key_variables: tuple[str, ...] = ()
    key_needed: bool = True
    key_header: KeyHeader = "bearer"
    deployments_api_version: str | None = None
    renamed: dict[str, str] = {}
    dropped: frozenset[str] = frozenset()
    finish_reasons: dict[str, FinishReason] = {}
    finish_reason_optional: bool = False
    stream_end: StreamEnd = "done"
    stream_options: bool = True
    native: Native = "json_schema"
    request_id_headers: tuple[bytes, ...] = (b"x-request-id",)
    slashes_in_names: bool = False
    """True where a model's own name is like `org/model`."""


_TO_COMPLETION_TOKENS = {"max_tokens": "max_completion_tokens"}
_TO_MAX_TOKENS = {"max_completion_tokens": "max_tokens"}

_SERVICES = (
    Service(
        name="openai",
        base_url="https://api.openai.com/v1",
        key_variables=("OPENAI_API_KEY",),
        renamed=_TO_COMPLETION_TOKENS,  # reasoning models refuse the old name, older models take both
    ),
    Service(
        name="azure",
        base_url=None,
        key_variables=("AZURE_OPENAI_API_KEY",),
        key_header="api-key",
        deployments_api_version="2024-10-21",
        renamed=_TO_COMPLETION_TOKENS,  # uncertain for api-versions older than the default
        request_id_headers=(b"apim-request-id", b"x-request-id"),
    ),
    Service(
        name="azure-v1",
        base_url=None,
        key_variables=("AZURE_OPENAI_API_KEY",),
        key_header="api-key",
        renamed=_TO_COMPLETION_TOKENS,
        request_id_headers=(b"apim-request-id", b"x-request-id"),
    ),
    Service(
        name="anthropic",
        base_url="https://api.anthropic.com/v1",
        key_variables=("ANTHROPIC_API_KEY",),
        native="none",  # its compatible endpoint ignores response_format in silence
        # The compatible endpoint maps its native reasons; the native words are kept in case one comes through.
        finish_reasons={
            "end_turn": "stop",
            "stop_sequence": "stop",
            "max_tokens": "length",
            "model_context_window_exceeded": "length",
            "tool_use": "tool_calls",
            "refusal": "refusal",
        },
        request_id_headers=(b"request-id", b"x-request-id"),
    ),
    Service(
        name="gemini",
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key_variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    ),
    Service(
        name="mistral",
        base_url="https://api.mistral.ai/v1",
        key_variables=("MISTRAL_API_KEY",),
        renamed=_TO_MAX_TOKENS | {"seed": "random_seed"},
        dropped=frozenset({"user"}),  # unknown fields are answered with 422 (uncertain for this one)
        finish_reasons=_GAVE_UP | {"model_length": "length"},
        stream_options=False,  # answered with 422 (openai-agents-python issue 442); usage comes unasked
        request_id_headers=(b"x-request-id", b"x-kong-request-id", b"cf-ray"),  # uncertain: they vary
    ),
    Service(
        name="groq",
        slashes_in_names=True,
        base_url="https://api.groq.com/openai/v1",
        key_variables=("GROQ_API_KEY",),
        renamed=_TO_COMPLETION_TOKENS,
    ),
    Service(
        name="together",
        slashes_in_names=True,
        base_url="https://api.together.xyz/v1",  # uncertain: newer documentation also shows api.together.ai
        key_variables=("TOGETHER_API_KEY",),
        renamed=_TO_MAX_TOKENS,
        finish_reasons={"eos": "stop"},  # uncertain whether current models still say so
        request_id_headers=(b"x-request-id", b"cf-ray"),  # uncertain
    ),
    Service(
        name="openrouter",
        slashes_in_names=True,
        base_url="https://openrouter.ai/api/v1",
        key_variables=("OPENROUTER_API_KEY",),
        renamed=_TO_MAX_TOKENS,  # newer versions take both names
        finish_reasons=_GAVE_UP,
        request_id_headers=(b"x-generation-id", b"x-request-id"),
    ),
    Service(
        name="cerebras",
        base_url="https://api.cerebras.ai/v1",
        key_variables=("CEREBRAS_API_KEY",),
        renamed=_TO_COMPLETION_TOKENS,
    ),
    Service(
        name="bedrock",  # its OpenAI-compatible endpoint; the address has the region in it
        base_url=None,
        key_variables=("AWS_BEARER_TOKEN_BEDROCK",),
        renamed=_TO_COMPLETION_TOKENS,
    ),
    Service(
        name="deepseek",
        base_url="https://api.deepseek.com",
        key_variables=("DEEPSEEK_API_KEY",),
        renamed=_TO_MAX_TOKENS,
        finish_reasons=_GAVE_UP | {"insufficient_system_resource": "error"},
        native="json_object",
        request_id_headers=(b"x-ds-trace-id", b"x-request-id", b"cf-ray"),  # uncertain
    ),
    Service(
        name="vllm",
        slashes_in_names=True,
        base_url="http://localhost:8000/v1",
        key_variables=("VLLM_API_KEY",),
        key_needed=False,
        finish_reasons=_GAVE_UP,  # `abort` is uncertain
        finish_reason_optional=True,
    ),
    Service(
        name="ollama",
        slashes_in_names=True,
        base_url="http://localhost:11434/v1",
        key_variables=("OLLAMA_API_KEY",),
        key_needed=False,
        renamed=_TO_MAX_TOKENS,  # max_completion_tokens is ignored in silence
        finish_reason_optional=True,
    ),
    Service(name="builtin", base_url=None, key_needed=False, native="none"),
    Service(
        name="custom",
        slashes_in_names=True,
        base_url=None,
        key_variables=("PENSTOCK_API_KEY",),
        key_needed=False,
        finish_reasons=_GAVE_UP | {"eos": "stop", "model_length": "length", "insufficient_system_resource": "error"},
        finish_reason_optional=True,
    ),
)

SERVICES: dict[str, Service] = {service.name: service for service in _SERVICES}


def split_model(model: str, base_url: str | None = None) -> tuple[Service, str]:
    """The service and the bare model name that `provider/model` means; a bare name is a model of OpenAI.

    Only the first slash divides: `openrouter/openai/gpt-4.1-mini` is `openai/gpt-4.1-mini` at OpenRouter. With a
    `base_url` an unknown first word is part of the name, as in `org/model` on a self-hosted server. Raises
    `UsageError` for an unknown provider and for an empty name.
    """
    word, slash, rest = model.partition("/")
    if not slash:
        word, rest = "openai", model
    service = SERVICES.get(word)
    if service is None and base_url is not None:
        service, rest = SERVICES["custom"], model
    if service is None:
        raise UsageError(
            f"unknown provider {word!r} in the model {model!r}; known are {', '.join(SERVICES)}. "
            "For any other server write custom/NAME and give its --base-url."
        )
    if not rest.strip():
        raise UsageError(f"no model name in {model!r}; write provider/model, for example openai/gpt-5-mini")
    return service, rest


def ending_streams_with(service: Service, stream_end: str) -> Service:
    """The service as a user says that it ends streams; see `Service.stream_end`. Raises `UsageError` for another word."""
    for known in get_args(StreamEnd):
        if stream_end == known:
            optional = service.finish_reason_optional or known == "close"
            return msgspec.structs.replace(service, stream_end=known, finish_reason_optional=optional)
    words = ", ".join(get_args(StreamEnd))
    raise UsageError(f"stream_end must be one of {words} (the least that ends a stream well), not {stream_end!r}")


def bare_model(service: Service, model: str) -> str:
    """A row's own model as its service knows it: `openai/gpt-5` and `gpt-5` are the same at OpenAI.

    Raises `UsageError` for a model of another provider: a run has one. Services whose own model names contain slashes
    take the name as it stands.
    """
    word, slash, rest = model.partition("/")
    if not slash or service.slashes_in_names:
        return model
    if word == service.name and rest:
        return rest
    if word in SERVICES:
        raise UsageError(f"the model {model!r} is of another provider than the run's ({service.name}); run it apart")
    return model
