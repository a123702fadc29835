"""A registry client that follows nothing and hides nothing, for tests of the stand-in."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from proxy.oci import OCI_MANIFEST, Digest
from proxy.standin import StandIn

REPOSITORY = "team/app"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
CONFIG = b'{"architecture":"amd64"}'


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply with its whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, and code and message of the one error in the body."""
        [error] = json.loads(self.body)["errors"]
        return self.status, error["code"], error["message"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def location(self) -> str:
        return self.headers["Location"]


class Client:
    """Asks the stand-in, with a password that is good unless told otherwise."""

    def __init__(self, standin: StandIn, session: aiohttp.ClientSession) -> None:
        self.standin = standin
        self._session = session
        self._authorization = aiohttp.encode_basic_auth(standin.username, standin.password)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] | None = None,
        anonymous: bool = False,
    ) -> Answer:
        """One request to a path, or to a whole URL, exactly as given."""
        url = path if path.startswith("http") else self.standin.url + path
        own = {} if anonymous else {"Authorization": self._authorization}
        async with self._session.request(
            method,
            URL(url, encoded=True),
            headers={**own, **(headers or {})},
            data=io.BytesIO(body) if isinstance(body, bytes) else body,
            allow_redirects=False,
        ) as response:
            return Answer(response.status, response.headers.copy(), await response.read())

    async def start(self, repository: str = REPOSITORY, query: str = "") -> str:
        """The location of a new upload."""
        answer = await self.ask("POST", f"/v2/{repository}/blobs/uploads/{query}")
        assert answer.status == 202, answer
        return answer.location

    async def push_blob(self, content: bytes, repository: str = REPOSITORY) -> Digest:
        """As BuildKit does: POST, then one PUT."""
        digest = Digest.of(content)
        answer = await self.ask(
            "PUT", f"{await self.start(repository)}?digest={digest}", body=content
        )
        assert answer.status == 201, answer
        return digest

    async def put_manifest(
        self,
        content: bytes,
        reference: str = "latest",
        *,
        media_type: str = OCI_MANIFEST,
        repository: str = REPOSITORY,
    ) -> Answer:
        return await self.ask(
            "PUT",
            f"/v2/{repository}/manifests/{reference}",
            headers={"Content-Type": media_type},
            body=content,
        )

    async def push_image(
        self, *layers: bytes, tag: str = "latest", repository: str = REPOSITORY
    ) -> bytes:
        """Layers, config and manifest; returns the manifest's bytes."""
        for blob in (*layers, CONFIG):
            await self.push_blob(blob, repository)
        content = image(layers)
        answer = await self.put_manifest(content, tag, repository=repository)
        assert answer.status == 201, answer
        return content

    async def blob_url(self, digest: Digest, repository: str = REPOSITORY) -> str:
        """Where the registry says that a blob's bytes are."""
        answer = await self.ask("GET", f"/v2/{repository}/blobs/{digest}")
        assert answer.status == 307, answer
        return answer.location


def descriptor(content: bytes, media_type: str = LAYER_TYPE, **more: Any) -> dict[str, Any]:
    return {
        "mediaType": media_type,
        "digest": Digest.of(content),
        "size": len(content),
        **more,
    }


def image(blobs: Sequence[bytes], **more: Any) -> bytes:
    """An OCI image manifest over the one config, of `blobs` as layers unless `more` has others."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(CONFIG, CONFIG_TYPE),
            "layers": [descriptor(blob) for blob in blobs],
            **more,
        }
    ).encode()
