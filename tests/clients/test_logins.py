"""Real clients log in to the proxy over TLS, in each way that it offers, and with no other right
than the rules give them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest
import trustme

from proxy.standin import StandIn

from .command import CommandFailed
from .containers import Buildah, Skopeo
from .engine import Engine
from .oci_layout import manifest_digest, write_image
from .serving import ServedProxy

PASSWORD = "the password of the user ci"
RULES = """
[[rule]]
users = "ci"
repositories = "clients/*"
allow = ["pull", "push", "delete"]

[[rule]]
users = "fork"
repositories = "clients/*"
allow = ["pull"]
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to log in: what the client is given beside the address."""

    proxy: ServedProxy
    certificates: Path
    password: str = ""

    @property
    def address(self) -> str:
        return self.proxy.address


def _token(user: str, file: Path) -> str:
    """As a person makes one."""
    command = [sys.executable, "-m", "proxy", "token", user, "--file", str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _client_certificate(authority: trustme.CA, user: str, folder: Path) -> None:
    made = authority.issue_cert("client.example", common_name=user)
    made.private_key_pem.write_to_path(str(folder / "client.key"))
    (folder / "client.cert").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))


def _write_users(folder: Path) -> None:
    folder.mkdir()
    users = {"ci": PASSWORD, "fork": "fork"}
    lines = [f"{user}:{_hashed(password)}\n" for user, password in users.items()]
    (folder / "htpasswd").write_text("".join(lines))


def _hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()


@pytest.fixture(params=["password", "token", "certificate"])
def way(request: pytest.FixtureRequest, standin: StandIn, tmp_path: Path) -> Iterator[Way]:
    """A proxy that serves TLS and takes all three, and the user `ci` with one of them."""
    folder, certificates = tmp_path / "proxy", tmp_path / "certificates"
    _write_users(folder)
    certificates.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(certificates / "ca.crt"))
    served = authority.issue_cert("127.0.0.1")
    served.private_key_and_cert_chain_pem.write_to_path(str(folder / "tls.pem"))
    (folder / "clients.pem").write_bytes((certificates / "ca.crt").read_bytes())
    token = _token("ci", folder / "tokens")
    if request.param == "certificate":
        _client_certificate(authority, "ci", certificates)
    settings = """
