"""A registry's HTTP API as calls: with credentials, repetitions and redirects, until it is settled.

Between `transport`, which makes one exchange, and the nouns (manifests, blobs, uploads, listings),
which know what to ask for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from proxy import errors
from proxy.errors import RegistryError
from proxy.events import Events
from proxy.refusals import Reason, Refusals
from proxy.upstream.auth import Authorizer
from proxy.upstream.bodies import MAX_ERROR_BYTES, read_body, read_quietly
from proxy.upstream.breaker import Breaker
from proxy.upstream.errors import (
    Kind,
    What,
    Words,
    conceal,
    means_expired,
    read_words,
    refused_credentials,
    translate,
)
from proxy.upstream.failures import (
    Dropped,
    is_forbidden_address,
    is_lasting,
    translate_failure,
    was_sent,
    without_secrets,
)
from proxy.upstream.limits import Limits, count_operations
from proxy.upstream.locations import Destinations, is_safe, resolve, shown
from proxy.upstream.retry import REPEATABLE, Repetitions, retry_after
from proxy.upstream.transport import Pool, Request, Sending, Transport
from proxy.upstream.values import Tuning

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 5
# A refusal without words may be of an expired token or a denial. A token younger than this has
# hardly expired; for an older one a new one is worth a try.
_YOUNG: Final = 60.0
# What an attempt has, in seconds, that begins at the end of a push's patience.
_LAST_TRY: Final = 5.0


@dataclass(frozen=True, slots=True)
class Call:
    """One question to the registry.

    `path` follows the base URL; `location`, absolute, takes its place where upstream named it.
    `safe`: repeating it does no harm, so it is repeated after a broken connection and an outage.
    What is not safe is repeated only when upstream did not act on it: no connection, 401, 429.
    `patient`: it is part of a push, and waits out trouble. `drop_may_answer`: upstream may mean
    something by a dropped connection, so that even patience soon takes it for an answer.
    """

    method: str
    what: What
    path: str = ""
    location: str | None = field(default=None, repr=False)
    ok: tuple[int, ...] = (200,)
    scope: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Sending | None = None
    safe: bool = False
    patient: bool = False
    drop_may_answer: bool = False
    pool: Pool = Pool.REQUESTS


@dataclass(frozen=True, slots=True)
class Reply:
    """A settled answer, read to its end. `url` is what was asked, for a relative Location."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: str = field(repr=False)


