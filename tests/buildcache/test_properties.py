"""What holds for every cache, whoever wrote it and however."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from proxy.buildcache import Form, find_form, media_type, show, to_stored
from proxy.oci import DOCKER_LIST, EMPTY_DESCRIPTOR, OCI_INDEX, Digest
from tests.buildcache.manifests import (
    CONFIG,
    buildkit_image_manifests,
    buildkit_lists,
    compact,
    image_manifest,
    odd_caches,
    unhurried,
)

FORM = "io.github.ecr-cache-proxy.form"
ORIGINAL = "io.github.ecr-cache-proxy.original"


@unhurried
@given(odd_caches())
def test_what_was_pushed_comes_back(content: bytes) -> None:
    form = find_form(content)
    assert form is not None
    stored = to_stored(content)
    assert stored.form is form
    assert stored.client == Digest.of(content)
    assert show(stored.manifest.content, form) == content
    assert stored == to_stored(content)


@unhurried
@given(odd_caches())
def test_what_is_stored_is_not_rewritten_again(content: bytes) -> None:
    stored = to_stored(content).manifest
    assert find_form(stored.content, stored.media_type) is Form.IMAGE_MANIFEST
    again = to_stored(stored.content)
    assert again.manifest == stored
    assert again.client == stored.digest
    assert not again.needs_empty_blob


@unhurried
@given(odd_caches(), st.sampled_from(Form))
def test_every_cache_is_shown_in_every_form(content: bytes, form: Form) -> None:
    pushed = find_form(content)
    stored = to_stored(content).manifest.content
    for held in (content, stored):
        shown = show(held, form)
        assert find_form(shown, None if form is pushed else media_type(form)) is form
        assert _named(shown) == _named(content)


def _named(content: bytes) -> tuple[str, list[str]]:
    """The digests of a cache manifest's config and layers."""
    document = json.loads(content)
    found = document["manifests"] if "manifests" in document else document["layers"] or []
    config = document.get("config") or next(d for d in found if d["mediaType"] == CONFIG)
    skipped = (config["digest"], EMPTY_DESCRIPTOR.digest)
    return config["digest"], [d["digest"] for d in found if d["digest"] not in skipped]


@unhurried
@given(buildkit_lists(OCI_INDEX))
def test_an_index_of_buildkits_is_stored_without_a_trace_of_the_proxy(content: bytes) -> None:
    stored = to_stored(content).manifest.content
    document = json.loads(content)
    *found, config = document["manifests"]
    assert stored == compact(image_manifest(config=config, layers=found))
    assert show(stored, Form.OCI_INDEX) == content


@unhurried
@given(buildkit_lists(DOCKER_LIST))
def test_a_list_of_buildkits_needs_no_original(content: bytes) -> None:
    stored = json.loads(to_stored(content).manifest.content)
    assert stored["annotations"] == {FORM: "docker-list"}


@unhurried
@given(buildkit_image_manifests())
def test_a_cache_of_a_new_client_is_had_back_from_the_index_shown_of_it(content: bytes) -> None:
    shown = show(content, Form.OCI_INDEX)
    assert to_stored(shown).manifest.content == content
    listed = show(content, Form.DOCKER_LIST)
    assert show(to_stored(listed).manifest.content, Form.OCI_INDEX) == shown
