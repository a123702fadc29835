"""Uploads over HTTP: start, append, complete. The rules of parts are in `uploads`."""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.oci import Digest
from proxy.standin.context import Context, Target, parse_digest
from proxy.standin.exchange import Call
from proxy.standin.rates import Operation
from proxy.standin.refusals import Kind, Refusal
from proxy.standin.replies import Reply
from proxy.standin.repository import Blob, Repository
from proxy.standin.settings import MIB
from proxy.standin.state import State
from proxy.standin.uploads import Upload, parse_content_range

_BATCH: Final = 1 * MIB  # so much goes to disk in one trip to a thread
_SMALL: Final = 64 * 1024  # and so little is not worth one


async def start(context: Context, call: Call, target: Target) -> Reply:
    """202 with an absolute Location and no Docker-Upload-UUID; or a mount's 201 (ECR.md §4)."""
    state = context.state
    repository = state.repository_for_push(target.name, call.account)
    if "mount" in call.query and "from" in call.query:
        blob = _mountable(state, repository, call.query["mount"], call.query["from"])
        if blob is not None:
            repository.blobs[blob.digest] = blob
            call.stored = blob.digest
            return _created(call, repository, blob.digest)
    upload = state.start_upload(repository)
    return Reply(202, {"Location": _location(call, upload), "Range": "0-0"})


async def append(context: Context, call: Call, target: Target) -> Reply:
    """PATCH: 201, and a Range that stays at the first chunk's end (O, CR#2831).

    Without Content-Range the bytes are taken to be the upload's first ones, so that a stream
    which broke off cannot be replayed in the same upload.
    """
    upload = context.state.upload(
        context.state.repository(target.name, call.account), target.upload
    )
    async with upload.lock:
        upload.check_start(_start(call, 0))
        await _receive(call, upload)
    headers = {
        "Location": _location(call, upload),
        "Range": f"0-{max(0, (upload.first_part or 0) - 1)}",
    }
    return Reply(201, headers)


async def complete(context: Context, call: Call, target: Target) -> Reply:
    """PUT, with the whole blob, a last chunk, or no body."""
    state = context.state
    repository = state.repository(target.name, call.account)
    upload = state.upload(repository, target.upload)
    digest = parse_digest(call.query.get("digest", ""))
    async with upload.lock:
        upload.check_start(_start(call, upload.size))
        if await _receive(call, upload):
            state.rates.take(call.account, Operation.UPLOAD_PART)
        try:
            upload.check_complete(digest)
            await asyncio.to_thread(state.files.adopt, upload.path, digest)
        finally:
            state.end_upload(upload)
    blob = Blob(digest, upload.size, state.clock.now(), state.fresh_lag())
    repository.blobs.setdefault(digest, blob)
    call.stored = digest
    return _created(call, repository, digest)


async def status(context: Context, call: Call, target: Target) -> Reply:
    """GET of an upload; ECR's answer is not known, so by default there is none."""
    _check_verbs(context.state)
    upload = context.state.upload(
        context.state.repository(target.name, call.account), target.upload
    )
    return Reply(
        204, {"Location": _location(call, upload), "Range": f"0-{max(0, upload.size - 1)}"}
    )


async def cancel(context: Context, call: Call, target: Target) -> Reply:
    """DELETE of an upload; not known either."""
    _check_verbs(context.state)
    upload = context.state.upload(
        context.state.repository(target.name, call.account), target.upload
    )
    context.state.end_upload(upload)
    return Reply(204)


async def _receive(call: Call, upload: Upload) -> int:
    """Append the body, hashing and writing in a thread while the next bytes come in.

    What had arrived when a connection breaks off stays in the upload, as with ECR.
    """
    before = upload.size
    waiting: list[bytes] = []
    writing: asyncio.Task[None] | None = None
    try:
        async for chunk in call.chunks():
            waiting.append(chunk)
            if sum(map(len, waiting)) >= _BATCH:
                if writing is not None:
                    await writing
                writing = asyncio.create_task(asyncio.to_thread(upload.append, waiting))
                waiting = []
    finally:
        if writing is not None:
            await writing
        if sum(map(len, waiting)) > _SMALL:
            await asyncio.to_thread(upload.append, waiting)
        elif waiting:
            upload.append(waiting)
        upload.end_request(before)
    return upload.size - before


def _start(call: Call, default: int) -> int:
    """The offset that Content-Range states; its length must be the body's."""
    text = call.headers.get("Content-Range")
    if text is None:
        return default
    first, last = parse_content_range(text)
    length = call.headers.get("Content-Length")
    if length is not None and int(length) != last - first + 1:
        raise Refusal(
            Kind.UPLOAD_OFFSET,
            f"Content-Range '{text}' does not match the Content-Length of {length}",
        )
    return first


def _mountable(state: State, repository: Repository, digest: str, source: str) -> Blob | None:
    """The blob to mount, if the setting, an image of the source and its encryption say so."""
    held = state.find_repository(source, repository.account)
    if not state.mounting or held is None or held.encryption != repository.encryption:
        return None
    blob = held.blobs.get(Digest(digest))
    return blob if blob is not None and held.is_referenced(blob.digest) else None


def _check_verbs(state: State) -> None:
    if not state.settings.upload_verbs:
        raise Refusal(Kind.UNSUPPORTED, "The operation is unsupported")


def _location(call: Call, upload: Upload) -> str:
    return f"http://{call.host}/v2/{upload.name}/blobs/uploads/{upload.id}"


def _created(call: Call, repository: Repository, digest: Digest) -> Reply:
    headers = {
        "Location": f"http://{call.host}/v2/{repository.name}/blobs/{digest}",
        "Docker-Content-Digest": digest,
    }
    return Reply(201, headers)
