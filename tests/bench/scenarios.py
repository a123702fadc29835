"""What is measured: each scenario seeds what it needs, and prints its table."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from proxy.oci import Digest
from tests.bench import eviction as simulation
from tests.bench import exports, servers
from tests.bench.content import Content
from tests.bench.load import replies_per_second
from tests.bench.measure import MB, Contender, compare, report
from tests.bench.wire import Server, pull, pull_rate, push, push_manifest, timed

_REPOSITORY: Final = "bench/app"
_CLIENTS: Final = 8
_PUSHED: Final = 64 * MB
_SMALL: Final = 2_000
_ASKERS: Final = 16


@dataclass(frozen=True, slots=True)
class Bench:
    """Where to work and how long."""

    folder: Path
    rounds: int
    seconds: float  # of small requests, a contender and round
    blob: int  # bytes of the blob that is pulled
    large: int  # bytes of the blob that memory is tried with
    quick: bool  # whether part of what could be measured will do

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A folder for one scenario, gone when it is over."""
        with TemporaryDirectory(dir=self.folder, prefix="bench-") as name:
            yield Path(name)


def hit(bench: Bench) -> None:
    """A cached blob, beside servers that have it as a file."""
    content = Content(bench.blob)
    with _everybody(bench) as (proxy, nginx, registry, _):
        path = _blob_path(content.digest)
        push(proxy, _REPOSITORY, content)
        places = {"proxy": (proxy, path)}
        if nginx is not None:
            place, files = nginx
            _write(files / "blob", content)
            places["nginx"] = (place, "/blob")
        if registry is not None:
            push(registry, _REPOSITORY, content)
            places["docker-registry"] = (registry, path)
        for clients in (1, _CLIENTS):
            compare(
                f"cached blob of {bench.blob // MB} MB, {clients} at once",
                "MB/s in all",
                [
                    Contender(name, _pulling(server, path, content.size, clients))
                    for name, (server, path) in places.items()
                ],
                bench.rounds,
            )


def _pulling(server: Server, path: str, size: int, clients: int) -> Callable[[int], float]:
    return lambda _: pull_rate(server, path, size, clients=clients) / MB


def small(bench: Bench) -> None:
    """Small replies per second, by 16 connections."""
    layer, config = Content(_SMALL), Content(_SMALL)
    manifest = _manifest(config, layer)
    with _everybody(bench) as (proxy, nginx, registry, straight):
        digest = Digest.of(manifest)
        for server in (proxy, registry):
            if server is not None:
                push(server, _REPOSITORY, layer)
                push(server, _REPOSITORY, config)
                push_manifest(server, _REPOSITORY, "latest", manifest)
        if nginx is not None:
            _, files = nginx
            _write(files / "blob", layer)
            (files / "manifest").write_bytes(manifest)
        by_tag = f"/v2/{_REPOSITORY}/manifests/latest"
        by_digest = f"/v2/{_REPOSITORY}/manifests/{digest}"
        blob = _blob_path(layer.digest)
        for title, method, path, file in (
            (
                "HEAD manifest by tag, asked upstream; those who ask at once share",
                "HEAD",
                by_tag,
                "/manifest",
            ),
            ("GET manifest by digest", "GET", by_digest, "/manifest"),
            ("GET blob of 2 kB", "GET", blob, "/blob"),
        ):
            places = {"proxy": (proxy, path)}
            if nginx is not None:
                places["nginx"] = (nginx[0], file)
            if registry is not None:
                places["docker-registry"] = (registry, path)
            if method == "HEAD":
                places["straight"] = (straight, path)
            compare(
                title,
                "replies/s",
                [
                    Contender(name, _asking(server, method, path, bench.seconds))
                    for name, (server, path) in places.items()
                ],
                bench.rounds,
            )


def _asking(server: Server, method: str, path: str, seconds: float) -> Callable[[int], float]:
    headers = {"Accept": "application/vnd.oci.image.manifest.v1+json, */*", **server.headers}
    return lambda _: replies_per_second(
        server.url, path, method=method, headers=headers, seconds=seconds, clients=_ASKERS
    )


