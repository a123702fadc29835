"""Who gets which form of a cache: BUILDKIT.md, "User-Agents", and what real clients sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.buildcache import Want
from proxy.handlers.viewer import Show, asks_to_push, choose
from proxy.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

TRACES = Path(__file__).parent.parent / "vectors" / "traces"

ALL = f"{DOCKER_MANIFEST}, {DOCKER_LIST}, {OCI_MANIFEST}, {OCI_INDEX}, */*"
OLD = "buildkit/v0.11"
NEW = "buildkit/v0.12"
DOCKER = (
    "docker/26.1.5+dfsg1 go/go1.24.4 git-commit/411e817 kernel/6.18 os/linux arch/amd64 "
    "containerd-client/1.7.24+unknown storage-driver/overlayfs UpstreamClient(Go-http-client/1.1)"
)


@pytest.mark.parametrize(
    ("user_agent", "want"),
    [
        # BUILDKIT.md's table
        ("containerd/1.4.0+unknown", Want.LEGACY),
        ("buildkit/v0.10", Want.LEGACY),
        ("buildkit/v0.11", Want.LEGACY),
        ("buildkit/v0.32", Want.STORED),
        ("buildkit/v0.12 moby/v25.0", Want.STORED),
        ("buildkit/0.0.0+unknown", Want.LEGACY),
        ("buildkit/v0.11-dev", Want.LEGACY),
        ("buildkit/v0.12", Want.STORED),
        ("buildkit/v0.13", Want.STORED),
        ("buildkit/v0.16 moby/v27.3", Want.STORED),
        ("buildkit/v0.0-dev", Want.LEGACY),
        # and around it
        ("buildkit/v0.12-dev", Want.STORED),
        ("buildkit/v0.9", Want.LEGACY),
        ("buildkit/v0.100", Want.STORED),
        ("buildkit/v0.12.5", Want.STORED),
        ("buildkit/0.12", Want.STORED),
        ("buildkit/v1.0", Want.STORED),
        ("buildkit/v1.0-rc1", Want.STORED),
        ("buildkit/v0.11 moby/v24.0", Want.LEGACY),
        ("buildkit/v0.0+unknown moby/v25.0", Want.LEGACY),
        # a BuildKit whose version says nothing is better off with what every version reads
        ("buildkit/", Want.LEGACY),
        ("buildkit", Want.LEGACY),
        ("buildkit/v0", Want.LEGACY),
        ("buildkit/v.12", Want.LEGACY),
        ("buildkit/master", Want.LEGACY),
        ("buildkit/v0.x", Want.LEGACY),
        ("buildkit/v٠.١٢", Want.LEGACY),
        ("buildkit/v0." + "9" * 5000, Want.LEGACY),
        # inside another program
        ("docker/24.0.7 go/go1.20 buildkit/v0.11", Want.LEGACY),
        ("docker/26.1 go/go1.21 buildkit/v0.13", Want.STORED),
        ("docker/24.0.7 UpstreamClient(buildkit/v0.11)", Want.STORED),
        ("docker/24.0.7 UpstreamClient(Docker-Client/24 buildkit/v0.11 x)", Want.STORED),
        # containerd itself, and what is built on it
        ("containerd/1.6.20~ds1", Want.STORED),
        ("containerd/v1.7.24", Want.STORED),
        ("containerd/2.0.0+unknown", Want.LEGACY),
        ("containerd", Want.STORED),
        ("mycontainerd/1.4.0+unknown", Want.STORED),
        # everyone else
        (DOCKER, Want.STORED),
        ("skopeo/1.9.3", Want.STORED),
        ("Go-http-client/1.1", Want.STORED),
        ("crane/v0.20 go-containerregistry/v0.20", Want.STORED),
        ("notbuildkit/v0.11", Want.STORED),
        ("", Want.STORED),
        (" \t( ) ((", Want.STORED),
    ],
)
def test_the_user_agent_says_which_form_is_read(user_agent: str, want: Want) -> None:
    assert choose([ALL], user_agent, peer=False) is want
    assert choose([], user_agent, peer=False) is want
    assert choose(["*/*"], user_agent, peer=False) is want


SINGLE = [
    ([f"{OCI_INDEX}, */*"], Want.OCI_INDEX),
    ([f"{DOCKER_LIST}, */*"], Want.DOCKER_LIST),
    ([f"{OCI_MANIFEST}, */*"], Want.IMAGE_MANIFEST),
    ([OCI_INDEX], Want.OCI_INDEX),
    ([f"*/*, {OCI_INDEX}"], Want.OCI_INDEX),
    ([OCI_INDEX, "*/*"], Want.OCI_INDEX),
    (["*/*", f" {OCI_INDEX} "], Want.OCI_INDEX),
    ([f"{OCI_INDEX},application/*"], Want.OCI_INDEX),
    ([f"{OCI_INDEX},, ,{OCI_INDEX}"], Want.OCI_INDEX),
    ([f"{OCI_INDEX.upper()}, */*"], Want.OCI_INDEX),
    ([f"{OCI_INDEX};q=0.5, */*;q=0.1"], Want.OCI_INDEX),
    ([f"{OCI_INDEX} ; charset=utf-8"], Want.OCI_INDEX),
    ([f"{OCI_INDEX}, {OCI_MANIFEST};q=0"], Want.OCI_INDEX),
    ([f"{OCI_INDEX}, {OCI_MANIFEST} ; Q=0.000"], Want.OCI_INDEX),
    ([f"{OCI_INDEX};q=high"], Want.OCI_INDEX),
    # no form of a cache: a pusher of something else, who only compares digests
    ([f"{DOCKER_MANIFEST}, */*"], Want.STORED),
    (["application/vnd.docker.distribution.manifest.v1+prettyjws"], Want.STORED),
    (["application/json"], Want.STORED),
    (["nonsense"], Want.STORED),
]


@pytest.mark.parametrize("user_agent", [OLD, NEW, DOCKER, "containerd/1.4.0+unknown", ""])
@pytest.mark.parametrize(("accept", "want"), SINGLE)
def test_a_single_type_is_what_its_asker_means(
    accept: list[str], want: Want, user_agent: str
) -> None:
    assert choose(accept, user_agent, peer=False) is want


@pytest.mark.parametrize(
    "accept",
    [
        [],
        [""],
        ["*/*"],
        ["application/*, */*;q=0.1"],
        [f"{OCI_INDEX}, {OCI_MANIFEST}"],
        [OCI_INDEX, OCI_MANIFEST],
        [f"{OCI_INDEX}, {OCI_MANIFEST};q=0.001, */*"],
        [f"{OCI_INDEX};q=0, */*"],
        [f"{OCI_INDEX}, application/json"],
        [ALL],
    ],
)
def test_several_types_or_none_leave_it_to_the_user_agent(accept: list[str]) -> None:
    assert choose(accept, OLD, peer=False) is Want.LEGACY
    assert choose(accept, NEW, peer=False) is Want.STORED


@pytest.mark.parametrize(
    ("show", "want"),
    [("stored", Want.STORED), ("index", Want.LEGACY), ("image-manifest", Want.IMAGE_MANIFEST)],
)
@pytest.mark.parametrize("user_agent", [OLD, NEW, DOCKER])
@pytest.mark.parametrize("accept", [ALL, OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, ""])
def test_a_form_can_be_forced_on_everyone(
    show: Show, want: Want, user_agent: str, accept: str
) -> None:
    assert choose([accept], user_agent, peer=False, show=show) is want


@pytest.mark.parametrize("show", ["auto", "stored", "index", "image-manifest"])
@pytest.mark.parametrize("accept", [ALL, OCI_INDEX, ""])
def test_a_peer_gets_what_is_stored_whatever_is_forced(show: Show, accept: str) -> None:
    """It converts for its own clients, so that they see what they would see with one proxy."""
    assert choose([accept], OLD, peer=True, show=show) is Want.STORED


@settings(deadline=None)
@given(st.lists(st.text(), max_size=3), st.text())
def test_no_header_makes_the_choice_fail(accept: list[str], user_agent: str) -> None:
    assert choose(accept, user_agent, peer=False) in Want
    assert choose(accept, f"buildkit/{user_agent}", peer=False) in Want


def _asked_by_tag(name: str) -> set[tuple[str, str]]:
    """User-Agent and Accept of every HEAD of the cache's tag in a trace."""
    found = set()
    for line in (TRACES / f"{name}.jsonl").read_text().splitlines():
        record = json.loads(line)
        headers = dict(record["request_headers"])
        if record["method"] == "HEAD" and record["path"].endswith("/manifests/cache"):
            found.add((headers["User-Agent"], headers["Accept"]))
    return found


