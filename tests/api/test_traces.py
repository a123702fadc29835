"""Every recorded exchange of a real BuildKit, replayed against the proxy and a strict ECR.

The registry of the recording took any manifest. The client must see the same from ECR through the
proxy: the status class that it acts upon, its own digests echoed, lengths, and its bytes.
"""

from __future__ import annotations

import json

import pytest

from proxy.oci import OCI_INDEX, Digest
from proxy.standin import StandIn
from tests.running import Answer, Client, RunningProxy, straight_to
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

    def __init__(self, client: Client, standin: StandIn) -> None:
        self._client = client
        self._standin = standin
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
    await _Player(proxy.client, standin).play(exchanges)
    for name in EXPORTS[export]:
        await proxy.restart()
        await _Player(proxy.client, standin).play(replay.read(name))


async def test_an_old_importer_reads_what_a_new_client_pushed_straight_to_ecr(
    proxy: RunningProxy, standin: StandIn
) -> None:
    """It parses `manifests` only: it finds the config, and fetches it and every layer."""
    replay = Replay()
    export = replay.read("v0.12.5-export-image-manifest")
    _create(standin, export)
    async with straight_to(standin) as client:
        await _Player(client, standin).play(
            [exchange for exchange in export if exchange.method != "HEAD"]
        )
    head, get, blob = replay.read(UNREADABLE)
    answer = await proxy.client.ask("HEAD", head.path, headers=head.headers)
    assert (answer.status, answer.media_type) == (200, OCI_INDEX)
    path = get.path.rpartition("/")[0] + "/" + answer.digest
    headers = {**get.headers, "Accept": f"{answer.media_type}, */*"}
    manifest = await proxy.client.ask("GET", path, headers=headers)
    assert Digest.parse(answer.digest).matches(manifest.body)
    descriptors = json.loads(manifest.body)["manifests"]
    config = [d for d in descriptors if "cacheconfig" in d["mediaType"]]
    assert [d["digest"] for d in config] == [blob.path.rpartition("/")[2]]
    for descriptor in descriptors:
        path = blob.path.rpartition("/")[0] + "/" + descriptor["digest"]
        got = await proxy.client.ask("GET", path, headers=blob.headers)
        assert len(got.body) == descriptor["size"]
        assert Digest.parse(descriptor["digest"]).matches(got.body)
