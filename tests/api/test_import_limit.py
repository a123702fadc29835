"""A cache that BuildKit exports and will not import again: whoever exports it is told."""

from __future__ import annotations

import logging

import pytest

from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from proxy.standin import StandIn
from tests.caches import Cache
from tests.running import RunningProxy

MIB = 1024 * 1024
SMALL = Cache.of(b"a layer")


def _config(size: int) -> Cache:
    return Cache((b"a layer",), b" " * size)


def _manifest(size: int) -> bytes:
    """A cache's manifest of so many bytes."""
    padding = size - len(SMALL.image_manifest) - len(b',"annotations":{"x":""}')
    return SMALL.image_manifest[:-1] + b',"annotations":{"x":"%s"}}' % (b"x" * padding)


def _told(caplog: pytest.LogCaptureFixture, digest: str) -> list[str]:
    messages = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    return [message for message in messages if digest in message and "mode=min" in message]


@pytest.mark.parametrize("legacy", [False, True])
async def test_a_config_that_is_too_large_is_told_to_who_pushes_it(
    proxy: RunningProxy, caplog: pytest.LogCaptureFixture, legacy: bool
) -> None:
    cache = _config(MIB + 1)
    content, media_type = (
        (cache.index, OCI_INDEX) if legacy else (cache.image_manifest, OCI_MANIFEST)
    )
    await cache.push_blobs(proxy.client, "app")
    for _ in range(2):
        pushed = await proxy.client.push_manifest("app", "t", content, media_type)
        assert pushed.status == 201
        warning = pushed.headers["Warning"]
        assert warning.startswith('299 - "')
        assert f"a config of {MIB + 1} bytes" in warning
        assert "mode=min" in warning
    assert len(_told(caplog, Digest.of(content))) == 1


async def test_a_manifest_that_is_too_large_is_told_to_who_pushes_it(
    proxy: RunningProxy,
) -> None:
    await SMALL.push_blobs(proxy.client, "app")
    pushed = await proxy.client.push_manifest("app", "t", _manifest(MIB + 1), OCI_MANIFEST)
    assert pushed.status == 201
    assert f"a manifest of {MIB + 1} bytes" in pushed.headers["Warning"]


@pytest.mark.parametrize("cache", [SMALL, _config(MIB)], ids=["small", "just small enough"])
async def test_nothing_is_said_of_what_can_be_imported(
    proxy: RunningProxy, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    await cache.push_blobs(proxy.client, "app")
    pushed = await proxy.client.push_manifest("app", "t", cache.index, OCI_INDEX)
    assert pushed.status == 201
    assert "Warning" not in pushed.headers
    assert not _told(caplog, "")


async def test_nothing_is_said_of_what_is_no_cache(proxy: RunningProxy) -> None:
    image = _manifest(MIB + 1).replace(
        b"vnd.buildkit.cacheconfig.v0", b"vnd.oci.image.config.v1+json"
    )
    await SMALL.push_blobs(proxy.client, "app")
    pushed = await proxy.client.push_manifest("app", "t", image, OCI_MANIFEST)
    assert pushed.status == 201
    assert "Warning" not in pushed.headers


async def test_what_somebody_else_pushed_is_told_of_once_when_it_is_read(
    standin: StandIn, proxy: RunningProxy, caplog: pytest.LogCaptureFixture
) -> None:
    cache = _config(MIB + 1)
    cache.seed(standin, "app", "t")
    for _ in range(2):
        got = await proxy.client.ask("GET", "/v2/app/manifests/t")
        assert got.status == 200
        assert "Warning" not in got.headers
    assert len(_told(caplog, Digest.of(cache.image_manifest))) == 1
