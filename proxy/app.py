"""The composition root: builds every part from the settings, wires them, closes them in reverse."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from proxy.cache import PATIENCE, BlobStore, CacheError, Patience, RecordStore, load_secret
from proxy.cache.fill import Fill
from proxy.config import Settings
from proxy.event_log import EventLog
from proxy.events import Events
from proxy.gauges import watch_cache, watch_limits, watch_pushes
from proxy.handlers.access_log import AccessLogger
from proxy.handlers.api import RegistryApi
from proxy.handlers.authentication import authentication
from proxy.handlers.blobs import BlobHandlers
from proxy.handlers.bodies import Bodies
from proxy.handlers.control import listening
from proxy.handlers.draining import Draining
from proxy.handlers.health import HealthHandlers
from proxy.handlers.listings import ListingHandlers
from proxy.handlers.manifests import ManifestHandlers
from proxy.handlers.metrics import MetricsHandlers
from proxy.handlers.replies import render_errors
from proxy.handlers.uploads import UploadHandlers
from proxy.metrics import Metrics
from proxy.refusals import Refusals
from proxy.services.admission import WAIT_SECONDS, Admission
from proxy.services.blobs import Blobs
from proxy.services.catalog import Catalog
from proxy.services.completeness import Completeness
from proxy.services.debts import Debts, Owed
from proxy.services.existence import Existence
from proxy.services.expected import Expected
from proxy.services.known import KnownManifests
from proxy.services.leases import Leases
from proxy.services.listings import Listings
from proxy.services.manifests import Manifests
from proxy.services.openings import Openings
from proxy.services.proofs import Proofs
from proxy.services.pushes import Pushes
from proxy.services.recognized import Recognized
from proxy.services.tags import Tags
from proxy.services.tokens import UploadTokens
from proxy.services.upkeep import Rounds, Upkeep, verify_in_rounds
from proxy.services.uplink import Uplinks
from proxy.services.uploads import Uploads
from proxy.services.vouched import Vouched
from proxy.upstream import Tuning
from proxy.wiring import StartError as StartError
from proxy.wiring import open_authenticator, open_registries, rules_of

_log = logging.getLogger(__name__)
_access_log = logging.getLogger("proxy.access")

_EXPIRY_SECONDS: Final = 600.0
# The free space of the file system is looked at as often, and times of last use are written down.
_TEND_SECONDS: Final = 5.0
# For replies that are written as the server closes; it waits twice as long for what does not end.
_FLUSH_SECONDS: Final = 0.25
# A client that has logged in with a token of ECR's sends it here too: its size has no bound, and
# over 4,096 characters were seen (ECR.md §2), which Basic makes a third longer.
_MAX_HEADER_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Started:
    """What runs: the address it listens on (`host:port`), and its registries by name."""

    address: str
    registries: Sequence[str]


@dataclass(frozen=True, slots=True)
class Timing:
    """When and for how long, where no setting says it; in tests, time runs out sooner.

    `rounds` of the background verify, `tuning` of what is asked upstream, `patience` with a blob
    that breaks off; `fill_wait` is how many seconds a reader waits for a download to begin. By
    `clock`, in seconds, what upstream has said grows old, and what is to outlive a restart does so
    by `now`, in seconds since the epoch.
    """

    rounds: Rounds = field(default_factory=Rounds)
    tuning: Tuning = field(default_factory=Tuning)
    patience: Patience = PATIENCE
    fill_wait: float = WAIT_SECONDS
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Built:
    """What listens, and `drain`, which waits so many seconds at most until nothing is owed."""

    app: web.Application
    drain: Callable[[float], Awaitable[None]]


def _reason(error: OSError) -> str:
    """The system's own words: asyncio wraps them in a text that repeats the address."""
    code = error.errno or 0  # negative for a name that cannot be resolved
    return os.strerror(code) if code > 0 else str(error.strerror)


