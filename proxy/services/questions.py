"""Asking upstream which blobs it holds: each digest once at a time, many digests in one call.

Knows nothing of what was heard before; that is `existence`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from proxy.errors import BlobUnknown, Denied, NameUnknown, RegistryError
from proxy.events import Event, Events, Kind
from proxy.oci import Digest
from proxy.services.registries import Target
from proxy.upstream import BlobState

# Digests in one call of BatchCheckLayerAvailability (ECR.md §4).
_BATCH: Final = 100
# A batch that takes longer than this, in seconds, is given up for single questions, which have
# their own patience: both together must be less than a client's 30 s (BUILDKIT.md).
_BATCH_SECONDS: Final = 8.0
# For so long, in seconds, a repository is asked without batches after one was denied, or failed.
DENIED_SECONDS: Final = 600.0
_FAILED_SECONDS: Final = 30.0
_MAX_REFUSALS: Final = 1000  # repositories
_AT_ONCE: Final = 16  # single questions of one round

_Key: TypeAlias = tuple[str, str, bool, Digest]


@dataclass(slots=True, eq=False)
class _Question:
    """One digest in one repository; `wanted`: somebody waits for its answer.

    `answer` is the blob's size in bytes, None if upstream does not say, or `BlobUnknown`, or why
    upstream did not decide.
    """

    target: Target
    digest: Digest
    patient: bool
    wanted: bool
    answer: asyncio.Future[int | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def key(self) -> _Key:
        return (*self.target.key, self.patient, self.digest)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Until when a repository is asked without batches."""

    until: float
    denied: bool