def cold(bench: Bench) -> None:
    """Blobs that the proxy has not got, beside a pull straight from the stand-in."""
    with _proxy_and_upstream(bench) as (proxy, straight):
        for clients in (1, _CLIENTS):
            contents = [_seeded(straight, bench.blob) for _ in range(bench.rounds)]
            compare(
                f"cold blob of {bench.blob // MB} MB, {clients} at once",
                "MB/s in all",
                [
                    Contender("proxy", _pulling_each(proxy, contents, clients)),
                    Contender("straight", _pulling_each(straight, contents, clients)),
                ],
                bench.rounds,
            )


def _pulling_each(
    server: Server, contents: Sequence[Content], clients: int
) -> Callable[[int], float]:
    def run(number: int) -> float:
        content = contents[number]
        return pull_rate(server, _blob_path(content.digest), content.size, clients=clients) / MB

    return run


def pushes(bench: Bench) -> None:
    """Blobs of 64 MB pushed through the proxy, beside straight to the stand-in."""
    with _proxy_and_upstream(bench) as (proxy, straight):
        for title, chunked in (
            ("pushed blob of 64 MB, POST and PUT", False),
            ("pushed blob of 64 MB, POST, chunked PATCH, PUT", True),
        ):
            compare(
                title,
                "MB/s",
                [
                    Contender("proxy", _pushing(proxy, chunked)),
                    Contender("straight", _pushing(straight, chunked)),
                ],
                bench.rounds,
            )


def _pushing(server: Server, chunked: bool) -> Callable[[int], float]:
    def run(_: int) -> float:
        content = Content(_PUSHED)
        seconds = timed(lambda: push(server, _REPOSITORY, content, chunked=chunked))
        return _PUSHED / seconds / MB

    return run


def memory(bench: Bench) -> None:
    """The proxy's resident memory at its highest, which must not grow with a blob's size."""
    rows = []
    with bench.place() as place, servers.upstream(place / "upstream") as upstream:
        for size in (64 * MB, bench.large):
            with servers.proxy(place / f"proxy-{size}", upstream) as proxy:
                for name, work in _steps(proxy.server, _seeded(upstream.server, size)):
                    proxy.forget_peak()
                    work()
                    rows.append((f"{size // MB} MB blob: {name}", [proxy.peak_mb()]))
            shutil.rmtree(place / f"proxy-{size}")
    report("resident memory of the proxy at its highest", "MB", rows)