tls-cert-file = "tls.pem"
tls-key-file = "tls.pem"
tls-client-ca-file = "clients.pem"
htpasswd-file = "htpasswd"
token-file = "tokens"
"""
    proxy = ServedProxy(folder, standin, settings, RULES)
    proxy.start()
    try:
        passwords = {"password": PASSWORD, "token": token, "certificate": ""}
        yield Way(proxy, certificates, passwords[request.param])
    finally:
        proxy.stop()


def test_skopeo_logs_in_copies_and_lists(
    skopeo: Skopeo, tmp_path: Path, way: Way, repository: str
) -> None:
    skopeo.certificates = way.certificates
    if way.password:
        skopeo.login(way.address, "ci", way.password)
    pushed = write_image(tmp_path / "image", tag="v1")
    remote = f"docker://{way.address}/{repository}"
    skopeo.copy(f"oci:{tmp_path}/image:v1", f"{remote}:v1")
    skopeo.copy(f"{remote}:v1", f"oci:{tmp_path}/back:v1")
    assert manifest_digest(tmp_path / "back") == pushed
    assert skopeo.tags(remote) == {"v1"}


def test_buildah_logs_in_pushes_and_pulls(
    buildah: Buildah, tmp_path: Path, way: Way, repository: str
) -> None:
    buildah.certificates = way.certificates
    if way.password:
        buildah.login(way.address, "ci", way.password)
    files = tmp_path / "files"
    files.mkdir()
    (files / "data").write_bytes(os.urandom(50_000))
    buildah.make_image("localhost/made", files=files)
    pushed = buildah.push("localhost/made", f"docker://{way.address}/{repository}:v1")
    buildah.remove_all_images()
    assert buildah.pull(f"docker://{way.address}/{repository}:v1") == pushed


def test_docker_logs_in_builds_and_containerd_pulls(
    engine: Engine, context: Path, way: Way, repository: str
) -> None:
    engine.trust(way.address, way.certificates)
    if way.password:
        engine.login(way.address, username="ci", password=way.password)
    remote = f"{way.address}/{repository}"
    exported = engine.build(
        context, tag=f"{remote}:v1", cache_to=f"type=registry,ref={remote}:cache,mode=max"
    )
    assert exported.ok, exported.log
    engine.push(f"{remote}:v1")
    engine.prune()
    imported = engine.build(context, cache_from=f"type=registry,ref={remote}:cache")
    assert imported.fully_cached, imported.log
    engine.pull(f"{remote}:v1")
    user = f"ci:{way.password}" if way.password else ""
    engine.pull_by_containerd(f"{remote}:v1", certificates=way.certificates, user=user)


@pytest.mark.parametrize("way", ["password"], indirect=True)
def test_who_has_not_logged_in_or_with_a_wrong_password_hears_so(
    skopeo: Skopeo, engine: Engine, tmp_path: Path, way: Way, repository: str
) -> None:
    skopeo.certificates = way.certificates
    write_image(tmp_path / "image", tag="v1")
    with pytest.raises(CommandFailed, match="authentication required"):
        skopeo.copy(f"oci:{tmp_path}/image:v1", f"docker://{way.address}/{repository}:v1")
    with pytest.raises(CommandFailed, match="invalid username"):
        skopeo.login(way.address, "ci", "a wrong password")
    engine.trust(way.address, way.certificates)
    # On loopback docker tries plain HTTP after it was refused, and tells of that alone.
    with pytest.raises(CommandFailed, match="400 Bad Request"):
        engine.login(way.address, username="ci", password="a wrong password")


@pytest.mark.parametrize("way", ["password"], indirect=True)
def test_a_build_of_a_fork_reads_the_cache_and_cannot_write_it(
    engine: Engine, context: Path, way: Way, repository: str
) -> None:
    ref = f"{way.address}/{repository}:cache"
    engine.trust(way.address, way.certificates)
    engine.login(way.address, username="ci", password=way.password)
    exported = engine.build(context, cache_to=f"type=registry,ref={ref},mode=max")
    assert exported.ok, exported.log
    engine.prune()
    engine.login(way.address, username="fork", password="fork")
    fork = engine.build(
        context,
        cache_from=f"type=registry,ref={ref}",
        cache_to=f"type=registry,ref={ref},mode=max,ignore-error=true",
    )
    assert fork.fully_cached, fork.log
    with (context / "source.txt").open("a") as source:
        source.write("what a fork would have others build with\n")
    refused = engine.build(context, cache_to=f"type=registry,ref={ref},mode=max")
    assert not refused.ok
    assert "denied" in refused.log.lower() or "403" in refused.log
    engine.prune()
    with (context / "source.txt").open("r+") as source:
        kept = source.read().replace("what a fork would have others build with\n", "")
        source.seek(0)
        source.truncate()
        source.write(kept)
    again = engine.build(context, cache_from=f"type=registry,ref={ref}")
    assert again.fully_cached, again.log


def test_docker_logs_in_over_plain_http_on_loopback(
    engine: Engine, standin: StandIn, tmp_path: Path, context: Path, repository: str
) -> None:
    _write_users(tmp_path / "proxy")
    proxy = ServedProxy(tmp_path / "proxy", standin, 'htpasswd-file = "htpasswd"')
    proxy.start()
    try:
        cache = f"type=registry,ref={proxy.address}/{repository}:cache"
        with pytest.raises(CommandFailed, match="401 Unauthorized"):
            engine.login(proxy.address, username="ci", password="a wrong password")
        assert not engine.build(context, cache_to=f"{cache},mode=max").ok
        engine.login(proxy.address, username="ci", password=PASSWORD)
        exported = engine.build(context, cache_to=f"{cache},mode=max")
        assert exported.ok, exported.log
        engine.prune()
        imported = engine.build(context, cache_from=cache)
        assert imported.fully_cached, imported.log
    finally:
        proxy.stop()
