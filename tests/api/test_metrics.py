"""`GET /metrics` says what clients have caused."""

from __future__ import annotations

from proxy.events import Kind
from tests.running import Client, RunningProxy
from tests.test_metrics import samples

PREFIX = "ecr_cache_proxy_"


async def test_metrics_tell_of_a_push_and_a_hit(proxy: RunningProxy) -> None:
    before = await _ask(proxy)
    assert before[f"{PREFIX}cache_blobs"] == 0
    digest = await proxy.client.push_blob("app", bytes(100_000))
    assert (await proxy.client.ask("GET", f"/v2/app/blobs/{digest}")).status == 200
    seen = await _ask(proxy)
    assert seen[f"{PREFIX}events_total kind={Kind.PUSHED_BLOB.value}"] == 1
    assert seen[f"{PREFIX}events_total kind={Kind.HIT.value}"] == 1
    assert seen[f"{PREFIX}event_bytes_total kind={Kind.HIT.value}"] == 100_000
    assert seen[f"{PREFIX}cache_blobs"] == 1
    used = seen[f"{PREFIX}cache_bytes state=used"]
    assert used - before[f"{PREFIX}cache_bytes state=used"] >= 100_000
    assert seen[f"{PREFIX}cache_bytes state=limit"] == proxy.settings.cache_size
    assert seen[f"{PREFIX}cache_bytes state=reserved"] == 0
    for name in ("unknown_files", "degraded", "scanning"):
        assert seen[f"{PREFIX}cache_{name}"] == 0
    # A token was obtained before the first request, and is counted all the same.
    assert seen[f"{PREFIX}events_total kind={Kind.TOKEN.value}"] == 1


async def test_metrics_tell_how_many_connections_are_open(proxy: RunningProxy) -> None:
    name = f"{PREFIX}connections_open"
    assert (await _ask(proxy))[name] == 1
    other = Client(f"http://{proxy.address}")
    assert (await other.ask("GET", "/livez")).status == 200
    assert (await _ask(proxy))[name] == 2
    await other.close()
    while (await _ask(proxy))[name] != 1:
        pass


async def test_metrics_are_in_prometheus_text_format(proxy: RunningProxy) -> None:
    got = await proxy.client.ask("GET", "/metrics")
    assert got.status == 200
    assert got.media_type.startswith("text/plain; version=")
    assert b"# TYPE ecr_cache_proxy_events_total counter\n" in got.body


async def _ask(proxy: RunningProxy) -> dict[str, float]:
    return samples((await proxy.client.ask("GET", "/metrics")).body)
