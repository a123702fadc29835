"""Against the strict stand-in: what ECR does differently, absorbed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from proxy.errors import (
    BadGateway,
    BlobUnknown,
    Denied,
    ManifestUnknown,
    NameUnknown,
    RegistryError,
    TagInvalid,
    Unavailable,
    Unsupported,
)
from proxy.events import Kind
from proxy.oci import EMPTY_JSON, OCI_EMPTY, OCI_MANIFEST, Digest, RepositoryName, Tag
from proxy.standin import Denial, Fault, Role, StandIn, StandInSettings
from proxy.upstream import BlobStream, Body, Registry, RegistryConfig
from tests.standins import config_of
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import Told

REPO = RepositoryName("team/app")
LATEST = Tag("latest")
LAYER = bytes(range(256)) * 100
DIGEST = Digest.of(LAYER)
_MIB = 1024 * 1024

Start = Callable[..., Awaitable[tuple[StandIn, Registry]]]


@pytest.fixture
async def start(open_: OpenRegistry) -> AsyncIterator[Start]:
    standins: list[StandIn] = []

    async def begin(
        settings: StandInSettings | None = None, **changes: object
    ) -> tuple[StandIn, Registry]:
        standin = StandIn(settings or StandInSettings(repositories=(REPO, "other/image")))
        await standin.start()
        standins.append(standin)
        config: dict[str, object] = {
            "name": standin.host,
            "url": standin.url,
            "ecr": True,
            "api_url": standin.url,
            "access_key_id": standin.access_key_id,
            "secret_access_key": standin.secret_access_key,
            **changes,
        }
        return standin, await open_(RegistryConfig(**config))  # type: ignore[arg-type]

    yield begin
    for standin in standins:
        await standin.close()


def body_of(content: bytes) -> Body:
    async def body() -> AsyncIterator[bytes]:
        yield content

    return body


async def push_blob(
    registry: Registry, content: bytes, repository: RepositoryName = REPO
) -> Digest:
    """The way of a service: parts of the registry's size, the rest with the closing PUT."""
    upload = await registry.start_upload(repository)
    assert upload is not None
    offset, size = 0, registry.part_size
    while len(content) - offset > size:
        part = content[offset : offset + size]
        upload = await registry.send_chunk(upload, offset=offset, length=size, body=body_of(part))
        offset += size
    rest, digest = content[offset:], Digest.of(content)
    await registry.finish_upload(
        upload, digest, offset=offset, length=len(rest), body=body_of(rest)
    )
    return digest


def image(*layers: Digest) -> bytes:
    def descriptor(digest: Digest, media_type: str, size: int) -> dict[str, object]:
        return {"mediaType": media_type, "digest": digest, "size": size}

    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(Digest.of(EMPTY_JSON), OCI_EMPTY, len(EMPTY_JSON)),
            "layers": [
                descriptor(digest, "application/vnd.oci.image.layer.v1.tar+gzip", len(LAYER))
                for digest in layers
            ],
        }
    ).encode()


async def push_image(registry: Registry, tag: Tag = LATEST) -> bytes:
    await push_blob(registry, LAYER)
    await push_blob(registry, EMPTY_JSON)
    content = image(DIGEST)
    await registry.put_manifest(REPO, tag, content, OCI_MANIFEST)
    return content


async def read(registry: Registry, digest: Digest, start: int = 0) -> bytes:
    async with registry.open_blob(REPO, digest, start=start) as stream:
        assert stream.start == start
        return b"".join([chunk async for chunk in stream.chunks()])


async def test_image_goes_up_and_comes_down(start: Start) -> None:
    standin, registry = await start()
    content = await push_image(registry)
    head = await registry.head_manifest(REPO, LATEST)
    assert (head.digest, head.media_type, head.size) == (
        Digest.of(content),
        OCI_MANIFEST,
        len(content),
    )
    assert (await registry.get_manifest(REPO, LATEST)).content == content
    assert (await registry.get_manifest(REPO, Digest.of(content))).content == content
    assert await registry.head_blob(REPO, DIGEST) == len(LAYER)
    assert await read(registry, DIGEST) == LAYER
    assert await read(registry, DIGEST, start=1000) == LAYER[1000:]
    assert (await registry.list_tags(REPO)).names == (LATEST,)
    assert set((await registry.list_repositories()).names) == {REPO, "other/image"}
    assert json.loads((await registry.list_referrers(REPO, Digest.of(content))).content)
    assert not await registry.is_peer()
    s3 = [one for one in standin.requests if one.server == "s3"]
    assert s3
    assert all(one.header("Authorization") is None for one in s3)


