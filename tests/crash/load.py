"""What clients do in a round, and what each of them must see."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from proxy.oci import OCI_INDEX, Digest
from tests.caches import NEW, Cache, only
from tests.crash.wire import Reply, ask

REPOSITORIES = ("app", "team/base", "team/tools")


@dataclass(frozen=True, slots=True)
class Blob:
    repository: str
    digest: Digest
    content: bytes

    @property
    def path(self) -> str:
        return f"/v2/{self.repository}/blobs/{self.digest}"


def make_blob(rng: random.Random, size: int) -> Blob:
    content = rng.randbytes(size)
    return Blob(rng.choice(REPOSITORIES), Digest.of(content), content)


def make_blobs(rng: random.Random, count: int, largest: int) -> list[Blob]:
    """Blobs of 1 KB up to `largest` bytes, as many in each order of size."""
    return [make_blob(rng, int(1000 * (largest / 1000) ** rng.random())) for _ in range(count)]


@dataclass(slots=True)
class Promises:
    """What clients have been told, by whichever proxy, and may count on from then on.

    `upstream` is what upstream is known to hold: such a blob must be had whenever it is asked for.
    A push that was answered with 201 counts, whatever became of the proxy afterwards. `caches` are
    caches that were pushed in the legacy form, by the path of their digest: each must read back as
    the bytes that were pushed. `unfinished` pushes were broken off by a proxy's end; each has the
    location where it may go on.
    """

    upstream: set[Digest] = field(default_factory=set)
    caches: dict[str, bytes] = field(default_factory=dict)
    unfinished: list[tuple[Blob, str]] = field(default_factory=list)


@dataclass(slots=True)
class Seen:
    """How much was checked: bytes compared, caches read back, pushes begun at one proxy and
    finished at another.
    """

    checked: int = 0
    read_back: int = 0
    resumed: int = 0


@dataclass(slots=True)
class Load:
    """Clients of a proxy, which may end under them at any time once `ending` is set, not before."""

    port: int
    blobs: list[Blob]
    promises: Promises
    seen: Seen
    killed: bool = False  # whether the end is a kill
    ending: bool = False
    failed: asyncio.Event = field(default_factory=asyncio.Event)

    async def client(self, rng: random.Random) -> None:
        """One request after the other until the end."""
        while not self.ending:
            try:
                await self._act(rng)
            except ConnectionError:
                if not self.ending:
                    self.failed.set()
                    raise
            except BaseException:
                self.failed.set()
                raise

    async def _act(self, rng: random.Random) -> None:
        dice = rng.random()
        if dice < 0.4:
            await self.pull(self._some_blob(rng))
        elif dice < 0.58:
            await self._pull_range(self._some_blob(rng), rng)
        elif dice < 0.72:
            await self._leave(self._some_blob(rng), rng)
        elif dice < 0.76 and self.promises.unfinished:
            await self._resume(*self.promises.unfinished.pop())
        elif dice < 0.8 and self.promises.caches:
            await self.read_back(rng.choice(list(self.promises.caches)))
        elif dice < 0.82:
            await self._export(rng)
        else:
            await self.push(rng.choice(self.blobs), rng)

    def _held(self) -> list[Blob]:
        return [blob for blob in self.blobs if blob.digest in self.promises.upstream]

    def _some_blob(self, rng: random.Random) -> Blob:
        """Some are asked for by everybody, so that clients meet at one fill."""
        held = self._held()
        return held[int(len(held) * rng.random() ** 2)]

    async def pull(self, blob: Blob) -> None:
        reply = await ask(self.port, "GET", blob.path)
        self._check(reply, 200, blob.content)

    async def _pull_range(self, blob: Blob, rng: random.Random) -> None:
        size = len(blob.content)
        first = rng.randrange(size)
        last = rng.randrange(first, size)
        wanted, expected = rng.choice(
            [
                (f"{first}-{last}", blob.content[first : last + 1]),
                (f"{first}-", blob.content[first:]),
                (f"-{size - first}", blob.content[first:]),
            ]
        )
        reply = await ask(self.port, "GET", blob.path, headers={"Range": f"bytes={wanted}"})
        self._check(reply, 206, expected)

    async def _leave(self, blob: Blob, rng: random.Random) -> None:
        leave_after = rng.randrange(len(blob.content))
        reply = await ask(self.port, "GET", blob.path, leave_after=leave_after)
        self._check(reply, 200, blob.content, expect=leave_after)

    def _check(
        self, reply: Reply, status: int, expected: bytes, *, expect: int | None = None
    ) -> None:
        """Every byte is right; all of them are there, unless the proxy was killed meanwhile."""
        if self.ending and reply.status >= 500:
            return  # a proxy that is about to stop may refuse
        assert reply.status == status, reply
        assert reply.length == len(expected), reply.headers
        assert reply.body == expected[: len(reply.body)], "a wrong byte was served"
        self.seen.checked += len(reply.body)
        if not (self.ending and self.killed):
            wanted = len(expected) if expect is None else expect
            assert len(reply.body) == wanted, f"broken off at {len(reply.body)} of {wanted} bytes"

    # Pushes

    async def push(self, blob: Blob, rng: random.Random) -> None:
        begun = await ask(self.port, "POST", f"/v2/{blob.repository}/blobs/uploads/")
        if not self._is(begun, 202):
            return
        location = begun.headers["location"]
        try:
            rest = blob.content
            if rng.random() < 0.5:  # as docker and skopeo do
                sent = await ask(self.port, "PATCH", location, body=_pieces(rest, rng))
                if not self._is(sent, 202):
                    return
                location, rest = sent.headers["location"], b""
            await self._finish(blob, location, rest)
        except ConnectionError:
            self.promises.unfinished.append((blob, location))
            raise

    async def _resume(self, blob: Blob, location: str) -> None:
        """Go on where a push stands by the proxy's own account, if it still knows of it."""
        told = await ask(self.port, "GET", location)
        if told.status == 404:  # evicted, or finished without the client hearing of it
            return
        if not self._is(told, 204):
            return
        last = int(told.headers["range"].partition("-")[2])
        stands = last + 1 if last else 0  # `0-0` is said of no byte and of one
        assert stands <= len(blob.content), told
        if stands == 0:
            return
        rest = blob.content[stands:]
        if rest:
            headers = {"Content-Range": f"{stands}-{len(blob.content) - 1}"}
            sent = await ask(self.port, "PATCH", location, headers=headers, body=rest)
            if sent.status == 404:  # evicted since
                return
            if not self._is(sent, 202):
                return
        if await self._finish(blob, location, b""):
            self.seen.resumed += 1

    async def _finish(self, blob: Blob, location: str, rest: bytes) -> bool:
        joint = "&" if "?" in location else "?"
        done = await ask(self.port, "PUT", f"{location}{joint}digest={blob.digest}", body=rest)
        if done.status == 201:
            self.promises.upstream.add(blob.digest)
        return self._is(done, 201)

    # Caches

    async def _export(self, rng: random.Random) -> None:
        """Push a cache in the legacy form: its layers are there, its config is pushed first."""
        repository = rng.choice(REPOSITORIES)
        held = [blob for blob in self._held() if blob.repository == repository]
        layers = rng.sample(held, 2)
        cache = Cache.of(*(blob.content for blob in layers))
        config = Blob(repository, Digest.of(cache.config), cache.config)
        await self.push(config, rng)
        if config.digest not in self.promises.upstream:
            return
        done = await ask(
            self.port,
            "PUT",
            f"/v2/{repository}/manifests/cache",
            headers={"Content-Type": OCI_INDEX, **NEW},
            body=cache.index,
        )
        if self._is(done, 201):
            digest = done.headers["docker-content-digest"]
            assert digest == Digest.of(cache.index)
            self.promises.caches[f"/v2/{repository}/manifests/{digest}"] = cache.index

    async def read_back(self, path: str) -> None:
        reply = await ask(self.port, "GET", path, headers={**only(OCI_INDEX), **NEW})
        self._check(reply, 200, self.promises.caches[path])
        self.seen.read_back += 1

    def _is(self, reply: Reply, status: int) -> bool:
        """Whether it is that, as it must be until the end."""
        assert self.ending or reply.status == status, reply
        return reply.status == status


def _pieces(content: bytes, rng: random.Random) -> Iterator[bytes]:
    size = rng.randrange(1000, 256 * 1024)
    for start in range(0, len(content), size):
        yield content[start : start + size]
