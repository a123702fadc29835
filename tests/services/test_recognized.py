"""What a manifest is has been read once, and is known from then on."""

from __future__ import annotations

from proxy.buildcache import Form
from proxy.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Digest, Manifest
from proxy.services.recognized import Recognized
from tests.caches import Cache

CACHE = Cache.of(b"one", b"two", b"one")
BLOBS = tuple(Digest.of(blob) for blob in (CACHE.config, b"one", b"two"))


def _manifest(content: bytes, media_type: str) -> Manifest:
    return Manifest(content, media_type, Digest.of(content))


def test_all_forms_of_a_cache_name_the_same_blobs() -> None:
    recognized = Recognized()
    for content, media_type, legacy in (
        (CACHE.image_manifest, OCI_MANIFEST, Form.OCI_INDEX),
        (CACHE.index, OCI_INDEX, Form.OCI_INDEX),
        (CACHE.docker_list, DOCKER_LIST, Form.DOCKER_LIST),
    ):
        contents = recognized.read(_manifest(content, media_type))
        assert contents is not None
        assert (contents.blobs, contents.legacy) == (BLOBS, legacy)


def test_a_cache_is_taken_apart_once() -> None:
    recognized = Recognized()
    manifest = _manifest(CACHE.image_manifest, OCI_MANIFEST)
    assert recognized.read(manifest) is recognized.read(manifest)
    assert not recognized.is_other(manifest.digest)


def test_what_is_no_cache_is_known_as_such() -> None:
    recognized = Recognized()
    image = _manifest(CACHE.image_manifest.replace(b"cacheconfig", b"something"), OCI_MANIFEST)
    assert not recognized.is_other(image.digest)
    for _ in range(2):
        assert recognized.read(image) is None
        assert recognized.is_other(image.digest)


def test_what_comes_under_another_type_is_not_looked_into() -> None:
    recognized = Recognized()
    manifest = _manifest(CACHE.image_manifest, DOCKER_MANIFEST)
    assert recognized.read(manifest) is None
    assert recognized.read(_manifest(CACHE.image_manifest, OCI_MANIFEST)) is not None
