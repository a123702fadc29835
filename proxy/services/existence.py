"""Which blobs a repository holds, as upstream said it: what may be answered without asking again.

That a blob lies on disk says nothing of it: a client that is told that a blob is there does not
upload it, and its manifest would be refused. Who may read is decided in `blobs`, by the same
proofs.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from proxy.cache import BlobStore
from proxy.errors import BlobUnknown, RegistryError
from proxy.events import Events
from proxy.oci import Digest
from proxy.services.expected import Expected
from proxy.services.leases import Leases
from proxy.services.proofs import Proofs
from proxy.services.questions import Questions, no_blob
from proxy.services.registries import Target
from proxy.upstream import BlobState

# How long an answer stands that upstream has given, whatever it was.
FRESH_SECONDS: Final = 60.0
_MAX_ABSENT: Final = 20_000

_Key: TypeAlias = tuple[str, str, Digest]


@dataclass(frozen=True, slots=True)
class Fact:
    """What upstream said of a blob; `size` in bytes, None if it did not say."""

    exists: bool
    size: int | None = None


class Existence:
    """Facts about (registry, repository, digest), and the questions that make them.

    An answer stands for 60 s. That a blob is there stands as long as it proves permission, while
    its bytes are on disk: then a manifest that upstream refuses for it can be mended. Only what
    upstream decided becomes a fact: trouble, a denial or a partial answer is none.

    `clock` gives seconds that never go back.

    Invariants: no key is in `_absent` that was proved later; `_absent` is in the order of its
    times.
    """

    def __init__(
        self,
        store: BlobStore,
        proofs: Proofs,
        leases: Leases,
        expected: Expected,
        events: Events,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._proofs = proofs
        self._leases = leases
        self._clock = clock
        self._absent: OrderedDict[_Key, float] = OrderedDict()
        self._expected = expected
        self._questions = Questions(events, expected=self._unknown, heard=self._hear, clock=clock)

    async def close(self) -> None:
        await self._questions.close()

    def add(self, target: Target, digest: Digest, size: int | None = None) -> None:
        """Upstream has just taken the blob, or given of it; `size` in bytes if that is known."""
        self._prove(target, digest, size)
        self._questions.answer(target, digest, size)

    def drop(self, target: Target, digest: Digest) -> None:
        """What was heard of it may be so no more: the next one who asks is told by upstream."""
        self._proofs.drop(target, digest)
        self._absent.pop((*target.key, digest), None)
        self._questions.forget(target, digest)

    def find(self, target: Target, digest: Digest) -> Fact | None:
        """What may be said without asking; None where upstream must be asked."""
        fact = self._find_fresh(target, digest)
        if fact is None and self._stands(target, digest):
            proof = self._proofs.find(target, digest)
            return Fact(exists=True, size=None if proof is None else proof.size)
        return fact

    async def ask(self, target: Target, digest: Digest, *, patient: bool = True) -> int | None:
        """The blob's size in bytes, None if upstream did not say, for one who will not upload it.

        So it is kept on disk, if it is there. Raises `BlobUnknown`, or why upstream did not decide.
        `patient`: after its trouble was waited out.
        """
        fact = self._find_fresh(target, digest)
        if fact is None and self._stands(target, digest) and self._leases.hold(target, digest):
            fact = self.find(target, digest)
        if fact is not None and not fact.exists:
            raise no_blob(target, digest)
        size = None if fact is None else fact.size
        if fact is None or (size is None and not self._store.contains(digest)):
            # Also for a size that nobody has said yet, as after a mount.
            size = await self.fetch(target, digest, patient=patient)
        self._leases.hold(target, digest, confirmed=True)
        return size

    async def fetch(self, target: Target, digest: Digest, *, patient: bool) -> int | None:
        """The same from upstream, whatever was heard before, and for one who only reads."""
        return await asyncio.shield(self._questions.ask(target, digest, patient=patient))

    async def ask_all(
        self, target: Target, digests: Iterable[Digest], *, patient: bool = False
    ) -> Mapping[Digest, bool]:
        """Which of them are there, as far as upstream decided just now: no trouble is raised.

        What only stands because the bytes are here is asked: nothing keeps them here.
        """
        states: dict[Digest, bool] = {}
        answers: dict[Digest, asyncio.Future[int | None]] = {}
        for digest in digests:
            fact = self._find_fresh(target, digest)
            if fact is not None:
                states[digest] = fact.exists
            else:
                answers[digest] = self._questions.ask(target, digest, patient=patient)
        if answers:
            await asyncio.wait(answers.values())
        for digest, answer in answers.items():
            error = None if answer.cancelled() else answer.exception()
            if isinstance(error, BlobUnknown):
                states[digest] = False
            elif error is None and not answer.cancelled():
                states[digest] = True
        return states

    def expect(self, target: Target, digests: Sequence[Digest]) -> None:
        """The blobs of the cache manifest that was last seen there: who pushes the next one will
        ask for most of them, and they are asked for together.
        """
        self._expected.set(target, digests)

    def _find_fresh(self, target: Target, digest: Digest) -> Fact | None:
        denied = self._absent.get((*target.key, digest))
        if denied is not None and self._clock() - denied < FRESH_SECONDS:
            return Fact(exists=False)
        proof = self._proofs.find(target, digest)
        if proof is not None and proof.age < FRESH_SECONDS:
            return Fact(exists=True, size=proof.size)
        return None

    def _stands(self, target: Target, digest: Digest) -> bool:
        """Whether it was proved not too long ago, and its bytes are here."""
        return self._proofs.has(target, digest) and self._store.contains(digest)

    async def _unknown(self, target: Target) -> list[Digest]:
        """What is expected to be asked for there, and could not be answered."""
        await self._expected.load(target)
        expected = self._expected.find(target)
        return [digest for digest in expected if self.find(target, digest) is None]

    def _hear(self, target: Target, digest: Digest, answer: BlobState | RegistryError) -> None:
        if isinstance(answer, RegistryError):
            # A refusal is no word on whether the blob is there, and yet ends what was permitted.
            if not answer.is_trouble:
                self._proofs.drop(target, digest)
        elif answer.exists:
            self._prove(target, digest, answer.size)
        else:
            self._disprove(target, digest)

    def _prove(self, target: Target, digest: Digest, size: int | None) -> None:
        self._absent.pop((*target.key, digest), None)
        self._proofs.add(target, digest, size)

    def _disprove(self, target: Target, digest: Digest) -> None:
        self._proofs.drop(target, digest)
        key, now = (*target.key, digest), self._clock()
        self._absent[key] = now
        self._absent.move_to_end(key)
        while (
            len(self._absent) > _MAX_ABSENT
            or now - next(iter(self._absent.values())) >= FRESH_SECONDS
        ):
            self._absent.popitem(last=False)
