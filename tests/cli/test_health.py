"""`health` as a container's check runs it: a process that asks a proxy, over HTTP or HTTPS."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trustme

from proxy.config import AccessSettings, RegistrySettings
from tests.certificates import Pair
from tests.cli.process import finished
from tests.running import running, settings_for

# Nothing is asked of it: whether there are credentials for it is what `/readyz` tells.
REGISTRY = RegistrySettings(name="registry.example", url="http://127.0.0.1:9")


async def _asked(*arguments: str, variable: str = "") -> tuple[int, str]:
    """Exit code and errors; `variable` is the address in the environment."""
    ask = partial(finished, ["health", *arguments], ECR_CACHE_PROXY_LISTEN=variable)
    done = await asyncio.to_thread(ask if variable else partial(finished, ["health", *arguments]))
    return done.returncode, done.stderr.decode()


async def test_a_proxy_that_is_well_is_success(tmp_path: Path) -> None:
    async with running(settings_for(REGISTRY, cache_dir=tmp_path)) as proxy:
        assert await _asked("--listen", proxy.address) == (0, "")
        assert await _asked("--live", variable=proxy.address) == (0, "")


async def test_it_needs_no_password(tmp_path: Path) -> None:
    closed = AccessSettings(tokens=(f"ci:sha256:{hashlib.sha256(b'token').hexdigest()}",))
    settings = replace(settings_for(REGISTRY, cache_dir=tmp_path), access=closed)
    async with running(settings) as proxy:
        assert (await proxy.client.ask("GET", "/v2/")).status == 401
        assert await _asked("--listen", proxy.address) == (0, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_a_proxy_that_listens_on_all_addresses_is_asked_on_loopback(
    tmp_path: Path, host: str
) -> None:
    settings = replace(settings_for(REGISTRY, cache_dir=tmp_path), host=host)
    async with running(settings) as proxy:
        assert await _asked("--listen", proxy.address) == (0, "")


async def test_a_proxy_that_speaks_https_is_asked_so_by_its_own_settings(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.write(trustme.CA())
    settings = settings_for(REGISTRY, cache_dir=tmp_path / "cache")
    async with running(replace(settings, tls=pair.settings())) as proxy:
        file = tmp_path / "settings.toml"
        file.write_text(
            f'listen = "{proxy.address}"\ntls-cert-file = "tls.crt"\ntls-key-file = "tls.key"\n'
        )
        assert await _asked("--config", str(file)) == (0, "")
        assert (await _asked("--listen", proxy.address))[0] == 1  # over plain HTTP


async def test_a_proxy_that_is_not_well_says_why(tmp_path: Path) -> None:
    host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    missing = RegistrySettings(name=host, ecr=True, profile="none-of-that-name")
    async with running(settings_for(missing, cache_dir=tmp_path)) as proxy:
        status, told = await _asked("--listen", proxy.address)
        assert status == 1
        assert "/readyz answers 503" in told
        assert host in told
        assert await _asked("--live", "--listen", proxy.address) == (0, "")


async def test_a_proxy_that_is_not_there_is_a_failure_and_a_mistake_is_told_from_it(
    tmp_path: Path,
) -> None:
    status, told = await _asked("--listen", "127.0.0.1:9")
    assert status == 1
    assert "does not answer" in told
    assert (await _asked("--listen", "127.0.0.1:0"))[0] == 2
    assert (await _asked("--tls-cert-file", "x"))[0] == 2
