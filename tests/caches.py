"""A small BuildKit cache, in the three forms that BuildKit writes, with the blobs that it names."""

from __future__ import annotations

import json
from dataclasses import dataclass

from proxy.oci import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, Digest
from proxy.standin import StandIn
from tests.running import Client

CONFIG = "application/vnd.buildkit.cacheconfig.v0"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

# What the clients of BUILDKIT.md send.
OLD = {"User-Agent": "buildkit/v0.11"}
OLDEST = {"User-Agent": "containerd/1.4.0+unknown"}
NEW = {"User-Agent": "buildkit/v0.13"}
ALL_TYPES = {
    "Accept": "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"
}


def only(media_type: str) -> dict[str, str]:
    """The Accept of a pusher, and of a GET by digest."""
    return {"Accept": f"{media_type}, */*"}


@dataclass(frozen=True, slots=True)
class Cache:
    """Blobs and the manifests that list them; `config` is the cacheconfig blob."""

    layers: tuple[bytes, ...]
    config: bytes

    @classmethod
    def of(cls, *layers: bytes) -> Cache:
        records = [{"blob": Digest.of(layer)} for layer in layers]
        return cls(layers, json.dumps({"layers": records, "records": []}).encode())

    @property
    def blobs(self) -> tuple[bytes, ...]:
        return (*self.layers, self.config)

    @property
    def index(self) -> bytes:
        return self._list(OCI_INDEX, OCI_LAYER)

    @property
    def docker_list(self) -> bytes:
        return self._list(DOCKER_LIST, DOCKER_LAYER)

    @property
    def image_manifest(self) -> bytes:
        return _compact(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor(CONFIG, self.config),
                "layers": [_descriptor(OCI_LAYER, layer) for layer in self.layers],
            }
        )

    def _list(self, media_type: str, layer_type: str) -> bytes:
        layers = [_descriptor(layer_type, layer) for layer in self.layers]
        return _compact(
            {
                "schemaVersion": 2,
                "mediaType": media_type,
                "manifests": [*layers, _descriptor(CONFIG, self.config)],
            }
        )

    def seed(self, standin: StandIn, repository: str, tag: str) -> None:
        """Put it there straight, as a new client would have pushed it."""
        for blob in self.blobs:
            standin.state.put_blob(repository, blob)
        standin.state.put_manifest(repository, self.image_manifest, OCI_MANIFEST, tag=tag)

    async def push_blobs(self, client: Client, repository: str) -> None:
        for blob in self.blobs:
            await client.push_blob(repository, blob)


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": Digest.of(content), "size": len(content)}


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
