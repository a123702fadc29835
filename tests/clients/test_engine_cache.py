"""BuildKit's registry cache, exported and imported by a Docker Engine: the reason for the proxy.

An engine exports the legacy OCI index unless told otherwise, the Docker manifest list with
`oci-mediatypes=false`, and on request the image manifest, which is the only form that ECR takes.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .build import BuildResult
from .engine import Engine
from .surroundings import LiveProxy, Standin

LEGACY_OCI = ""
LEGACY_DOCKER = ",oci-mediatypes=false"
IMAGE_MANIFEST = ",image-manifest=true,oci-mediatypes=true"

FORMS = [
    pytest.param(LEGACY_OCI, id="legacy-oci"),
    pytest.param(LEGACY_DOCKER, id="legacy-docker"),
    pytest.param(IMAGE_MANIFEST, id="image-manifest"),
]
LEGACY_FORMS = FORMS[:2]


@pytest.fixture
def ecr(engine: Engine, standin: Standin) -> Iterator[str]:
    """HOST:PORT of the stand-in itself, with the engine logged in to it."""
    address = standin.url.removeprefix("http://")
    engine.login(address, username=standin.username, password=standin.password)
    yield address
    engine.logout(address)


def export_cache(engine: Engine, context: Path, *, ref: str, form: str) -> BuildResult:
    """Builds and exports with mode=max, which takes the steps of every stage."""
    return engine.build(context, cache_to=f"type=registry,ref={ref},mode=max{form}")


def import_cache(engine: Engine, context: Path, *, ref: str) -> BuildResult:
    """Builds on an engine that has forgotten everything, from the cache at `ref`."""
    engine.prune()
    return engine.build(context, cache_from=f"type=registry,ref={ref}")


def assert_same_build(imported: BuildResult, exported: BuildResult) -> None:
    """Every step cached, and the very same image: its layers came out of the cache unharmed."""
    assert imported.ok, imported.log
    assert imported.steps == exported.steps
    assert imported.cached_steps == imported.steps, imported.log
    assert imported.manifest == exported.manifest


@pytest.mark.parametrize("form", LEGACY_FORMS)
def test_ecr_itself_refuses_a_legacy_cache(
    engine: Engine, context: Path, standin: Standin, ecr: str, repository: str, form: str
) -> None:
    result = export_cache(engine, context, ref=f"{ecr}/{repository}:cache", form=form)
    assert not result.ok
    # BuildKit swallows the body of the reply, and with it MANIFEST_BLOB_UNKNOWN.
    assert "400 Bad Request" in result.log, result.log
    assert "/manifests/cache" in result.log
    # It was the manifest that failed, not the login: the layers are there.
    assert "unauthorized" not in result.log.lower()
    writes = [r for r in standin.requests if r.method == "PUT" and f"/{repository}/" in r.path]
    assert {r.status for r in writes if "/blobs/uploads/" in r.path} == {201}
    assert {r.status for r in writes if "/manifests/" in r.path} == {400}


def test_ecr_itself_takes_a_cache_in_the_image_manifest_form(
    engine: Engine, context: Path, ecr: str, repository: str
) -> None:
    ref = f"{ecr}/{repository}:cache"
    exported = export_cache(engine, context, ref=ref, form=IMAGE_MANIFEST)
    assert exported.ok, exported.log
    assert_same_build(import_cache(engine, context, ref=ref), exported)


@pytest.mark.parametrize("form", FORMS)
def test_a_cache_exported_through_the_proxy_caches_every_step(
    engine: Engine,
    context: Path,
    standin: Standin,
    live_proxy: LiveProxy,
    repository: str,
    form: str,
) -> None:
    ref = f"{live_proxy.address}/{repository}:cache"
    exported = export_cache(engine, context, ref=ref, form=form)
    assert exported.ok, exported.log
    assert not exported.cached_steps
    stored = [
        r.status
        for r in standin.requests
        if r.method == "PUT" and f"/{repository}/manifests/" in r.path
    ]
    assert stored, "nothing reached the registry"
    assert stored[-1] == 201
    assert_same_build(import_cache(engine, context, ref=ref), exported)


@pytest.mark.parametrize("form", FORMS)
def test_a_cache_is_in_the_registry_and_not_only_on_the_proxys_disk(
    engine: Engine, context: Path, live_proxy: LiveProxy, repository: str, form: str
) -> None:
    exported = export_cache(
        engine, context, ref=f"{live_proxy.address}/{repository}:cache", form=form
    )
    assert exported.ok, exported.log
    live_proxy.restart(empty_cache=True)
    imported = import_cache(engine, context, ref=f"{live_proxy.address}/{repository}:cache")
    assert_same_build(imported, exported)


def test_a_cache_survives_a_restart_of_the_proxy(
    engine: Engine, context: Path, live_proxy: LiveProxy, repository: str
) -> None:
    exported = export_cache(
        engine, context, ref=f"{live_proxy.address}/{repository}:cache", form=LEGACY_OCI
    )
    assert exported.ok, exported.log
    live_proxy.restart()
    imported = import_cache(engine, context, ref=f"{live_proxy.address}/{repository}:cache")
    assert_same_build(imported, exported)


@pytest.mark.parametrize("form", LEGACY_FORMS)
def test_a_legacy_cache_stored_by_the_proxy_is_read_without_it(
    engine: Engine, context: Path, live_proxy: LiveProxy, ecr: str, repository: str, form: str
) -> None:
    exported = export_cache(
        engine, context, ref=f"{live_proxy.address}/{repository}:cache", form=form
    )
    assert exported.ok, exported.log
    assert_same_build(import_cache(engine, context, ref=f"{ecr}/{repository}:cache"), exported)


def test_a_cache_stored_without_the_proxy_is_read_through_it(
    engine: Engine, context: Path, live_proxy: LiveProxy, ecr: str, repository: str
) -> None:
    exported = export_cache(engine, context, ref=f"{ecr}/{repository}:cache", form=IMAGE_MANIFEST)
    assert exported.ok, exported.log
    imported = import_cache(engine, context, ref=f"{live_proxy.address}/{repository}:cache")
    assert_same_build(imported, exported)


def test_each_form_may_replace_another_under_one_tag(
    engine: Engine, context: Path, live_proxy: LiveProxy, repository: str
) -> None:
    ref = f"{live_proxy.address}/{repository}:cache"
    # An old client's by a new one's, and the reverse, for both of the old forms.
    for form in (LEGACY_OCI, IMAGE_MANIFEST, LEGACY_DOCKER, LEGACY_OCI):
        # Another source, so that each export has another content.
        with (context / "source.txt").open("a") as source:
            source.write("one more line\n")
        engine.prune()
        exported = export_cache(engine, context, ref=ref, form=form)
        assert exported.ok, exported.log
        assert_same_build(import_cache(engine, context, ref=ref), exported)


def test_an_unchanged_cache_is_exported_again(
    engine: Engine, context: Path, live_proxy: LiveProxy, repository: str
) -> None:
    ref = f"{live_proxy.address}/{repository}:cache"
    exported = export_cache(engine, context, ref=ref, form=LEGACY_OCI)
    assert exported.ok, exported.log
    engine.prune()
    # What a CI job does: it reads the cache of the job before and leaves its own for the next.
    job = engine.build(
        context,
        cache_from=f"type=registry,ref={ref}",
        cache_to=f"type=registry,ref={ref},mode=max",
    )
    assert_same_build(job, exported)
    assert_same_build(import_cache(engine, context, ref=ref), exported)


def test_a_cache_that_is_not_there_does_not_fail_the_build(
    engine: Engine, context: Path, live_proxy: LiveProxy, repository: str
) -> None:
    result = import_cache(engine, context, ref=f"{live_proxy.address}/{repository}:absent")
    assert result.ok, result.log
    assert not result.cached_steps
