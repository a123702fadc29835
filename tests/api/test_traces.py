"""Every recorded exchange of a real BuildKit, replayed against the proxy and a strict ECR.

The registry of the recording took any manifest. The client must see the same from ECR through the
proxy: the status class that it acts upon, its own digests echoed, lengths, and its bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.demo import registry_of
from proxy.oci import Digest
from proxy.standin import StandIn
from tests.caches import ALL_TYPES
from tests.running import (
    Answer,
    Client,
    RunningProxy,
    running,
    settings_for,
    straight_to,
    with_registry,
)
from tests.traces import Exchange, Replay, names

EXPORTS = {
    "v0.8.3-export-oci": ["v0.8.3-import-oci"],
    "v0.8.3-export-docker": ["v0.8.3-import-docker", "v0.8.3-reexport-docker"],
    "v0.11.6-export-oci": ["v0.11.6-import-oci", "v0.11.6-reexport-oci"],
    "v0.11.6-export-docker": ["v0.11.6-import-docker"],
    "v0.11.6-export-min": [],
    "v0.12.5-export-oci": [],
    "v0.12.5-export-image-manifest": ["v0.12.5-import-image-manifest"],
    "docker26-export-default": [],
}
# An old importer at a cache that a new client pushed: it is to see more than it saw then.
UNREADABLE = "v0.11.6-import-image-manifest"


def test_every_trace_is_replayed() -> None:
    assert {*EXPORTS, *(i for imports in EXPORTS.values() for i in imports), UNREADABLE} == {
        *names()
    }


class _Player:
    """Sends a client's requests as recorded, but to the locations that it is given now."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._locations: list[str] = []

    async def play(self, exchanges: list[Exchange]) -> None:
        for exchange in exchanges:
            answer = await self._send(exchange)
            self._check(exchange, answer)

    async def _send(self, exchange: Exchange) -> Answer:
        path = exchange.path
        if exchange.method in ("PUT", "PATCH") and "/blobs/uploads/" in path:
            # Uploads overlap in newer clients; which location is whose does not matter.
            location = self._locations.pop(0)
            query = [p for p in path.partition("?")[2].split("&") if p.startswith("digest=")]
            path = location + "".join(
                ("&" if "?" in location else "?") + parameter for parameter in query
            )
        answer = await self._client.ask(
            exchange.method, path, headers=exchange.headers, body=exchange.body or None
        )
        if answer.status == 202 and "Location" in answer.headers:
            self._locations.append(answer.headers["Location"])
        return answer

    def _check(self, then: Exchange, now: Answer) -> None:
        story = (then.method, then.path, now.status, now.body[:300])
        if then.status == 404 and now.status == 200 and "/manifests/" in then.path:
            # The registry of the recording hid what it had from clients that name another type,
            # or name their types in several Accept lines. A pusher that sees another digest pushes.
            assert now.media_type not in then.headers["Accept"].split(", ")[:1], story
            return
        assert now.status // 100 == then.status // 100, story
        expected = then.reply_headers.get("Docker-Content-Digest")
        if expected is not None and now.status // 100 == 2:
            assert now.headers.get("Docker-Content-Digest") == expected, story
        if then.method == "GET" and now.status == 200 and "/manifests/" in then.path:
            assert now.body == then.reply_body, story
            assert Digest.parse(expected or "").matches(now.body)
        if then.method in ("GET", "HEAD") and now.status == 200 and then.path != "/v2/":
            assert now.headers["Content-Length"] == then.reply_headers["Content-Length"], story


def _repositories(exchanges: list[Exchange]) -> set[str]:
    return {
        exchange.path[len("/v2/") :].rpartition(middle)[0]
        for exchange in exchanges
        for middle in ("/manifests/", "/blobs/")
        if middle in exchange.path
    } - {""}


def _create(standin: StandIn, exchanges: list[Exchange]) -> None:
    for name in _repositories(exchanges):
        standin.state.create_repository(name.split("/blobs")[0])


@pytest.mark.parametrize("export", EXPORTS)
async def test_an_export_and_what_follows_it_see_what_they_saw(
    export: str, proxy: RunningProxy, standin: StandIn
) -> None:
    replay = Replay()
    exchanges = replay.read(export)
    _create(standin, exchanges)
    await _Player(proxy.client).play(exchanges)
    for name in EXPORTS[export]:
        await proxy.restart()
        await _Player(proxy.client).play(replay.read(name))


async def _push_straight(standin: StandIn) -> str:
    """What a new client pushes to ECR without a proxy; the repository."""
    export = Replay().read("v0.12.5-export-image-manifest")
    _create(standin, export)
    async with straight_to(standin) as client:
        await _Player(client).play([exchange for exchange in export if exchange.method != "HEAD"])
    return _repositories(export).pop().split("/blobs")[0]


async def _import(client: Client, repository: str, recorded: list[Exchange]) -> set[str]:
    """The digests that an old importer finds and fetches, asking as it was recorded.

    It knows `manifests` only; raises `LookupError` where it would find no cache, and build all.
    """
    head, get, blob = (dict(exchange.headers) for exchange in recorded)
    base = f"/v2/{repository}"
    found = await client.ask("HEAD", f"{base}/manifests/cache", headers=head)
    assert found.status == 200
    accept = {"Accept": f"{found.media_type}, */*"}
    path = f"{base}/manifests/{found.digest}"
    manifest = await client.ask("GET", path, headers=get | accept)
    assert Digest.parse(found.digest).matches(manifest.body)
    descriptors = json.loads(manifest.body).get("manifests", [])
    if not any("cacheconfig" in descriptor["mediaType"] for descriptor in descriptors):
        raise LookupError("no cacheconfig among the manifests")
    for descriptor in descriptors:
        got = await client.ask("GET", f"{base}/blobs/{descriptor['digest']}", headers=blob)
        assert len(got.body) == descriptor["size"]
        assert Digest.parse(descriptor["digest"]).matches(got.body)
    return {descriptor["digest"] for descriptor in descriptors}


IMPORTERS = ["v0.8.3-import-oci", "v0.8.3-import-docker", "v0.11.6-import-oci", UNREADABLE]


@pytest.mark.parametrize("importer", IMPORTERS)
async def test_an_old_importer_reads_what_a_new_client_pushed_straight_to_ecr(
    importer: str, proxy: RunningProxy, standin: StandIn
) -> None:
    repository = await _push_straight(standin)
    fetched = await _import(proxy.client, repository, Replay().read(importer))
    async with straight_to(standin) as client:
        path = f"/v2/{repository}/manifests/cache"
        stored = json.loads((await client.ask("GET", path, headers=ALL_TYPES)).body)
    assert fetched == {d["digest"] for d in [stored["config"], *stored["layers"]]}


@pytest.mark.parametrize("importer", IMPORTERS)
async def test_without_rewriting_an_old_importer_finds_no_cache(
    importer: str, standin: StandIn, tmp_path: Path
) -> None:
    repository = await _push_straight(standin)
    settings = settings_for(registry_of(standin), cache_dir=tmp_path)
    async with running(with_registry(settings, rewrite="never")) as proxy:
        with pytest.raises(LookupError):
            await _import(proxy.client, repository, Replay().read(importer))
