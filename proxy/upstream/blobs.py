"""Blobs of a registry: HEAD, GET with a range and through a redirect, DELETE."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import aiohttp

from proxy.errors import BadGateway, RangeInvalid
from proxy.oci import Digest, RepositoryName
from proxy.upstream.client import Call, Client
from proxy.upstream.errors import Kind, What
from proxy.upstream.failures import translate_failure, without_secrets
from proxy.upstream.numbers import read_number
from proxy.upstream.transport import Pool

_CONTENT_RANGE: Final = re.compile(r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_REDIRECTS: Final = (301, 302, 303, 307, 308)


class BlobStream:
    """A blob's bytes on their way, exactly as they come.

    `total` is the whole blob's size in bytes, None if upstream does not say; `start` the offset of
    the first byte that `chunks` gives: 0 where upstream ignores ranges; `end` the offset after the
    last, None if that is not known.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        what: What,
        *,
        total: int | None,
        start: int,
        end: int | None,
    ) -> None:
        self.total = total
        self.start = start
        self.end = end
        self._response = response
        self._what = what

    async def chunks(self) -> AsyncIterator[bytes]:
        """All bytes from `start` to `end`; raises `BadGateway` or `GatewayTimeout` if fewer come.

        Only a body without any length, which neither ECR nor S3 sends, can end early unnoticed.
        Once; chunks are as large as what has arrived, up to some hundred KiB. While nobody takes
        the next one, upstream is made to wait.
        """
        position = self.start
        content = self._response.content
        failure: Exception | None = None
        try:
            async for chunk in content.iter_any():
                position += len(chunk)
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            failure = error
        if failure is not None:
            # From a stream that has failed aiohttp gives no more what it had read ahead, some
            # hundred KiB of good bytes. They need not cross the uplink again.
            if rest := content._read_nowait(-1):
                position += len(rest)
                yield rest
            what = f"{self._what}, of which {position - self.start} bytes came"
            raise translate_failure(failure, self._response.url, what) from without_secrets(failure)
        if self.end is not None and position != self.end:
            raise BadGateway(
                f"{self._response.url.host} gave {position - self.start} bytes of {self._what}, "
                f"not {self.end - self.start}"
            )


class BlobCalls:
    """The blob half of `Registry`."""

    _client: Client
    _is_public: bool

    async def head_blob(
        self, repository: RepositoryName, digest: Digest, *, patient: bool = False
    ) -> int | None:
        """Its size in bytes, None if upstream does not say; raises `BlobUnknown`.

        `patient`: it is asked for a push, which waits out trouble.
        """
        if self._is_public:
            # ECR Public answers every HEAD of a blob with 401 (ECR.md §1).
            return await self._measure(repository, digest, patient=patient)
        call = self._blob_call(
            "HEAD", repository, digest, ok=(200, *_REDIRECTS), pool=Pool.REQUESTS
        )
        reply = await self._client.ask(replace(call, patient=patient))
        if reply.status != 200:
            # Where it leads is signed for GET; a HEAD would be refused there (ECR.md §3).
            return await self._measure(repository, digest, patient=patient)
        return read_number(reply.headers.get("Content-Length"))

    @asynccontextmanager
    async def open_blob(
        self,
        repository: RepositoryName,
        digest: Digest,
        *,
        start: int = 0,
        end: int | None = None,
        patient: bool = False,
    ) -> AsyncIterator[BlobStream]:
        """The blob's bytes from `start` to before `end`, wherever upstream redirects to for them.

        Look at `start` of what comes. Raises `BlobUnknown`, `RangeInvalid`, or upstream's refusal.
        `patient`: trouble is waited out, for somebody who has some of the bytes already.
        On leaving, a body that was not read to its end is cut off.
        """
        headers = {}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        call = self._blob_call(
            "GET", repository, digest, ok=(200, 206), pool=Pool.DOWNLOADS, headers=headers
        )
        async with self._client.open(replace(call, patient=patient)) as response:
            yield _open_stream(response, call.what, start, end)

    async def delete_blob(self, repository: RepositoryName, digest: Digest) -> None:
        """Raises `BlobUnknown`, or `Unsupported` where upstream deletes none."""
        await self._client.ask(
            Call(
                "DELETE",
                self._client.what(Kind.BLOB, repository, digest),
                f"/v2/{repository}/blobs/{digest}",
                ok=(200, 202, 204),
                scope=f"repository:{repository}:delete",
            )
        )

    async def _measure(
        self, repository: RepositoryName, digest: Digest, *, patient: bool
    ) -> int | None:
        """The blob's size by a GET of its first byte."""
        try:
            async with self.open_blob(
                repository, digest, start=0, end=1, patient=patient
            ) as stream:
                return stream.total
        except RangeInvalid:
            return 0  # it is there, and has no first byte

    def _blob_call(
        self,
        method: str,
        repository: RepositoryName,
        digest: Digest,
        *,
        ok: tuple[int, ...],
        pool: Pool,
        headers: dict[str, str] | None = None,
    ) -> Call:
        return Call(
            method,
            self._client.what(Kind.BLOB, repository, digest),
            f"/v2/{repository}/blobs/{digest}",
            ok=ok,
            scope=f"repository:{repository}:pull",
            headers=headers or {},
            safe=True,
            pool=pool,
        )


def _open_stream(
    response: aiohttp.ClientResponse, what: What, start: int, end: int | None
) -> BlobStream:
    if response.status == 200:
        total = read_number(response.headers.get("Content-Length"))
        return BlobStream(response, what, total=total, start=0, end=total)
    value = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if match is None:
        raise BadGateway(f"{response.url.host} answered 206 for {what} with the range {value!r}")
    first, last = int(match[1]), int(match[2])
    total = read_number(match[3])
    wanted = total if end is None else end if total is None else min(end, total)
    if first != start or (wanted is not None and last + 1 != wanted):
        raise BadGateway(
            f"{response.url.host} gave the range {value!r} of {what} when asked "
            f"from byte {start} to {'the end' if end is None else end - 1}"
        )
    return BlobStream(response, what, total=total, start=first, end=last + 1)
