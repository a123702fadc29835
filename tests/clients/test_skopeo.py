"""skopeo copies and syncs through the proxy: images, and repositories that hold a build cache."""

import hashlib
import json
from pathlib import Path

from .containers import Skopeo
from .engine import Engine
from .oci_layout import manifest_digest, write_image
from .surroundings import LiveProxy


def test_a_copy_there_and_back_keeps_every_digest(
    skopeo: Skopeo, tmp_path: Path, live_proxy: LiveProxy, repository: str
) -> None:
    pushed = write_image(tmp_path / "image", tag="v1", layers=3)
    remote = f"docker://{live_proxy.address}/{repository}:v1"
    skopeo.copy(f"oci:{tmp_path}/image:v1", remote)
    skopeo.copy(remote, f"oci:{tmp_path}/back:v1")
    assert manifest_digest(tmp_path / "back") == pushed
    assert _blobs(tmp_path / "back") == _blobs(tmp_path / "image")


def test_a_copy_back_through_a_proxy_with_an_empty_disk(
    skopeo: Skopeo, tmp_path: Path, live_proxy: LiveProxy, repository: str
) -> None:
    pushed = write_image(tmp_path / "image", tag="v1")
    skopeo.copy(f"oci:{tmp_path}/image:v1", f"docker://{live_proxy.address}/{repository}:v1")
    live_proxy.restart(empty_cache=True)
    by_digest = f"docker://{live_proxy.address}/{repository}@{pushed}"
    skopeo.copy(by_digest, f"oci:{tmp_path}/back:v1")
    assert manifest_digest(tmp_path / "back") == pushed
    assert _blobs(tmp_path / "back") == _blobs(tmp_path / "image")


def test_sync_takes_every_tag_of_a_repository(
    skopeo: Skopeo, tmp_path: Path, live_proxy: LiveProxy, repository: str
) -> None:
    remote = f"{live_proxy.address}/{repository}"
    pushed = {}
    for tag in ("v1", "v2", "v3"):
        pushed[tag] = write_image(tmp_path / tag, tag=tag)
        skopeo.copy(f"oci:{tmp_path}/{tag}:{tag}", f"docker://{remote}:{tag}")
    assert skopeo.tags(f"docker://{remote}") == pushed.keys()
    assert _synced(skopeo, remote, tmp_path / "synced") == pushed


def test_sync_takes_a_repository_that_holds_a_build_cache(
    engine: Engine,
    context: Path,
    skopeo: Skopeo,
    tmp_path: Path,
    live_proxy: LiveProxy,
    repository: str,
) -> None:
    remote = f"{live_proxy.address}/{repository}"
    exported = engine.build(context, cache_to=f"type=registry,ref={remote}:cache,mode=max")
    assert exported.ok, exported.log
    pushed = write_image(tmp_path / "image", tag="v1")
    skopeo.copy(f"oci:{tmp_path}/image:v1", f"docker://{remote}:v1")

    # skopeo takes each entry of an index for an image, so the legacy form would fail here: it must
    # see what is stored, though the engine that exported it sees an index.
    synced = _synced(skopeo, remote, tmp_path / "synced")
    assert synced.keys() == {"cache", "v1"}
    assert synced["v1"] == pushed
    name = repository.rpartition("/")[2]
    manifest = json.loads((tmp_path / "synced" / f"{name}:cache" / "manifest.json").read_bytes())
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.buildkit.cacheconfig.v0"
    assert manifest["layers"]

    # What was synced is still a cache.
    restored = f"{remote}:restored"
    skopeo.copy(f"dir:{tmp_path}/synced/{name}:cache", f"docker://{restored}")
    engine.prune()
    imported = engine.build(context, cache_from=f"type=registry,ref={restored}")
    assert imported.fully_cached, imported.log
    assert imported.manifest == exported.manifest


def _blobs(layout: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (layout / "blobs" / "sha256").iterdir()}


def _synced(skopeo: Skopeo, repository: str, folder: Path) -> dict[str, str]:
    """Syncs to `folder`; the digests of the manifests that arrived, by tag."""
    skopeo.sync_to_folder(repository, folder)
    return {
        path.name.rpartition(":")[2]: "sha256:"
        + hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
        for path in folder.iterdir()
    }
