"""Whether the blobs that a cache names are there: a broken cache is a miss (DESIGN.md settled 8).

BuildKit asks nobody whether a cache's layers exist, and fails the build when it gets to one that
does not. So a cache that has lost one for certain is answered as not there, and the build goes on
without it. Whatever is no proof of a loss lets the manifest pass.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from cachetools import LRUCache

from proxy.errors import ManifestUnknown
from proxy.events import Event, Events, Kind
from proxy.oci import Digest, Manifest, Reference
from proxy.services.existence import Existence
from proxy.services.import_limit import ImportLimit
from proxy.services.leases import Leases
from proxy.services.proofs import Proofs
from proxy.services.recognized import CacheContents, Recognized
from proxy.services.registries import Target
from proxy.services.vouched import Vouched
from proxy.singleflight import SingleFlight

# For how long, in seconds, a cache counts as whole, or as broken, that was found to be so; and for
# how long nothing is asked after upstream did not decide.
_WHOLE_SECONDS: Final = 600.0
_BROKEN_SECONDS: Final = 60.0
_UNDECIDED_SECONDS: Final = 10.0
# A reader waits so long for a check, in seconds; then it gets the manifest.
_WAIT_SECONDS: Final = 3.0
_VERDICTS: Final = 20_000
_NAMED: Final = 3  # digests in a reason: the rest are counted

_Key = tuple[str, str, bytes]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a check found. `until` is when it ends; `pushes` which push was the repository's last.

    `reason`: why the cache is broken, None if it is not known to be. `saved`: blobs that upstream
    has lost and the disk has.
    """

    until: float
    pushes: int
    reason: str | None = None
    saved: tuple[Digest, ...] = ()


class Completeness:
    """Checks caches as they pass, once in a while each. `clock` gives seconds that never go back.

    A blob that upstream has lost is there all the same if it is on disk, and the repository is
    known to have had it: ECR takes no manifest without its blobs (ECR.md §4), so a manifest that it
    has given is proof enough; of another registry an answer of its own must be known. Such a blob
    is leased, and vouched for, so that it is there when the reader comes to it.
    """

    def __init__(
        self,
        existence: Existence,
        leases: Leases,
        proofs: Proofs,
        vouched: Vouched,
        recognized: Recognized,
        events: Events,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._existence = existence
        self._leases = leases
        self._proofs = proofs
        self._vouched = vouched
        self._recognized = recognized
        self._events = events
        self._clock = clock
        self._limit = ImportLimit()
        self._checks: SingleFlight[tuple[_Key, int], _Verdict] = SingleFlight()
        self._verdicts: LRUCache[_Key, _Verdict] = LRUCache(_VERDICTS)
        self._pushes: LRUCache[tuple[str, str], int] = LRUCache(_VERDICTS)
        self._pushes_seen = 0
        events.subscribe(self._hear)

    async def close(self) -> None:
        await self._checks.close()

    async def check(self, target: Target, reference: Reference, manifest: Manifest) -> None:
        """Raise `ManifestUnknown` for a cache that has lost a blob; anything else passes."""
        contents = self._recognized.read(manifest)
        if contents is None:
            return
        self._existence.expect(target, contents.blobs)
        self._limit.check(target, manifest, contents)
        key = _key(target, contents)
        verdict = self._find(target, key)
        if verdict is None:
            pushes = self._pushes.get(target.key, 0)
            try:
                async with asyncio.timeout(_WAIT_SECONDS):
                    verdict = await self._checks.do(
                        (key, pushes), lambda: self._ask(target, reference, contents, pushes)
                    )
            except TimeoutError:
                return  # it goes on, for those who come later
        if verdict.reason is not None:
            raise ManifestUnknown(verdict.reason)
        for digest in verdict.saved:
            self._vouched.add(target, digest)

    def pushed(self, target: Target, manifest: Manifest) -> tuple[str, ...]:
        """Upstream has taken the manifest, in the client's form or another; gives warnings."""
        contents = self._recognized.read(manifest)
        if contents is None:
            return ()
        self._existence.expect(target, contents.blobs)
        if target.registry.is_ecr:  # which has just looked for each blob itself (ECR.md §4)
            until = self._clock() + _WHOLE_SECONDS
            self._verdicts[_key(target, contents)] = _Verdict(until, self._pushes_seen)
        return self._limit.check(target, manifest, contents)

    def _hear(self, event: Event) -> None:
        """Whatever is pushed may be what a broken cache lacks."""
        if event.kind in (Kind.PUSHED_BLOB, Kind.PUSHED_MANIFEST):
            self._pushes_seen += 1
            self._pushes[(event.registry, event.repository)] = self._pushes_seen

    def _find(self, target: Target, key: _Key) -> _Verdict | None:
        """What is known still, with what was saved there still."""
        verdict = self._verdicts.get(key)
        if verdict is None or self._clock() >= verdict.until:
            return None
        if verdict.reason is not None and verdict.pushes != self._pushes.get(target.key, 0):
            return None
        if not all(self._leases.hold(target, digest) for digest in verdict.saved):
            return None
        return verdict

    async def _ask(
        self, target: Target, reference: Reference, contents: CacheContents, pushes: int
    ) -> _Verdict:
        # Before the question, whose answer may end them.
        had = {digest for digest in contents.blobs if self._proofs.had(target, digest)}
        answers = await self._existence.ask_all(target, contents.blobs)
        gone = [digest for digest in contents.blobs if answers.get(digest) is False]
        saved = [
            digest
            for digest in gone
            if (target.registry.is_ecr or digest in had) and self._leases.hold(target, digest)
        ]
        lost = [digest for digest in gone if digest not in saved]
        reason: str | None = None
        if not lost:
            decided = len(answers) == len(contents.blobs)
            seconds = _WHOLE_SECONDS if decided else _UNDECIDED_SECONDS
        else:
            seconds = _BROKEN_SECONDS
            reason = self._break(target, reference, contents, lost)
        verdict = _Verdict(self._clock() + seconds, pushes, reason, tuple(saved))
        self._verdicts[_key(target, contents)] = verdict
        return verdict

    def _break(
        self, target: Target, reference: Reference, contents: CacheContents, lost: list[Digest]
    ) -> str:
        registry, repository = target.key
        named = ", ".join(lost[:_NAMED]) + (" and others" if len(lost) > _NAMED else "")
        reason = (
            f"the cache {reference} in {repository} is broken, so it counts as not there: "
            f"{registry} has lost {len(lost)} of the {len(contents.blobs)} blobs that it names "
            f"({named}). The next export to it makes it whole"
        )
        self._events.emit(Event(Kind.BROKEN, registry, repository, reference, detail=reason))
        return reason


def _key(target: Target, contents: CacheContents) -> _Key:
    """The same for all forms of a cache: they name the same blobs."""
    return (*target.key, blake2b("".join(contents.blobs).encode(), digest_size=16).digest())
