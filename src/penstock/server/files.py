"""`/v1/files`: inputs of batches in, their outputs out. What belongs to another key is not there."""

from __future__ import annotations

import os
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response as FrameworkResponse

from penstock.edges.batches import Content, Page, new_id
from penstock.rules.batches import FILE_ID, PURPOSE, File, FileDeleted, invalid, read_expiry
from penstock.server.catalogue import sent
from penstock.server.keeping import DISK_REFUSES, Keeping, in_thread
from penstock.server.replies import Reply, Turned, error_reply
from penstock.server.uploads import Uploaded, receive
from penstock.server.visit import Receive, Scope, Send, Visit
from penstock.server.work import Documented, error_schema

MOST_LISTED = 10_000
CHUNK_BYTES = 1 << 18
FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": [PURPOSE]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
    },
}
UPLOAD = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}}
CONTENT: Documented = {200: {"description": "The content", "content": {"application/octet-stream": {}}}}
ERRORS = error_schema(400, 401, 404, 421, 500, 507)
UPLOAD_ERRORS = error_schema(400, 401, 408, 413, 415, 421, 500, 503, 507)

_encode = msgspec.json.Encoder().encode


class FileList(msgspec.Struct, frozen=True):
    """A page of files."""

    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


def routes(keeping: Keeping, most_bytes: int) -> APIRouter:
    """Upload, list, retrieve, content, delete; `most_bytes` is how large an upload may be."""
    router = APIRouter(tags=["files"], default_response_class=FrameworkResponse)

    @router.post("/v1/files", responses=documented("File") | UPLOAD_ERRORS, openapi_extra=UPLOAD)
    async def upload_file(request: Request) -> FrameworkResponse:
        """Upload the input of a batch: JSON lines, as multipart/form-data. It is kept for 30 days, or as `expires_after` says."""
        visit: Visit = request.scope["penstock.visit"]
        uploaded = await receive(visit, keeping, most_bytes)
        return told(await _add(keeping, visit.guest.key_name, uploaded))

    @router.get("/v1/files", responses=documented("FileList") | ERRORS)
    async def list_files(
        request: Request,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
    ) -> FrameworkResponse:
        """The files that are there, the newest first."""
        page = Page(limit, after, order)
        listing = partial(keeping.store.files, owner_of(request), keeping.now, page, purpose)
        try:
            files = await keeping.answer(listing)
        except KeyError as error:
            raise unknown_cursor() from error
        return told(FileList(*paged(files, limit)))

    @router.get("/v1/files/{file_id}", responses=documented("File") | ERRORS)
    async def retrieve_file(file_id: str, request: Request) -> FrameworkResponse:
        """What is known of a file."""
        return told(await find_file(keeping, owner_of(request), file_id))

    @router.get("/v1/files/{file_id}/content", responses=CONTENT | ERRORS)
    async def retrieve_file_content(file_id: str, request: Request) -> FrameworkResponse:
        """The bytes of a file."""
        file = await find_file(keeping, owner_of(request), file_id)
        return await _download(keeping.store.content_path(file.id))

    @router.delete("/v1/files/{file_id}", responses=documented("FileDeleted") | ERRORS)
    async def delete_file(file_id: str, request: Request) -> FrameworkResponse:
        """Forget a file. A batch that is under way keeps its input."""
        file = await find_file(keeping, owner_of(request), file_id)
        await keeping.answer(partial(keeping.store.delete_file, owner_of(request), file.id, keeping.now))
        return told(FileDeleted(file.id))

    return router


async def _add(keeping: Keeping, owner: str, uploaded: Uploaded) -> File:
    content = uploaded.content
    try:
        file = _input_of(uploaded, keeping.now)
        await in_thread(content.sync)
    except BaseException as error:
        await in_thread(content.discard)
        if isinstance(error, OSError):
            raise Turned(DISK_REFUSES) from error
        raise
    await keeping.answer(partial(keeping.store.add_file, owner, file, content))
    return file


def _input_of(uploaded: Uploaded, now: int) -> File:
    if uploaded.fields.get("purpose") != PURPOSE:
        raise invalid(f"purpose must be {PURPOSE!r}: only the inputs of batches are kept here", "purpose")
    return file_of(uploaded.content, now, now + read_expiry(uploaded.fields), uploaded.filename)


def file_of(content: Content, now: int, expires_at: int, filename: str, purpose: str = PURPOSE) -> File:
    """The record of a new file."""
    return File(
        id=new_id("file-"),
        bytes=content.size,
        created_at=now,
        expires_at=expires_at,
        filename=filename,
        purpose=purpose,
    )


async def find_file(keeping: Keeping, owner: str, file_id: str, param: str = "id") -> File:
    """A file by its id; raises `Turned` (404) where there is none, or it is another's."""
    file = None
    if FILE_ID.fullmatch(file_id):
        file = await keeping.answer(partial(keeping.store.file, owner, file_id, keeping.now))
    if file is None:
        raise not_found("File", file_id, param)
    return file


def not_found(kind: str, name: str, param: str = "id") -> Turned:
    """The reply for what is not there, or not for this key."""
    return Turned(error_reply(404, f"No such {kind} object: {name[:80]}", param=param))


def unknown_cursor() -> Turned:
    """The reply for a list that is to begin after nothing."""
    return Turned(error_reply(400, "after must be the id of an object of this list", param="after"))


def owner_of(request: Request) -> str:
    """Whose request it is: the name of the key, empty where none is configured."""
    visit: Visit = request.scope["penstock.visit"]
    return visit.guest.key_name


def paged(items: list[Any], limit: int) -> tuple[list[Any], str | None, str | None, bool]:
    """Items, of which there may be one too many, as a list tells them: data, first id, last id, whether there are more."""
    data = items[:limit]
    return data, data[0].id if data else None, data[-1].id if data else None, len(items) > limit


def told(value: msgspec.Struct) -> FrameworkResponse:
    """An object as a response."""
    return sent(Reply(200, _encode(value)))


def documented(schema: str) -> Documented:
    """A route's answer, for the OpenAPI document."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {200: {"description": "It is done", "content": content}}


async def _download(path: Path) -> FrameworkResponse:
    try:
        stream = await in_thread(lambda: path.open("rb", buffering=0))
    except FileNotFoundError as error:
        raise not_found("File", path.name) from error
    except OSError as error:
        raise Turned(DISK_REFUSES) from error
    return _Download(stream)


class _Download(FrameworkResponse):
    """The bytes of an open file, read as fast as the client takes them. It stays whole if the file is deleted meanwhile."""

    def __init__(self, stream: FileIO) -> None:
        super().__init__(media_type="application/octet-stream")
        self._stream = stream
        size = os.fstat(stream.fileno()).st_size
        # A browser is to make nothing of it but a file: what a model wrote is not to be believed.
        self.headers.update(
            {"content-length": str(size), "content-disposition": "attachment", "x-content-type-options": "nosniff"}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's form
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while chunk := await in_thread(partial(self._stream.read, CHUNK_BYTES)):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            self._stream.close()
