"""Images that a Docker Engine pushes and pulls through the proxy."""

from pathlib import Path

from .engine import Engine
from .surroundings import LiveProxy


def test_an_image_pushed_through_the_proxy_is_pulled_again(
    engine: Engine, context: Path, live_proxy: LiveProxy, repository: str
) -> None:
    image = f"{live_proxy.address}/{repository}:v1"
    # BuildKit adds a provenance attestation, so this is an index of two manifests: an index that is
    # no build cache, and must stay as it is.
    built = engine.build(context, tag=image)
    assert built.ok, built.log
    pushed = engine.image_id(image)
    engine.push(image)

    engine.prune()
    assert pushed in engine.pull(image).log
    assert engine.image_id(image) == pushed


def test_an_image_is_pulled_through_a_proxy_with_an_empty_disk(
    engine: Engine, context: Path, live_proxy: LiveProxy, repository: str
) -> None:
    image = f"{live_proxy.address}/{repository}:v1"
    built = engine.build(context, tag=image)
    assert built.ok, built.log
    pushed = engine.image_id(image)
    engine.push(image)

    engine.prune()
    live_proxy.restart(empty_cache=True)
    by_digest = f"{live_proxy.address}/{repository}@{pushed}"
    engine.pull(by_digest)
    assert engine.image_id(by_digest) == pushed


def test_a_build_starts_from_an_image_behind_the_proxy(
    engine: Engine, context: Path, live_proxy: LiveProxy, repository: str
) -> None:
    image = f"{live_proxy.address}/{repository}:base"
    built = engine.build(context, tag=image)
    assert built.ok, built.log
    engine.push(image)

    engine.prune()
    (context / "Dockerfile").write_text(
        f'FROM {image}\nRUN ["/bin/busybox", "test", "-s", "/result"]\n'
    )
    derived = engine.build(context)
    assert derived.ok, derived.log


def test_an_image_that_is_not_there_is_said_to_be_not_found(
    engine: Engine, live_proxy: LiveProxy, repository: str
) -> None:
    outcome = engine.pull(f"{live_proxy.address}/{repository}:absent", check=False)
    assert not outcome.ok
    assert "not found" in outcome.log
