"""What tests start, and what they talk to, is watched: none is a blind spot by oversight."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from proxy.config import AccessSettings
from proxy.demo import registry_of
from proxy.standin import StandIn
from tests.canaries.values import CLIENT_HEADERS
from tests.canaries.watch import WATCH
from tests.running import RunningProxy, running, settings_for, straight_to

TESTS = Path(__file__).parent.parent

# Whoever starts processes without the watch, and why nothing of the proxy's is to be heard there.
UNWATCHED = {
    "bench/servers.py": "measures, and is no test",
    "cache/test_store.py": "a store alone: it has no secrets",
    "clients/engine.py": "the Docker Engine's daemons",
    "cli/test_cache.py": "commands on a cache: they have no secrets",
    "cli/test_users.py": "makes tokens and passwords, which are its output",
    "clients/test_logins.py": "starts clients; the proxy is tests.clients.serving's",
    "cli/test_rewrite.py": "a command on a manifest: it has no secrets",
    "crash/conftest.py": "mount",
    "crash/test_watcher.py": "du",
    "fuzz/upstreams.py": "an upstream, and no proxy",
    "test_file_limit.py": "a function of ours alone: it has no secrets",
    "test_checks.py": "lint and types",
}


def test_what_starts_processes_watches_them_or_is_known() -> None:
    starts = re.compile(r"subprocess\.(?:run|Popen)\(|create_subprocess_exec\(")
    found = set()
    for path in TESTS.rglob("*.py"):
        text = path.read_text()
        if starts.search(text) and not re.search(r"WATCH|Lines\(", text) and path != Path(__file__):
            found.add(str(path.relative_to(TESTS)))
    assert found == set(UNWATCHED)


async def test_a_client_of_a_proxy_has_secrets_unless_it_has_to_log_in(
    standin: StandIn, tmp_path: Path
) -> None:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    assert settings.access == AccessSettings()
    async with running(settings) as proxy:
        sent = proxy.client.session.headers["Authorization"]
        assert sent == CLIENT_HEADERS["Authorization"]


async def test_what_the_stand_in_says_to_its_own_clients_is_not_the_proxys(
    standin: StandIn,
) -> None:
    searched = WATCH.searched["replies"]
    async with straight_to(standin) as straight:
        found = await straight.ask("GET", "/_standin/credentials")
    assert standin.secret_access_key.encode() in found.body
    assert WATCH.searched["replies"] == searched
    assert not WATCH.leaks


async def test_every_reply_of_a_proxy_is_searched_whoever_asked(
    standin: StandIn, tmp_path: Path
) -> None:
    settings = settings_for(registry_of(standin), cache_dir=tmp_path / "cache")
    async with running(settings) as proxy:
        for _ in range(3):
            searched = WATCH.searched["replies"]
            await _ask_by_hand(proxy)
            assert WATCH.searched["replies"] > searched


async def _ask_by_hand(proxy: RunningProxy) -> None:
    async with proxy.client.session.get(f"http://{proxy.address}/v2/") as response:
        assert response.status == 200  # and nobody reads it


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("proxy.anything", logging.DEBUG),
        ("proxy.access_log", logging.DEBUG),
        ("aiohttp.access", logging.INFO),
        ("asyncio", logging.INFO),
        ("botocore.auth", logging.INFO),
    ],
)
def test_loggers_are_heard_as_far_as_the_program_lets_them_speak(name: str, level: int) -> None:
    searched = WATCH.searched["log"]
    logging.getLogger(name).log(level, "heard")
    assert WATCH.searched["log"] == searched + 1