class Client:
    """Asks one registry; every error that leaves it is a `RegistryError`."""

    def __init__(
        self,
        transport: Transport,
        authorizer: Authorizer,
        *,
        name: str,
        base: str,
        redirect_hosts: tuple[str, ...],
        is_ecr: bool,
        limits: Limits,
        events: Events,
        refusals: Refusals,
        tuning: Tuning,
    ) -> None:
        """`base`: the URL that `/v2/` follows, without a slash at its end.

        Raises `ValueError` for `redirect_hosts` that are no patterns.
        """
        self.name = name
        self._is_ecr = is_ecr
        self._limits = limits
        self._transport = transport
        self._authorizer = authorizer
        self._base = base
        self._destinations = Destinations(URL(base, encoded=True), redirect_hosts)
        self._refusals = refusals
        self._tuning = tuning
        self._breaker = Breaker(self._probe, registry=name, events=events, tuning=tuning)

    def what(self, kind: Kind, repository: str = "", reference: str = "") -> What:
        return What(self.name, kind, repository, reference)

    async def ask(self, call: Call, *, limit: int = MAX_ERROR_BYTES) -> Reply:
        """The answer with its body, of at most `limit` bytes; raises for a status not in `ok`."""
        repetitions = Repetitions(self._tuning, patient=call.patient)
        while True:
            async with self.open(call, repetitions) as response:
                begun = self._breaker.begin()
                try:
                    # In all: one that comes a byte at a time is never silent, and never whole.
                    async with asyncio.timeout(self._tuning.idle):
                        body = await read_body(response, limit)
                except (aiohttp.ClientError, OSError) as error:
                    failure = self._fail(error, response.url, call, begun)
                    if call.safe and await self._pause(repetitions):
                        continue
                    raise failure from without_secrets(error)
                if len(body) > limit:
                    raise errors.BadGateway(
                        f"{self.name} answered with over {limit} bytes for {call.what}"
                    )
                return Reply(response.status, response.headers, body, str(response.url))

    @asynccontextmanager
    async def open(
        self, call: Call, repetitions: Repetitions | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer with its body still to be read, redirects of a GET or HEAD followed.

        On leaving, a body that was not read to its end takes its connection with it.
        """
        response = await self._settle(
            call, repetitions or Repetitions(self._tuning, patient=call.patient)
        )
        try:
            yield response
        finally:
            response.close()

    @property
    def is_down(self) -> bool:
        """Whether the registry does not answer, so that nobody asks it."""
        return self._breaker.is_down

    async def close(self) -> None:
        await self._breaker.close()
        await self._authorizer.close()
        await self._transport.close()

    def problem(self) -> str | None:
        return self._authorizer.problem()

    async def _settle(self, call: Call, repetitions: Repetitions) -> aiohttp.ClientResponse:
        """Repeat until the answer is one of `ok`; raise what it is otherwise."""
        refreshed = asked_again = stalled = False
        start = self._start(call)
        while True:
            own = self._destinations.takes_credentials(start)
            if own:
                await self._breaker.admit(repetitions.deadline if repetitions.patient else None)
                length = call.body.length if call.body is not None else 0
                await self._limits.take(count_operations(call.method, call.what.kind, length))
            used = await self._authorizer.header(call.scope) if own else None
            try:
                silence = self._silence(call, repetitions)
                response, url = await self._follow(call, start, used, silence)
            except _Failed as failed:
                repeatable = self._may_repeat(call, failed.error)
                if repeatable and _stalled(call, failed.error) and not stalled:
                    stalled = True
                    continue
                few = call.drop_may_answer and isinstance(failed.error, Dropped)
                if repeatable and await self._pause(repetitions, few=few):
                    continue
                raise failed.failure from failed.error
            if response.status in call.ok or response.status == 404:
                self._authorizer.accepted(used, scope=call.scope)
            if response.status in call.ok:
                return response
            status, headers = response.status, response.headers
            body = conceal(await read_quietly(response), used)
            words = read_words(headers, body)
            abroad = not self._destinations.takes_credentials(url)
            if abroad and url != start and status in {400, 401, 403} and not asked_again:
                # Presigned, and expired or else refused: ask for another URL (ECR.md §3).
                asked_again = True
                continue
            if own and not abroad and not refreshed:
                refreshed = True
                if await self._refresh(call, status, headers, words, used):
                    continue
            if (
                status in REPEATABLE
                and (call.safe or status == 429)
                and await self._pause(repetitions, retry_after(headers.get("Retry-After")))
            ):
                continue
            if abroad and url != start:
                raise self._refused_abroad(status, words, url, call)
            if status == 401:
                raise refused_credentials(words, call.what, had_some=used is not None)
            raise translate(status, headers, body, call.what)

    def _start(self, call: Call) -> URL:
        """Where a call begins; raises `BadGateway` where upstream named a place not to go to."""
        if call.location is None:
            if not is_safe(call.path):
                raise errors.NameInvalid(f"{shown(call.path)!r} has what can be in no URL")
            return URL(self._base + call.path, encoded=True)
        try:
            return self._destinations.check(call.location, uploads=True)
        except RegistryError:
            self._refusals.count(Reason.REDIRECT)
            raise

    async def _follow(
        self, call: Call, start: URL, used: str | None, silence: float | None
    ) -> tuple[aiohttp.ClientResponse, URL]:
        """One attempt: the first answer that is no redirect, and where it came from."""
        url, location = start, str(start)
        for _ in range(_MAX_REDIRECTS + 1):
            # Credentials go to the registry's own origin; S3 refuses a request that has any more
            # than its signature (ECR.md §3).
            own = self._destinations.takes_credentials(url)
            request = Request(call.method, url, call.headers, call.body, call.pool, silence)
            begun = self._breaker.begin()
            try:
                response = await self._transport.send(request, used if own else None)
            except (aiohttp.ClientError, OSError) as error:
                if url is not start and is_forbidden_address(error):
                    self._refusals.count(Reason.REDIRECT)
                raise _Failed(error, self._fail(error, url, call, begun)) from error
            if own and response.status < 500:
                self._breaker.answered()
            elif own:
                outage = translate(response.status, response.headers, b"", call.what)
                self._breaker.failed(outage, begun)
            redirected = response.status in _REDIRECTS and call.method in {"GET", "HEAD"}
            if not redirected or response.status in call.ok:
                return response, url
            target = response.headers.get("Location")
            response.release()
            if target is None:
                raise errors.BadGateway(f"{self.name} redirects {call.what} to nowhere")
            try:
                location = resolve(target, base=location)
                url = self._destinations.check(location)
            except RegistryError:
                self._refusals.count(Reason.REDIRECT)
                raise
        raise errors.BadGateway(f"{self.name} redirects {call.what} over and over")

    def _fail(self, error: Exception, url: URL, call: Call, begun: int) -> RegistryError:
        """What an exchange failed with, told to the breaker if it was with the registry."""
        failure = translate_failure(error, url, call.what)
        if self._destinations.takes_credentials(url) and not isinstance(error, aiohttp.InvalidURL):
            self._breaker.failed(failure, begun, silent=isinstance(error, TimeoutError))
        return failure

    async def _pause(
        self, repetitions: Repetitions, asked: float | None = None, *, few: bool = False
    ) -> bool:
        """Wait before the next attempt; False when there is to be none."""
        if self._breaker.is_down:
            return repetitions.patient  # it is the breaker that says when
        return await repetitions.pause(asked, few=few)

    async def _probe(self, limit: float) -> None:
        """Raise unless the registry answers anything at all within `limit` seconds."""
        what = self.what(Kind.REGISTRY)
        url = URL(f"{self._base}/v2/", encoded=True)
        try:
            async with asyncio.timeout(limit):
                try:
                    used = await self._authorizer.header()
                except RegistryError:
                    used = None  # a refusal is an answer
                request = Request("GET", url, pool=Pool.PROBES)
                response = await self._transport.send(request, used)
        except (aiohttp.ClientError, OSError) as error:
            raise translate_failure(error, url, what) from error
        response.close()
        if response.status >= 500:
            raise translate(response.status, response.headers, b"", what)

    async def _refresh(
        self,
        call: Call,
        status: int,
        headers: CIMultiDictProxy[str],
        words: Words,
        used: str | None,
    ) -> bool:
        """Whether there are better credentials now than those that were refused."""
        # As every HEAD is, and anything that a proxy on the way answers with a page of its own.
        silent = status in {400, 403} and words == Words("", "")
        age = self._authorizer.age(call.scope)
        guess = silent and age is not None and age > _YOUNG
        if not (means_expired(status, words) or guess):
            return False
        try:
            await self._authorizer.refresh(
                used, scope=call.scope, challenge=headers.getall("WWW-Authenticate", ())
            )
            return await self._authorizer.header(call.scope) != used
        except RegistryError:
            if guess:
                return False  # it may well be a denial, whose status says more
            raise

    def _silence(self, call: Call, repetitions: Repetitions) -> float | None:
        """How long an attempt of a patient call may wait for its answer; None: as ever.

        Clients wait 30 s for theirs (BUILDKIT.md), repetitions included. But another proxy answers
        a PUT when all that it owes to its own upstream is there.
        """
        if not call.patient or call.pool is Pool.DOWNLOADS:
            return None
        if call.method not in {"GET", "HEAD"} and not self._is_ecr:
            return None
        left = max(repetitions.deadline - asyncio.get_running_loop().time(), _LAST_TRY)
        return left if call.method not in {"GET", "HEAD"} else min(left, self._tuning.answer)

    def _may_repeat(self, call: Call, error: Exception) -> bool:
        if is_lasting(error):
            return False
        return call.safe or not was_sent(error)

    def _refused_abroad(self, status: int, words: Words, url: URL, call: Call) -> RegistryError:
        """Where blobs are stored refuses what the registry has just granted."""
        said = ", ".join(part for part in (words.code, words.message) if part) or "no reason given"
        message = f"{url.host} answered {status} for {call.what}: {said}"
        if status == 404:
            return errors.BlobUnknown(message)
        if status == 416:
            return errors.RangeInvalid(message)
        if status in {429, 503}:
            return errors.Unavailable(message)
        if status == 403 and (url.host or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
            # ECR.md §7: the gateway endpoint of a VPC has a policy of its own.
            message += (
                " (in a VPC, its S3 gateway endpoint must allow s3:GetObject on "
                "arn:aws:s3:::prod-REGION-starport-layer-bucket/*)"
            )
        return errors.BadGateway(message)


def _stalled(call: Call, error: Exception) -> bool:
    """Whether whoever was to send a blob has not answered at all.

    Waiting for that has used up the patience with this request. But a connection that hangs (one
    server of many, an address that a router has forgotten) says little about the next one.
    """
    return call.pool is Pool.DOWNLOADS and isinstance(error, TimeoutError)


class _Failed(Exception):
    """An exchange that broke, and what that is to a client; never leaves this module."""

    def __init__(self, error: Exception, failure: RegistryError) -> None:
        super().__init__(str(error))
        self.error = error
        self.failure = failure
