"""A repository that a push finds missing is created, where that is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

from proxy.config import NewRepositorySettings
from proxy.demo import registry_of
from proxy.events import Kind
from proxy.oci import OCI_INDEX, Digest
from proxy.standin import StandIn, StandInSettings
from proxy.standin.settings import Denial
from tests.caches import OLD, Cache
from tests.running import RunningProxy, running, settings_for, with_registry

CACHE = Cache.of(b"layer")
WANTED = NewRepositorySettings(immutable_tags=True, mutable_tags=("cache*",))


async def export(proxy: RunningProxy, repository: str, tag: str = "cache") -> None:
    await CACHE.push_blobs(proxy.client, repository)
    put = await proxy.client.push_manifest(repository, tag, CACHE.index, OCI_INDEX)
    assert put.status == 201, put.body


async def test_a_push_creates_its_repository_with_the_configured_settings(
    standin: StandIn, tmp_path: Path
) -> None:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    async with running(with_registry(settings, new_repositories=WANTED)) as proxy:
        await export(proxy, "brand/new")
        repository = standin.state.repository("brand/new")
        assert repository.exclusions == ("cache*",)
        assert proxy.kinds().count(Kind.CREATED) == 1
        read = await proxy.client.ask("GET", "/v2/brand/new/manifests/cache", headers=OLD)
        assert read.body == CACHE.index
        # What moves may move, and nothing else.
        await export(proxy, "brand/new")
        await export(proxy, "brand/new", tag="1.0")
        other = await proxy.client.push_manifest(
            "brand/new", "1.0", CACHE.image_manifest, "application/vnd.oci.image.manifest.v1+json"
        )
        assert other.status == 201  # the very same bytes, as ECR has them


async def test_pushes_that_meet_create_a_repository_once(standin: StandIn, tmp_path: Path) -> None:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    settings = with_registry(settings, new_repositories=NewRepositorySettings())
    async with running(settings) as proxy:
        blobs = [b"blob %d" % number for number in range(6)]
        await asyncio.gather(*(proxy.client.push_blob("fresh", blob) for blob in blobs))
        await proxy.until_upstream(*map(Digest.of, blobs))
    created = [
        r for r in standin.requests if "CreateRepository" in (r.header("X-Amz-Target") or "")
    ]
    assert len(created) == 1


async def test_without_the_right_to_create_ecr_is_quoted(tmp_path: Path) -> None:
    denial = Denial("ecr:CreateRepository")
    async with StandIn(StandInSettings(denials=(denial,))) as standin:
        settings = settings_for(registry_of(standin), cache_dir=tmp_path)
        settings = with_registry(settings, new_repositories=NewRepositorySettings())
        async with running(settings) as proxy:
            answer = await proxy.client.ask("POST", "/v2/fresh/blobs/uploads/")
            assert answer.status == 403
            assert b"ecr:CreateRepository" in answer.body


async def test_a_pull_creates_nothing(standin: StandIn, tmp_path: Path) -> None:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    settings = with_registry(settings, new_repositories=NewRepositorySettings())
    async with running(settings) as proxy:
        digest = Digest.of(b"anything")
        for path in (f"blobs/{digest}", f"manifests/{digest}", "manifests/latest", "tags/list"):
            assert (await proxy.client.ask("GET", f"/v2/fresh/{path}")).status == 404
        assert Kind.CREATED not in proxy.kinds()
