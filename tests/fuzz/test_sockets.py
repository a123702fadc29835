"""A short campaign over sockets, each time: what clients send, and what a registry answers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import clients, upstreams
from tests.fuzz.outcome import Outcome, table
from tests.fuzz.processes import running
from tests.fuzz.requests import Sent
from tests.fuzz.wire import Connections

_NEW = random.SystemRandom().randrange(2**32)
_SEEDS = [1, pytest.param(_NEW, id="new")]


def _judge(outcome: Outcome, seed: int) -> None:
    print(f"seed {seed}\n{table([outcome])}")
    findings = [str(finding) for finding in outcome.findings]
    assert not findings, "\n".join((f"seed {seed}", *findings))


@pytest.mark.parametrize("seed", _SEEDS)
async def test_whatever_clients_send_is_answered_or_ended(seed: int) -> None:
    outcome = await clients.run(2500, seed)
    _judge(outcome, seed)
    assert {"200", "201", "202", "206", "400", "404"} <= set(outcome.replies)


@pytest.mark.parametrize("seed", _SEEDS)
async def test_whatever_upstream_answers_is_no_fault_of_the_proxy(seed: int) -> None:
    outcome = await upstreams.run(400, seed)
    _judge(outcome, seed)
    assert {"200", "404", "502"} <= set(outcome.replies)


async def test_what_must_not_happen_would_be_found(tmp_path: Path) -> None:
    """A registry that is not there: each request that needs it is a 502, and told as a finding."""
    config = tmp_path / "proxy.toml"
    config.write_text('[[registry]]\nurl = "http://127.0.0.1:9"\n')
    outcome = Outcome("no upstream")
    with running(
        tmp_path / "proxy", tuning={"attempts": 1}, flags={"config": str(config)}
    ) as proxy:
        asked = Sent("GET", b"GET /v2/app/manifests/t HTTP/1.1\r\nHost: a\r\n\r\n", sound=True)
        await Connections(proxy.port, outcome, lambda: asked, count=1).run(8)
        (tmp_path / "proxy" / "cwd" / "written").touch()
        (tmp_path / "proxy" / "cache" / "blobs" / "sha256" / "ab").mkdir(parents=True)
        wrong = tmp_path / "proxy" / "cache" / "blobs" / "sha256" / "ab" / ("ab" + "0" * 62)
        wrong.write_bytes(b"other bytes")
        (tmp_path / "proxy" / "cache" / "odd").touch()
        (tmp_path / "proxy" / "cache" / "link").symlink_to("/")
        proxy.judge(outcome)
    found = " ".join(outcome.found)
    for words in (
        "status 502",
        "it wrote outside of its cache",
        "a blob that does not hash to its name",
        "that is not ours: odd",
        "a link in the cache: link",
    ):
        assert words in found, found