def _steps(proxy: Server, seeded: Content) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is done one after the other with blobs of one size."""
    path, size = _blob_path(seeded.digest), seeded.size
    yield "at rest", lambda: None
    yield "cold pull", lambda: pull(proxy, path, size)
    yield "hit", lambda: pull(proxy, path, size)
    yield f"hit, {_CLIENTS} at once", lambda: pull_rate(proxy, path, size, clients=_CLIENTS)
    yield "push, PUT", lambda: push(proxy, _REPOSITORY, Content(size))
    yield "push, chunked PATCH", lambda: push(proxy, _REPOSITORY, Content(size), chunked=True)


def start(bench: Bench) -> None:
    """From the command to the line that says where the proxy listens."""
    seconds = []
    with bench.place() as place, servers.upstream(place / "upstream") as upstream:
        for number in range(bench.rounds):
            with servers.proxy(place / f"proxy-{number}", upstream) as proxy:
                seconds.append(proxy.start_seconds)
    report("start to the ready line", "s", [("proxy", seconds)])


def many(bench: Bench) -> None:
    """A start with many blobs on disk, after a clean stop and after a crash, and what they take."""
    count = 30_000 if bench.quick else 300_000
    rows: dict[str, list[float]] = {}
    with bench.place() as place, servers.upstream(place / "upstream") as upstream:
        folder = place / "proxy"
        for _ in range(bench.rounds):
            with servers.proxy(place / "none", upstream) as proxy:
                rows.setdefault("ready, without blobs: s", []).append(proxy.start_seconds)
                without = proxy.resident()
        _write_blobs(folder / "cache" / "blobs" / "sha256", count)
        for _ in range(bench.rounds):
            (folder / "cache" / "checkpoint").unlink(missing_ok=True)  # as a crash leaves none
            for end in ("a crash", "a clean stop"):
                with servers.proxy(folder, upstream) as proxy:
                    ready = time.perf_counter()
                    while proxy.is_counting():
                        time.sleep(0.02)
                    counted = time.perf_counter() - ready
                    each = (proxy.resident() - without) / count
                rows.setdefault(f"ready, after {end}: s", []).append(proxy.start_seconds)
                rows.setdefault(f"all counted, after {end}: s more", []).append(counted)
                rows.setdefault(f"memory, after {end}: bytes a blob", []).append(each)
    report(f"start with {count:,} blobs", "by row", list(rows.items()))


def _write_blobs(folder: Path, count: int) -> None:
    for number in range(count):
        content = b"%d" % number
        hexed = hashlib.sha256(content).hexdigest()
        file = folder / hexed[:2] / hexed
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def eviction(bench: Bench) -> None:
    """The policy of eviction beside others, by the bytes of pulls that it saves; none is served."""
    results = (
        simulation.simulate(simulation.QUICK_WORKLOADS, simulation.QUICK_SHARES, seeds=bench.rounds)
        if bench.quick
        else simulation.simulate(seeds=bench.rounds)
    )
    print(f"\neviction, means of {bench.rounds} seeds\n\n{simulation.tables(results)}", flush=True)


def export(bench: Bench) -> None:
    """A cache pushed by an old BuildKit, for the first time and again, beside straight."""
    layers, size = (12, 2 * MB) if bench.quick else (40, 5 * MB)
    for number in range(1 if bench.quick else bench.rounds):
        with bench.place() as place:
            print(exports.compare(place, layers=layers, size=size, seed=number), flush=True)


def engine_export(bench: Bench) -> None:
    """The same by a Docker Engine, where one can run."""
    layers, size = (6, MB) if bench.quick else (40, 5 * MB)
    with bench.place() as place:
        print(exports.compare_by_engine(place, layers=layers, size=size, seed=7), flush=True)


def slow_uplink(bench: Bench) -> None:
    """How late a reply is to each of four that push over 20 Mbit/s at once."""
    sizes = (MB, 4 * MB) if bench.quick else 2 * (MB, 2 * MB, 3 * MB, 5 * MB, 12 * MB)
    with bench.place() as place:
        print(exports.over_slow_uplink(place, sizes=sizes), flush=True)


def many_exports(bench: Bench) -> None:
    """Eight that push caches all the time, to an ECR that takes ten manifests a second."""
    with bench.place() as place:
        print(exports.throttled(place, count=60 if bench.quick else 1000), flush=True)


SCENARIOS: Final[Mapping[str, Callable[[Bench], None]]] = {
    "hit": hit,
    "small": small,
    "cold": cold,
    "push": pushes,
    "memory": memory,
    "start": start,
    "many": many,
    "eviction": eviction,
    "export": export,
    "engine-export": engine_export,
    "slow-uplink": slow_uplink,
    "many-exports": many_exports,
}


@contextmanager
def _proxy_and_upstream(bench: Bench) -> Iterator[tuple[Server, Server]]:
    with (
        bench.place() as place,
        servers.upstream(place / "upstream") as upstream,
        servers.proxy(place / "proxy", upstream) as proxy,
    ):
        yield proxy.server, upstream.server


@contextmanager
def _everybody(
    bench: Bench,
) -> Iterator[tuple[Server, tuple[Server, Path] | None, Server | None, Server]]:
    """The proxy, nginx with its folder, docker-registry, and the stand-in straight."""
    with (
        bench.place() as place,
        servers.upstream(place / "upstream") as upstream,
        servers.proxy(place / "proxy", upstream) as proxy,
        servers.nginx(place / "nginx") as nginx,
        servers.docker_registry(place / "registry") as registry,
    ):
        yield proxy.server, nginx, registry, upstream.server


def _seeded(server: Server, size: int) -> Content:
    content = Content(size)
    push(server, _REPOSITORY, content)
    return content


def _write(file: Path, content: Content) -> None:
    with file.open("wb") as output:
        for piece in content.pieces():
            output.write(piece)


def _blob_path(digest: Digest) -> str:
    return f"/v2/{_REPOSITORY}/blobs/{digest}"


def _manifest(config: Content, layer: Content) -> bytes:
    def descriptor(kind: str, content: Content) -> dict[str, object]:
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": content.digest, "size": content.size}

    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config),
        "layers": [descriptor("layer.v1.tar+gzip", layer)],
    }
    return json.dumps(document).encode()
