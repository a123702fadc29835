"""Exports of caches to an upstream that is far away: how long they take, and how late replies are.

What pushes is tests.exporter, as BuildKit 0.11 does, or a Docker Engine.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.bench import servers
from tests.bench.measure import MB
from tests.bench.wire import Server
from tests.caches import Cache
from tests.clients.build import split
from tests.clients.engine import Engine, missing_for_engine
from tests.exporter import Export, Exporter

# A region away.
_LATENCY: Final = 0.03
_BANDWIDTH: Final = 20 * MB
_SLOW_UPLINK: Final = 20 * MB // 8
_REMEMBERED: Final = 200_000


def compare(place: Path, *, layers: int, size: int, seed: int) -> str:
    """A first export and others that change nothing, by three ways; what is to be printed."""
    cache = _cache([size] * layers, seed)
    rows: dict[str, dict[str, _Run]] = {}
    with servers.upstream(place / "upstream", recorded_requests=_REMEMBERED) as upstream:
        rows["no latency"] = _straight(upstream, "floor", cache)
        _move_far_away(upstream)
        rows["straight"] = _straight(upstream, "straight", cache)
        rows["proxy"] = through = {}
        folder = place / "proxy"
        with servers.proxy(folder, upstream) as proxy:
            for name in ("first", "again"):
                through[name] = _run(upstream, proxy.server, "through", cache)
        with servers.proxy(folder, upstream) as proxy:
            through["restarted"] = _run(upstream, proxy.server, "through", cache)
        with servers.proxy(folder, upstream) as proxy:
            through["imported"] = _run(upstream, proxy.server, "through", cache, imported=True)
        with servers.proxy(place / "other", upstream) as proxy:
            through["another"] = _run(upstream, proxy.server, "through", cache)
    return _table(_title("export", layers, size), rows)


def compare_by_engine(place: Path, *, layers: int, size: int, seed: int) -> str:
    """The same by a Docker Engine, which has built and compressed everything before."""
    if reason := missing_for_engine():
        return f"\n(no export by a Docker Engine: {reason})"
    context = _write_context(place / "context", layers, size, seed)
    rows: dict[str, dict[str, _Run]] = {}
    with (
        servers.upstream(place / "upstream", recorded_requests=_REMEMBERED) as upstream,
        servers.proxy(place / "proxy", upstream) as proxy,
        TemporaryDirectory(prefix="engine-") as folder,
        # A short name: the sockets in it may have 108 characters.
        Engine(Path(folder) / "engine") as engine,
    ):
        straight = upstream.server.url.removeprefix("http://")
        through = proxy.server.url.removeprefix("http://")
        assert upstream.server.login is not None
        username, password = upstream.server.login
        engine.login(straight, username=username, password=password)

        def twice(ref: str, form: str = "") -> dict[str, _Run]:
            return {
                name: _run_engine(engine, upstream, context, f"{ref}:cache{form}")
                for name in ("first", "again")
            }

        twice(f"{straight}/warm", _IMAGE_MANIFEST)
        rows["no latency"] = twice(f"{straight}/floor", _IMAGE_MANIFEST)
        _move_far_away(upstream)
        rows["straight"] = twice(f"{straight}/straight", _IMAGE_MANIFEST)
        rows["proxy"] = twice(f"{through}/through")
        engine.logout(straight)
    return _table(_title("export by a Docker Engine", layers, size), rows)


_IMAGE_MANIFEST: Final = ",image-manifest=true,oci-mediatypes=true"


def _write_context(folder: Path, layers: int, size: int, seed: int) -> Path:
    """A build that has so many layers, of so many bytes that do not compress."""
    folder.mkdir()
    rng = random.Random(seed)
    lines = ["FROM scratch"]
    for number in range(layers):
        (folder / f"file-{number}").write_bytes(rng.randbytes(size))
        lines.append(f"COPY file-{number} /")
    (folder / "Dockerfile").write_text("\n".join(lines))
    return folder


def _run_engine(engine: Engine, upstream: servers.Upstream, context: Path, ref: str) -> _Run:
    upstream.control("DELETE", "requests")
    done = engine.docker(
        *("buildx", "build", "--network=none", "--progress=rawjson", "--output=type=cacheonly"),
        *("--cache-to", f"type=registry,ref={ref}", context),
    )
    begun, ended = next(
        (vertex["started"], vertex["completed"])
        for event in split(done.log)
        if isinstance(event, dict)
        for vertex in event.get("vertexes") or ()
        if vertex["name"].startswith("exporting cache") and vertex.get("completed")
    )
    times = [datetime.fromisoformat(time) for time in (begun, ended)]
    return _Run((times[1] - times[0]).total_seconds(), _requests(upstream).total())


def _title(what: str, layers: int, size: int) -> str:
    away = f"{_LATENCY * 1000:.0f} ms and {_BANDWIDTH // MB} MB/s a connection away"
    return f"{what} of {layers} layers of {size // MB} MB, {away}"


def _move_far_away(upstream: servers.Upstream) -> None:
    fault = {"times": None, "latency": _LATENCY, "bandwidth": _BANDWIDTH}
    upstream.control("POST", "faults", fault)


@dataclass(frozen=True, slots=True)
class _Run:
    seconds: float
    requests: int  # that upstream saw
    longest_wait: float | None = None


def _straight(upstream: servers.Upstream, repository: str, cache: Cache) -> dict[str, _Run]:
    """In the form that ECR takes."""
    return {
        name: _run(upstream, upstream.server, repository, cache, image_manifest=True)
        for name in ("first", "again")
    }


def _run(
    upstream: servers.Upstream,
    server: Server,
    repository: str,
    cache: Cache,
    *,
    image_manifest: bool = False,
    imported: bool = False,
) -> _Run:
    """`imported`: the cache is looked up first, which is not timed, but counted."""
    upstream.control("DELETE", "requests")

    async def push() -> Export:
        async with Exporter(server.url, login=server.login) as exporter:
            if imported:
                await exporter.look_up(repository, "cache")
            return await exporter.export(repository, "cache", cache, image_manifest=image_manifest)

    export = asyncio.run(push())
    if export.failure is not None:
        raise AssertionError(export.failure)
    return _Run(export.seconds, _requests(upstream).total(), export.longest_wait)


def _requests(upstream: servers.Upstream) -> Counter[int]:
    """How many requests upstream saw, by the status of its answer."""
    counts: Counter[int] = Counter()
    for _, _, status, count in upstream.control("GET", "requests/counts"):
        counts[status or 0] += count
    return counts


_AGAIN: Final = {
    "first": "first",
    "again": "unchanged",
    "restarted": "unchanged, proxy restarted",
    "imported": "the same, imported first",
    "another": "unchanged, another proxy",
}


def _table(title: str, rows: dict[str, dict[str, _Run]]) -> str:
    lines = [f"\n{title} (s)"]
    for way, runs in rows.items():
        for name, run in runs.items():
            line = f"  {way:<12}{_AGAIN[name]:<28}{run.seconds:>7.2f}"
            line += f"   {run.requests:>4} requests upstream"
            if run.longest_wait is not None:
                line += f"   longest wait {run.longest_wait:.2f}"
            if way == "proxy":
                straight = rows["straight"].get(name, rows["straight"]["again"])
                line += f"   {run.seconds / straight.seconds:.2f} of straight"
            lines.append(line)
    return "\n".join(lines)


def over_slow_uplink(place: Path, *, sizes: Sequence[int], pushers: int = 4) -> str:
    """Exports at once with layers of these sizes over 20 Mbit/s that they share."""
    with _far(place, recorded_requests=_REMEMBERED) as (upstream, proxy):
        upstream.control("POST", "faults", {"times": None, "uplink": _SLOW_UPLINK})
        exports, seconds = asyncio.run(
            _all_at_once(
                pushers,
                lambda pusher: _push_each(proxy, [(f"slow/{pusher}", "cache", sizes, pusher)]),
            )
        )
    title = f"{pushers} exports of {sum(sizes) // MB} MB at once over 20 Mbit/s"
    return _waits(title, exports, seconds)


def throttled(place: Path, *, count: int, pushers: int = 8) -> str:
    """So many small exports, by so many who push one after the other without a pause."""
    with _far(place, recorded_requests=_REMEMBERED, rate_limits=True) as (upstream, proxy):
        jobs = iter([(f"many/{n % 5}", f"tag-{n}", (20_000, 40_000), n) for n in range(count)])
        exports, seconds = asyncio.run(_all_at_once(pushers, lambda _: _push_each(proxy, jobs)))
        refused = _requests(upstream)[429]
    title = f"{count} exports by {pushers} at ECR's rates, {refused} requests throttled"
    return _waits(title, exports, seconds)


@contextmanager
def _far(place: Path, **changes: Any) -> Iterator[tuple[servers.Upstream, Server]]:
    with (
        servers.upstream(place / "upstream", **changes) as upstream,
        servers.proxy(place / "proxy", upstream) as proxy,
    ):
        upstream.control("POST", "faults", {"times": None, "latency": _LATENCY})
        yield upstream, proxy.server


async def _all_at_once(
    pushers: int, push: Callable[[int], Coroutine[None, None, list[Export]]]
) -> tuple[list[Export], float]:
    """The exports, and the seconds until all of them were done."""
    begun = time.perf_counter()
    pushed = await asyncio.gather(*(push(number) for number in range(pushers)))
    return [export for exports in pushed for export in exports], time.perf_counter() - begun


async def _push_each(
    server: Server, jobs: Iterator[tuple[str, str, Sequence[int], int]] | Sequence[Any]
) -> list[Export]:
    """Repository, tag, sizes of layers and seed of each."""
    async with Exporter(server.url, login=server.login) as exporter:
        return [
            await exporter.export(repository, tag, _cache(sizes, seed))
            for repository, tag, sizes, seed in jobs
        ]


def _waits(title: str, exports: Sequence[Export], seconds: float) -> str:
    statuses = Counter(e.status for export in exports for e in export.exchanges)
    manifests = [export.longest_manifest_wait for export in exports]
    failures = [export.failure for export in exports if export.failure is not None]
    lines = [
        f"\n{title} (s)",
        f"  longest wait for a reply          {max(e.longest_wait for e in exports):>7.2f}",
        f"  longest wait for a manifest's     {max(manifests):>7.2f}",
        f"  longest export                    {max(e.seconds for e in exports):>7.2f}",
        f"  all of them                       {seconds:>7.2f}",
        f"  failed: {len(failures)} of {len(exports)}; replies by status: "
        + ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())),
    ]
    texts = (f"  {e.method} {e.path}: {e.status} {e.error}" for e in failures[:3])
    return "\n".join([*lines, *texts])


def _cache(sizes: Sequence[int], seed: int) -> Cache:
    rng = random.Random(seed)
    return Cache.of(*(rng.randbytes(size) for size in sizes))
