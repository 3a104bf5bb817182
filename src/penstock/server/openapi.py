"""What FastAPI's document does not say by itself: the gateway's own route, the form of every error, and how to show a key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from penstock.server import batches
from penstock.server.gateway import ROUTE
from penstock.server.work import error_schema, provider_errors

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_CHAT = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        "model": {"type": "string"},
        "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
        },
    },
    "additionalProperties": True,
}
_COMPLETION = {
    "type": "object",
    "required": ["choices"],
    "properties": {"id": {"type": "string"}, "choices": {"type": "array", "items": {"type": "object"}}},
    "additionalProperties": True,
}


def complete(app: FastAPI) -> None:
    """Let `app.openapi` tell the whole of it."""
    made_by_framework = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(made_by_framework())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI documents


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas |= batches.schemas()
    schemas["Error"] = _ERROR
    schemas["ChatCompletionRequest"] = _CHAT
    schemas["ChatCompletion"] = _COMPLETION
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}, {}]
    document["paths"][ROUTE] = {"post": _chat_operation()}
    for operations in document["paths"].values():
        for operation in operations.values():
            if operation["responses"].pop("422", None) is not None:
                operation["responses"] |= {str(status): told for status, told in error_schema(400).items()}
    return document


def _chat_operation() -> dict[str, Any]:
    reference = {"$ref": "#/components/schemas/ChatCompletionRequest"}
    answer = {
        "description": "A completion; events where `stream` is true",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ChatCompletion"}},
            "text/event-stream": {},
        },
    }
    errors = error_schema(400, 401, 402, 403, 404, 408, 413, 415, 421, 422, 429, 500, 502, 503, 504) | provider_errors()
    return {
        "tags": ["chat"],
        "summary": "Chat completion, compatible with OpenAI's",
        "operationId": "create_chat_completion",
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}},
        "responses": {"200": answer} | {str(status): told for status, told in errors.items()},
    }
