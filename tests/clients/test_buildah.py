"""buildah pushes and pulls through the proxy, in both formats that it writes."""

import os
from pathlib import Path

import pytest

from .containers import Buildah
from .surroundings import LiveProxy


@pytest.mark.parametrize("image_format", ["oci", "docker"])
def test_an_image_pushed_through_the_proxy_is_pulled_again(
    buildah: Buildah, tmp_path: Path, live_proxy: LiveProxy, repository: str, image_format: str
) -> None:
    content = os.urandom(50_000)
    files = tmp_path / "files"
    files.mkdir()
    (files / "data").write_bytes(content)
    buildah.make_image("localhost/made", files=files, image_format=image_format)
    remote = f"{live_proxy.address}/{repository}:v1"
    pushed = buildah.push("localhost/made", f"docker://{remote}")

    buildah.remove_all_images()
    live_proxy.restart(empty_cache=True)
    remote = f"{live_proxy.address}/{repository}:v1"
    assert buildah.pull(f"docker://{remote}") == pushed
    assert (buildah.files_of(remote) / "data").read_bytes() == content
