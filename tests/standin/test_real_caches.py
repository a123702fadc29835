"""What BuildKit really exported, pushed to the stand-in: why the proxy is there at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.oci import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST
from tests.standin.conftest import Running

PAIRS = Path(__file__).parent.parent / "vectors" / "pairs"
TYPES = {"index": OCI_INDEX, "docker-list": DOCKER_LIST, "image-manifest": OCI_MANIFEST}
EXPORTS = sorted(path.name for path in PAIRS.glob("*.json"))


@pytest.mark.parametrize("name", EXPORTS)
async def test_of_buildkits_three_forms_only_the_image_manifest_is_taken(
    running: Running, name: str
) -> None:
    form = name.split(".")[-2]
    content = (PAIRS / name).read_bytes()
    async with running(check_layers=form != "image-manifest") as client:
        answer = await client.put_manifest(content, media_type=TYPES[form])
        if form == "image-manifest":
            assert answer.status == 201
        else:
            status, code, message = answer.error
            assert (status, code) == (400, "MANIFEST_BLOB_UNKNOWN")
            assert message.startswith("Images with digests '[sha256:")
