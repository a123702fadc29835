"""How an exchange failed, told without what was secret in it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from proxy.errors import RegistryError
from proxy.oci import Digest, RepositoryName
from proxy.upstream import Registry, RegistryConfig, Upload
from proxy.upstream.client import Call
from proxy.upstream.errors import Kind, What
from proxy.upstream.tokens import Token
from proxy.upstream.transport import Request
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import Answer, FakeServer

REPO = RepositoryName("app")
DIGEST = Digest.of(b"x")
SIGNED = "x?X-Amz-Signature=deadbeef&X-Amz-Credential=AKIACAFE"


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[str]:
    """A server that answers whatever it is asked with these bytes, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/{SIGNED}"
    finally:
        server.close()


async def read_blob(registry: Registry) -> None:
    async with registry.open_blob(REPO, DIGEST) as stream:
        async for _ in stream.chunks():
            pass


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"no HTTP deadbeef\r\n\r\n",
        b"HTTP/1.1 307 X\r\nLocation: https://s3.example/?X-Amz-Signature=deadbeef\x01\r\n\r\n",
        b"HTTP/1.1 307 X\r\nLocation: https://s3.example/?X-Amz-Signature=deadbeef x\r\n\r\n",
        b"HTTP/1.1 307 X\r\nLocation: https://evil.example/?X-Amz-Signature=deadbeef\r\n\r\n",
        b"HTTP/1.1 307 X\r\nLocation: ftp://s3.example/?X-Amz-Signature=deadbeef\r\n\r\n",
        HEAD + b"X-Bad: deadbeef\x00\r\n\r\n",
        HEAD + b"X-Bad " + b"deadbeef" * 50_000 + b"\r\n\r\n",
        HEAD + b"\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ndeadbeef no chunk\r\n",
        b"HTTP/1.1 403 X\r\nContent-Length: 39\r\n\r\nGET /x?X-Amz-Signature=deadbeef failed.",
        b"HTTP/1.1 206 X\r\nContent-Length: 1\r\nContent-Range: bytes 5-5/9\r\n\r\nx",
    ],
)
async def test_no_failure_at_storage_shows_the_signed_url_even_in_its_traceback(
    open_: OpenRegistry, server: FakeServer, reply: bytes
) -> None:
    registry = await open_(
        RegistryConfig(name="lan", url=server.url, username="me", password="hunter2")
    )
    async with answering(reply) as signed:
        server.tell("GET", f"/v2/{REPO}/blobs/{DIGEST}", Answer(307, b"", {"Location": signed}))
        with pytest.raises(RegistryError) as raised:
            await read_blob(registry)
    told = "".join(traceback.format_exception(raised.value))
    errors: list[BaseException | None] = [raised.value]
    while (error := errors[-1]) is not None:
        told += repr(error)
        errors.append(error.__cause__)
    secrets = ("deadbeef", "AKIACAFE", "X-Amz-", "hunter2", "bWU6aHVudGVyMg")
    assert [secret for secret in secrets if secret in told] == []


def test_no_repr_shows_a_secret() -> None:
    shown = repr(
        [
            Request("GET", URL(f"https://s3.example/{SIGNED}")),
            Call("PUT", What("lan", Kind.BLOB), location=f"https://s3.example/{SIGNED}"),
            Upload(f"https://s3.example/{SIGNED}"),
            RegistryConfig("lan", password="deadbeef", secret_access_key="deadbeef"),
            Token("Basic deadbeef", 1.0),
        ]
    )
    assert "deadbeef" not in shown