@pytest.mark.parametrize(
    ("trace", "wants"),
    [
        ("v0.8.3-export-oci", {Want.OCI_INDEX}),
        ("v0.8.3-export-docker", {Want.DOCKER_LIST}),
        ("v0.8.3-reexport-docker", {Want.DOCKER_LIST}),
        ("v0.8.3-import-oci", {Want.LEGACY}),
        ("v0.8.3-import-docker", {Want.LEGACY}),
        ("v0.11.6-export-oci", {Want.OCI_INDEX}),
        ("v0.11.6-export-min", {Want.OCI_INDEX}),
        ("v0.11.6-export-docker", {Want.DOCKER_LIST}),
        ("v0.11.6-reexport-oci", {Want.OCI_INDEX}),
        ("v0.11.6-import-oci", {Want.LEGACY}),
        ("v0.11.6-import-docker", {Want.LEGACY}),
        ("v0.11.6-import-image-manifest", {Want.LEGACY}),
        ("v0.12.5-export-oci", {Want.OCI_INDEX}),
        ("v0.12.5-export-image-manifest", {Want.IMAGE_MANIFEST}),
        ("v0.12.5-import-image-manifest", {Want.STORED}),
        ("docker26-export-default", {Want.OCI_INDEX, Want.LEGACY}),
    ],
)
def test_recorded_clients_are_told_apart(trace: str, wants: set[Want]) -> None:
    asked = _asked_by_tag(trace)
    assert {choose([accept], agent, peer=False) for agent, accept in asked} == wants


@pytest.mark.parametrize(
    ("accept", "pushes"),
    [
        ([f"{OCI_MANIFEST}, */*"], True),
        ([OCI_INDEX, "*/*"], True),
        ([f"{DOCKER_MANIFEST};q=0.5, {OCI_INDEX};q=0"], True),
        ([ALL], False),
        ([f"{OCI_MANIFEST}, {OCI_INDEX}"], False),
        (["*/*"], False),
        ([], False),
    ],
)
def test_who_accepts_one_type_alone_is_about_to_push(accept: list[str], pushes: bool) -> None:
    assert asks_to_push(accept) is pushes
