"""Ranges that begin far ahead of what is there go straight upstream; others follow the fill."""

from __future__ import annotations

import asyncio
import os

import aiohttp
import pytest

from proxy.events import Kind
from proxy.oci import OCI_MANIFEST, Digest
from proxy.services.blobs import FAR_AHEAD
from proxy.standin import Fault, StandIn
from proxy.standin.faults import Armed
from tests.caches import Cache
from tests.running import RunningProxy

MIB = 1024 * 1024
BLOB = os.urandom(18 * MIB + 5)
DIGEST = Digest.of(BLOB)
PATH = f"/v2/app/blobs/{DIGEST}"
HELD_AT = 1 * MIB
FAR = HELD_AT + FAR_AHEAD + 1


@pytest.fixture(autouse=True)
def _seeded(standin: StandIn) -> None:
    cache = Cache.of(BLOB)
    for blob in cache.blobs:
        standin.state.put_blob("app", blob)
    standin.state.put_manifest("app", cache.image_manifest, OCI_MANIFEST)


def _range(first: int, end: int) -> dict[str, str]:
    return {"Range": f"bytes={first}-{end - 1}"}


def _downloads(standin: StandIn) -> list[str]:
    """The Range of each download."""
    return [
        r.header("Range") or "" for r in standin.requests if (r.server, r.method) == ("s3", "GET")
    ]


@pytest.mark.parametrize("ignored", [False, True], ids=["", "range ignored"])
@pytest.mark.parametrize("end", [len(BLOB), len(BLOB) - 100])
async def test_a_far_range_that_is_cut_is_continued_where_it_stood(
    standin: StandIn, proxy: RunningProxy, end: int, ignored: bool
) -> None:
    start = FAR_AHEAD + 1
    cut = 300_000 + (start if ignored else 0)
    standin.faults.add(Fault("s3", "GET", times=2, cut_after=cut, ignore_range=ignored))
    got = await proxy.client.ask("GET", PATH, headers=_range(start, end))
    assert (got.status, got.body == BLOB[start:end]) == (206, True)
    await proxy.stop()  # the request is over then, and asks for no more
    # Where ranges are ignored, the second cut comes before anything new.
    resumed = [start + 300_000, start + (300_000 if ignored else 600_000)]
    assert _downloads(standin) == [f"bytes={at}-{end - 1}" for at in (start, *resumed)]
    assert Kind.BYPASS in proxy.kinds()


async def test_a_far_range_that_cannot_be_continued_breaks_the_connection(
    standin: StandIn, proxy: RunningProxy
) -> None:
    standin.faults.add(Fault("s3", "GET", cut_after=1000))
    standin.faults.add(Fault("s3", "GET", cut_after=0, times=None))
    url = f"http://{proxy.address}{PATH}"
    async with proxy.client.session.get(url, headers=_range(FAR, len(BLOB))) as response:
        assert response.status == 206
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def _hold(standin: StandIn, proxy: RunningProxy) -> tuple[Armed, asyncio.Task[bytes]]:
    """A fill of which `HELD_AT` bytes have come, and its first reader."""
    held = standin.faults.add(Fault("s3", "GET", hold_at=HELD_AT))

    async def read() -> bytes:
        return (await proxy.client.ask("GET", PATH)).body

    reader = asyncio.create_task(read())
    await held.reached.wait()
    return held, reader


async def test_a_range_far_ahead_of_a_running_fill_goes_straight_upstream_unstored(
    standin: StandIn, proxy: RunningProxy
) -> None:
    held, reader = await _hold(standin, proxy)
    got = await proxy.client.ask("GET", PATH, headers=_range(FAR, FAR + 10))
    assert (got.status, got.body) == (206, BLOB[FAR : FAR + 10])
    # No more than that crosses the uplink.
    assert _downloads(standin) == ["", f"bytes={FAR}-{FAR + 9}"]
    assert Kind.STORED not in proxy.kinds()
    held.release()
    assert await reader == BLOB
    await proxy.until(Kind.STORED)
    assert len(_downloads(standin)) == 2


async def test_a_range_behind_a_running_fill_is_served_as_soon_as_its_bytes_are_there(
    standin: StandIn, proxy: RunningProxy
) -> None:
    held, reader = await _hold(standin, proxy)
    got = await proxy.client.ask("GET", PATH, headers=_range(1000, HELD_AT))
    assert (got.status, got.body) == (206, BLOB[1000:HELD_AT])
    url = f"http://{proxy.address}{PATH}"
    async with proxy.client.session.get(url, headers=_range(1000, 2 * MIB)) as ahead:
        assert await ahead.content.readexactly(HELD_AT - 1000) == BLOB[1000:HELD_AT]
        held.release()
        assert await ahead.read() == BLOB[HELD_AT : 2 * MIB]
    assert await reader == BLOB
    assert _downloads(standin) == [""]