class Questions:
    """The questions that are under way.

    What is asked in the same turn of the event loop travels together. The patient and the impatient
    do not wait for one another. A round of questions belongs to this object, not to a caller: a
    caller that is cancelled leaves the others undisturbed.

    `expected` gives what else is worth asking for in a repository where anything is asked; `heard`
    is told what upstream decided, or why it did not. `clock` gives seconds that never go back.

    Invariant: a key is in `_questions` exactly from the moment it is asked until its answer is
    there, or until something is written that makes such an answer void.
    """

    def __init__(
        self,
        events: Events,
        *,
        expected: Callable[[Target], Awaitable[Iterable[Digest]]],
        heard: Callable[[Target, Digest, BlobState | RegistryError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._events = events
        self._expected = expected
        self._heard = heard
        self._clock = clock
        self._questions: dict[_Key, _Question] = {}
        self._gathering: dict[tuple[str, str, bool], list[_Question]] = {}
        self._rounds: set[asyncio.Task[None]] = set()
        self._refusals: OrderedDict[tuple[str, str], _Refusal] = OrderedDict()

    def ask(self, target: Target, digest: Digest, *, patient: bool) -> asyncio.Future[int | None]:
        """The answer to come, shared with all who ask the same: to be shielded, not cancelled."""
        # No await between look-up and registration: two callers can never both start.
        question = self._questions.get((*target.key, patient, digest))
        if question is None:
            question = self._register(target, digest, patient=patient, wanted=True)
            place = (*target.key, patient)
            if place not in self._gathering:
                self._gathering[place] = []
                # Whoever has a turn before this one comes along.
                asyncio.get_running_loop().call_soon(self._depart, target, patient)
            self._gathering[place].append(question)
        question.wanted = True
        return question.answer

    def answer(self, target: Target, digest: Digest, size: int | None) -> None:
        """It was just written: an answer on its way may be older than that."""
        for question in self._withdraw(target, digest):
            _resolve(question, size)

    def forget(self, target: Target, digest: Digest) -> None:
        """It may be gone: who asks from now on does not share an answer on its way."""
        self._withdraw(target, digest)

    async def close(self) -> None:
        """End what is under way."""
        for gathering in self._gathering.values():
            self._abandon(gathering)
        self._gathering.clear()
        rounds = list(self._rounds)
        for task in rounds:
            task.cancel()
        await asyncio.gather(*rounds, return_exceptions=True)

    def _register(
        self, target: Target, digest: Digest, *, patient: bool, wanted: bool
    ) -> _Question:
        question = _Question(target, digest, patient, wanted)
        self._questions[question.key] = question
        return question

    def _withdraw(self, target: Target, digest: Digest) -> list[_Question]:
        keys = [(*target.key, patient, digest) for patient in (False, True)]
        return [question for key in keys if (question := self._questions.pop(key, None))]

    def _depart(self, target: Target, patient: bool) -> None:
        questions = self._gathering.pop((*target.key, patient), [])
        if not questions:
            return  # closed
        task = asyncio.create_task(self._carry(target, questions, patient))
        self._rounds.add(task)
        task.add_done_callback(self._rounds.discard)

    async def _carry(self, target: Target, questions: list[_Question], patient: bool) -> None:
        try:
            if self._may_batch(target):
                questions += [
                    self._register(target, digest, patient=patient, wanted=False)
                    for digest in await self._expected(target)
                    if (*target.key, patient, digest) not in self._questions
                ]
            if len(questions) > 1 and self._may_batch(target):
                await self._check(target, questions)
            # What nobody waits for is not worth a call of its own.
            self._abandon(question for question in questions if not question.wanted)
            places = asyncio.Semaphore(_AT_ONCE)
            await asyncio.gather(*(self._head(question, places) for question in questions))
        except Exception as error:  # noqa: BLE001 a fault of our own, for whoever waits to tell
            for question in questions:
                self._leave(question)
                _reject(question, error)
        finally:
            self._abandon(questions)

    async def _check(self, target: Target, questions: Sequence[_Question]) -> None:
        """Settle as many as upstream decides in batches."""
        for first in range(0, len(questions), _BATCH):
            part = [q for q in questions[first : first + _BATCH] if not q.answer.done()]
            digests = [question.digest for question in part]
            if not digests:
                continue
            try:
                async with asyncio.timeout(_BATCH_SECONDS):
                    states = await target.registry.check_blobs(target.repository, digests)
            except NameUnknown as error:
                for question in questions:
                    self._fail(question, error)
                return
            except RegistryError as error:
                self._refuse(target, error.message, denied=isinstance(error, Denied))
                return
            except TimeoutError:
                self._refuse(target, "no answer in time", denied=False)
                return
            for question in part:
                state = states.get(question.digest)
                if state is not None:
                    self._settle(question, state)

    async def _head(self, question: _Question, places: asyncio.Semaphore) -> None:
        async with places:
            if question.answer.done():
                return
            target, digest = question.target, question.digest
            try:
                size = await target.registry.head_blob(
                    target.repository, digest, patient=question.patient
                )
            except RegistryError as error:
                self._fail(question, error)
            else:
                self._settle(question, BlobState(exists=True, size=size))

    def _may_batch(self, target: Target) -> bool:
        if not target.registry.can_batch:
            return False
        refusal = self._refusals.get(target.key)
        return refusal is None or self._clock() >= refusal.until

    def _refuse(self, target: Target, reason: str, *, denied: bool) -> None:
        known = self._refusals.get(target.key)
        until = self._clock() + (DENIED_SECONDS if denied else _FAILED_SECONDS)
        self._refusals[target.key] = _Refusal(until, denied)
        self._refusals.move_to_end(target.key)
        if len(self._refusals) > _MAX_REFUSALS:
            self._refusals.popitem(last=False)
        if denied and known is not None and known.denied:
            return  # told when it began
        registry, repository = target.key
        detail = f"blobs are asked for one by one, as many at once cannot be: {reason}"
        self._events.emit(Event(Kind.TROUBLE, registry, repository, detail=detail))

    def _settle(self, question: _Question, state: BlobState) -> None:
        if self._leave(question):
            self._heard(question.target, question.digest, state)
        if state.exists:
            _resolve(question, state.size)
        else:
            _reject(question, no_blob(question.target, question.digest))

    def _fail(self, question: _Question, error: RegistryError) -> None:
        if self._leave(question):
            missing = isinstance(error, BlobUnknown)
            state = BlobState(exists=False) if missing else error
            self._heard(question.target, question.digest, state)
        _reject(question, error)

    def _leave(self, question: _Question) -> bool:
        """False if something was written since it was asked, so that its answer says nothing."""
        if self._questions.get(question.key) is not question:
            return False
        del self._questions[question.key]
        return True

    def _abandon(self, questions: Iterable[_Question]) -> None:
        for question in questions:
            if not question.answer.done():
                self._leave(question)
                question.answer.cancel()


def no_blob(target: Target, digest: Digest) -> BlobUnknown:
    registry, repository = target.key
    return BlobUnknown(f"{registry} knows no blob {digest} of {repository}")


def _resolve(question: _Question, size: int | None) -> None:
    if not question.answer.done():
        question.answer.set_result(size)


def _reject(question: _Question, error: Exception) -> None:
    if not question.answer.done():
        question.answer.set_exception(error)
        question.answer.exception()  # seen, though everybody may have gone
