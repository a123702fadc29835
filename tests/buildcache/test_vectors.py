"""One build state as a real BuildKit exported it in three forms, each turned into the others."""

from __future__ import annotations

import json

import pytest

from proxy.buildcache import Form, find_form, legacy_form, show, to_stored
from proxy.oci import Digest
from tests.buildcache.manifests import PAIRS

STATES = sorted({path.name.split(".json")[0].rsplit(".", 1)[0] for path in PAIRS.glob("*.json")})


def _read(state: str, form: Form) -> bytes:
    return (PAIRS / f"{state}.{form.value}.json").read_bytes()


def test_all_compressions_are_there() -> None:
    assert [state.split("-")[1] for state in STATES] == ["estargz", "gzip", "uncompressed", "zstd"]


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("state", STATES)
def test_each_form_is_recognised(state: str, form: Form) -> None:
    assert find_form(_read(state, form)) is form


@pytest.mark.parametrize("state", STATES)
def test_an_index_is_stored_as_what_a_new_client_pushes(state: str) -> None:
    pushed = _read(state, Form.OCI_INDEX)
    stored = to_stored(pushed)
    assert stored.manifest.content == _read(state, Form.IMAGE_MANIFEST)
    assert stored.manifest.digest == Digest.of(_read(state, Form.IMAGE_MANIFEST))
    assert stored.client == Digest.of(pushed)
    assert stored.form is Form.OCI_INDEX
    assert not stored.needs_empty_blob


@pytest.mark.parametrize("state", STATES)
def test_an_image_manifest_is_stored_as_it_is(state: str) -> None:
    pushed = _read(state, Form.IMAGE_MANIFEST)
    stored = to_stored(pushed)
    assert stored.manifest.content == pushed
    assert stored.client == stored.manifest.digest


@pytest.mark.parametrize("state", STATES)
def test_a_docker_list_is_stored_with_one_annotation_more_than_an_index(state: str) -> None:
    stored = json.loads(to_stored(_read(state, Form.DOCKER_LIST)).manifest.content)
    assert stored.pop("annotations") == {"io.github.ecr-cache-proxy.form": "docker-list"}
    assert stored == json.loads(_read(state, Form.IMAGE_MANIFEST))


@pytest.mark.parametrize("shown", Form)
@pytest.mark.parametrize("pushed", Form)
@pytest.mark.parametrize("state", STATES)
def test_every_form_is_shown_as_buildkit_writes_it(state: str, pushed: Form, shown: Form) -> None:
    stored = to_stored(_read(state, pushed)).manifest.content
    if pushed is Form.DOCKER_LIST and shown is Form.IMAGE_MANIFEST:
        assert show(stored, shown) == stored  # with the annotation on it
    else:
        assert show(stored, shown) == _read(state, shown)


@pytest.mark.parametrize(
    ("pushed", "read"),
    [
        (Form.IMAGE_MANIFEST, Form.OCI_INDEX),
        (Form.OCI_INDEX, Form.OCI_INDEX),
        (Form.DOCKER_LIST, Form.DOCKER_LIST),
    ],
)
@pytest.mark.parametrize("state", STATES)
def test_an_old_client_reads_the_form_that_was_pushed(state: str, pushed: Form, read: Form) -> None:
    assert legacy_form(to_stored(_read(state, pushed)).manifest.content) is read


@pytest.mark.parametrize("shown", Form)
@pytest.mark.parametrize("held", [Form.OCI_INDEX, Form.DOCKER_LIST])
@pytest.mark.parametrize("state", STATES)
def test_a_registry_that_takes_legacy_forms_shows_the_others_too(
    state: str, held: Form, shown: Form
) -> None:
    content = _read(state, held)
    assert legacy_form(content) is held
    if held is Form.DOCKER_LIST and shown is Form.IMAGE_MANIFEST:
        assert show(content, shown) == to_stored(content).manifest.content
    else:
        assert show(content, shown) == _read(state, shown)