async def test_large_blob_goes_up_in_parts(start: Start) -> None:
    _, registry = await start()
    content = bytes(256) * (21 * _MIB // 256) + b"end"
    digest = await push_blob(registry, content)
    assert await registry.head_blob(REPO, digest) == len(content)


async def test_fifty_at_once_take_one_token(start: Start) -> None:
    standin, registry = await start()
    await push_image(registry)
    await asyncio.gather(*(registry.get_manifest(REPO, LATEST) for _ in range(50)))
    assert len([one for one in standin.requests if one.server == "api"]) == 1


async def test_delete(start: Start) -> None:
    _, registry = await start()
    content = await push_image(registry)
    await registry.delete_manifest(REPO, Digest.of(content))
    with pytest.raises(ManifestUnknown):
        await registry.head_manifest(REPO, LATEST)


async def test_refusals_arrive_in_the_words_of_ecr(start: Start) -> None:
    _, registry = await start()
    missing = RepositoryName("no/where")
    with pytest.raises(ManifestUnknown, match="Requested image not found"):
        await registry.get_manifest(REPO, LATEST)
    with pytest.raises(NameUnknown, match="'no/where' does not exist in the registry with id"):
        await registry.get_manifest(missing, LATEST)
    with pytest.raises(NameUnknown, match="does not exist"):
        await registry.start_upload(missing)
    with pytest.raises(BlobUnknown):
        await registry.head_blob(REPO, DIGEST)
    with pytest.raises(BlobUnknown, match="The layer with digest"):
        await read(registry, DIGEST)
    await push_blob(registry, EMPTY_JSON)
    with pytest.raises(Unsupported, match="at least 1 layer"):
        await registry.put_manifest(REPO, LATEST, image(), OCI_MANIFEST)
    with pytest.raises(RegistryError, match="required for pushing image"):
        await registry.put_manifest(REPO, LATEST, image(DIGEST), OCI_MANIFEST)


async def test_repository_that_drops_the_connection(start: Start) -> None:
    _, registry = await start(StandInSettings(unknown_repository_closes_socket=True))
    with pytest.raises(NameUnknown, match="does the repository exist"):
        await registry.start_upload(REPO)


async def test_immutable_tag(start: Start) -> None:
    _, registry = await start(StandInSettings(repositories=(REPO,), immutable_tags=True))
    content = await push_image(registry)
    with pytest.raises(TagInvalid, match="already exists in the 'team/app' repository"):
        await registry.put_manifest(REPO, LATEST, content, OCI_MANIFEST)


async def test_denial(start: Start) -> None:
    _, registry = await start(
        StandInSettings(repositories=(REPO,), denials=(Denial("ecr:BatchGetImage"),))
    )
    with pytest.raises(Denied, match="is not authorized to perform: ecr:BatchGetImage"):
        await registry.get_manifest(REPO, LATEST)


@pytest.mark.parametrize("status", [403, 400])
async def test_expired_token_is_replaced(start: Start, told: Told, status: int) -> None:
    _, registry = await start(
        StandInSettings(repositories=(REPO,), token_lifetime=2.0, expired_token_status=status)
    )
    await push_image(registry)
    await told.wait_for(Kind.TOKEN, 2)  # the background's, before it expired
    await registry.get_manifest(REPO, LATEST)


async def test_mount(start: Start) -> None:
    other = RepositoryName("other/image")
    _, registry = await start(StandInSettings(repositories=(REPO, other), mounting=True))
    await push_image(registry)
    assert await registry.start_upload(other, mount=DIGEST, source=REPO) is None
    assert await registry.head_blob(other, DIGEST) == len(LAYER)
    unknown = Digest.of(b"unknown")
    assert await registry.start_upload(other, mount=unknown, source=REPO) is not None


@pytest.mark.parametrize("status", [403, 400])
async def test_expired_url_is_asked_for_again(start: Start, status: int) -> None:
    standin, registry = await start(
        StandInSettings(repositories=(REPO,), expired_url_status=status)
    )
    await push_image(registry)
    standin.faults.add(
        Fault(
            server="s3",
            status=status,
            body="<Error><Code>ExpiredToken</Code><Message>It has expired.</Message></Error>",
        )
    )
    assert await read(registry, DIGEST) == LAYER


async def test_slow_down_of_s3(start: Start) -> None:
    standin, registry = await start()
    await push_image(registry)
    standin.faults.add(Fault(server="s3", status=503, times=2))
    assert await read(registry, DIGEST) == LAYER
    standin.faults.add(Fault(server="s3", status=503, times=None))
    with pytest.raises(Unavailable, match="SlowDown"):
        await read(registry, DIGEST)


async def test_cut_body_and_reset(start: Start) -> None:
    standin, registry = await start()
    await push_image(registry)
    standin.faults.add(Fault(server="s3", cut_after=1000))
    with pytest.raises(BadGateway, match="of which 1000 bytes came"):
        await read(registry, DIGEST)
    standin.faults.add(Fault(server="registry", method="GET", reset=True, times=2))
    assert await read(registry, DIGEST) == LAYER


async def test_what_came_before_a_cut_is_given_however_late_it_is_read(start: Start) -> None:
    standin, registry = await start()
    await push_image(registry)
    standin.faults.add(Fault(server="s3", cut_after=1000))
    received = bytearray()

    async def read_on(stream: BlobStream) -> None:
        async for chunk in stream.chunks():
            received.extend(chunk)

    async with registry.open_blob(REPO, DIGEST) as stream:
        while stream._response.content.exception() is None:
            await registry.ping()
        with pytest.raises(BadGateway, match="of which 1000 bytes came"):
            await read_on(stream)
    assert received == LAYER[:1000]


async def test_ignored_range_begins_at_zero(start: Start) -> None:
    standin, registry = await start()
    await push_image(registry)
    standin.faults.add(Fault(server="s3", ignore_range=True))
    async with registry.open_blob(REPO, DIGEST, start=500) as stream:
        assert (stream.start, stream.total) == (0, len(LAYER))


async def test_role_with_external_id(
    start: Start, monkeypatch: pytest.MonkeyPatch, open_: OpenRegistry
) -> None:
    role = Role("arn:aws:iam::123456789012:role/cache", external_id="ext")
    standin, _ = await start(StandInSettings(repositories=(REPO,), roles=(role,)))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", standin.url)
    config = config_of(standin, role_arn=role.arn, external_id="wrong")
    refused = await open_(config)
    assert "sts:AssumeRole" in (refused.credentials_problem() or "")
    taken = await open_(replace(config, external_id="ext"))
    assert taken.credentials_problem() is None
    await taken.ping()


async def test_public(start: Start) -> None:
    settings = StandInSettings(repositories=(REPO,), public=True)
    _, registry = await start(settings, name="public.ecr.aws")
    await push_image(registry)
    assert await registry.head_blob(REPO, DIGEST) == len(LAYER)
    assert await read(registry, DIGEST) == LAYER


async def test_pages_of_tags(start: Start) -> None:
    _, registry = await start(StandInSettings(repositories=(REPO,), tags_page=3))
    content = await push_image(registry, Tag("t0"))
    for number in range(1, 8):
        await registry.put_manifest(REPO, Tag(f"t{number}"), content, OCI_MANIFEST)
    names: list[str] = []
    last: str | None = None
    while True:
        page = await registry.list_tags(REPO, last=last)
        names += page.names
        last = page.next_last
        if last is None:
            break
    assert sorted(names) == [f"t{number}" for number in range(8)]
    assert len((await registry.list_tags(REPO, n=5000)).names) == 8
    with pytest.raises(Unsupported, match="Invalid next token provided"):
        await registry.list_tags(REPO, last="forged")