@asynccontextmanager
async def _every(seconds: float, work: Callable[[], Awaitable[None] | None]) -> AsyncIterator[None]:
    """Do some work at intervals while the context lasts."""

    async def loop() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                pending = work()
                if pending is not None:
                    await pending
            except Exception:  # noqa: BLE001 housekeeping must go on, and its failure be seen
                _log.exception("housekeeping failed")

    async with _beside(loop()):
        yield


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do endless work while the context lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def build(
    settings: Settings, events: Events, draining: Draining, timing: Timing
) -> AsyncIterator[Built]:
    """Everything behind the listening socket; raises `StartError`."""
    refusals = Refusals()
    metrics = Metrics(events, refusals)
    async with AsyncExitStack() as stack:
        authenticator = await asyncio.to_thread(open_authenticator, settings, timing.clock)
        stack.push_async_callback(authenticator.close)
        rules = rules_of(settings)
        owed = Owed()
        try:
            store = await BlobStore.open(
                settings.cache_dir,
                budget=settings.cache_size,
                floor=settings.min_free,
                abandon_below=settings.abandon_fills_below,
                patience=timing.patience,
                events=events,
                first=owed.keep,
            )
            stack.push_async_callback(store.close)
            await stack.enter_async_context(_every(_TEND_SECONDS, store.tend))
            records = await RecordStore.open(store)
            secret = await load_secret(store.space.layout)
        except CacheError as error:
            raise StartError(str(error)) from error
        registries = await open_registries(settings, events, refusals, stack, timing.tuning)

        proofs = Proofs(stale_seconds=settings.stale_if_error, clock=timing.clock)
        leases = Leases(store, clock=timing.clock)
        stack.callback(leases.close)
        await stack.enter_async_context(_every(_TEND_SECONDS, leases.expire))
        expected = Expected(records)
        stack.push_async_callback(expected.close)
        existence = Existence(store, proofs, leases, expected, events, clock=timing.clock)
        stack.push_async_callback(existence.close)

        tuning = timing.tuning
        uplinks = Uplinks((r.name for r in registries.all()), patience=tuning.push_patience)
        openings = Openings(events)
        stack.push_async_callback(openings.close)
        debts = Debts(
            store,
            records,
            uplinks,
            openings,
            existence,
            leases,
            events,
            first_pause=tuning.first_pause,
        )
        stack.push_async_callback(debts.close)
        try:
            await debts.restore(registries)
        except CacheError as error:
            raise StartError(str(error)) from error
        owed.release()
        await stack.enter_async_context(_every(_EXPIRY_SECONDS, debts.expire))

        vouched = Vouched(clock=timing.clock)
        limits = settings.limits
        admission: Admission[Fill] = Admission(limits.max_fills, refusals, wait=timing.fill_wait)
        blobs = Blobs(
            store, proofs, existence, debts, vouched, admission, events, clock=timing.clock
        )
        tags = Tags(
            records,
            events,
            stale_seconds=settings.stale_if_error,
            clock=timing.clock,
            now=timing.now,
        )
        known = KnownManifests(records, tags, clock=timing.clock)
        recognized = Recognized()
        completeness = Completeness(
            existence, leases, proofs, vouched, recognized, events, clock=timing.clock
        )
        stack.push_async_callback(completeness.close)
        manifests = Manifests(known, tags, recognized, completeness, vouched, events)
        stack.push_async_callback(manifests.close)
        pushes = Pushes(known, completeness, debts, openings, existence, proofs, leases, events)
        uploads = Uploads(
            store,
            UploadTokens(secret),
            openings,
            debts,
            existence,
            refusals,
            most=limits.max_uploads_per_client,
            max_size=limits.max_upload_size,
        )
        stack.push_async_callback(uploads.close)
        await stack.enter_async_context(_every(_EXPIRY_SECONDS, uploads.expire))

        app = web.Application()
        draining.watch(app)
        app.middlewares.append(render_errors)
        app.middlewares.append(authentication(authenticator, refusals))
        bodies = Bodies(refusals, timeout=limits.body_timeout)
        RegistryApi(
            registries,
            rules,
            refusals,
            blobs=BlobHandlers(blobs),
            manifests=ManifestHandlers(
                manifests,
                pushes,
                {r.name: r.show for r in settings.registries},
                bodies,
                refusals,
                max_size=limits.max_manifest_size,
            ),
            uploads=UploadHandlers(uploads, registries, rules, bodies),
            listings=ListingHandlers(Listings(), Catalog(secret), rules),
        ).add_to(app)
        HealthHandlers(registries).add_to(app)
        watch_cache(store, metrics)
        watch_pushes(uplinks, metrics)
        watch_limits(admission, uploads, metrics)
        MetricsHandlers(metrics).add_to(app)

        if settings.verify_rate:
            verifying = verify_in_rounds(store, rate=settings.verify_rate, rounds=timing.rounds)
            await stack.enter_async_context(_beside(verifying))
        control = listening(Upkeep(store), store.space.layout.control)
        await stack.enter_async_context(control)
        yield Built(app, debts.drain)


async def serve(
    settings: Settings,
    *,
    stop: asyncio.Event,
    ready: Callable[[Started], None] | None = None,
    events: Events | None = None,
    timing: Timing | None = None,
) -> None:
    """Listen until `stop` is set, then finish what is in flight; raises `StartError`."""
    draining = Draining()
    events = events or Events()
    events.subscribe(EventLog().tell)
    async with build(settings, events, draining, timing or Timing()) as built:
        runner = web.AppRunner(
            built.app,
            handle_signals=False,
            access_log=_access_log,
            access_log_class=AccessLogger,
            shutdown_timeout=_FLUSH_SECONDS,
            auto_decompress=False,  # digests are of the bytes that were sent
            max_field_size=_MAX_HEADER_BYTES,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port)
            try:
                await site.start()
            except OSError as error:
                raise StartError(
                    f"cannot listen on {settings.host}:{settings.port}: {_reason(error)}; "
                    "choose another address with --listen"
                ) from error
            if ready is not None:
                host, port = runner.addresses[0][:2]
                names = [registry.name for registry in settings.registries]
                ready(Started(f"{host}:{port}", names))
            await stop.wait()
            _log.info("stopping: waiting up to %gs for requests", settings.shutdown_timeout)
            deadline = time.monotonic() + settings.shutdown_timeout
            await site.stop()
            await draining.finish(settings.shutdown_timeout)
            # What requests have promised is kept, as far as the time goes.
            await built.drain(max(0.0, deadline - time.monotonic()))
        finally:
            # Lets the last replies out, then closes what is left.
            await runner.cleanup()
