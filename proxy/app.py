"""The composition root: builds every part from the settings, wires them, closes them in reverse."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from proxy.background import beside, every
from proxy.cache import PATIENCE, BlobStore, CacheError, Patience, RecordStore, load_secret
from proxy.cache.fill import Fill
from proxy.config import Settings
from proxy.event_log import EventLog
from proxy.events import Events
from proxy.file_limit import room_for_connections
from proxy.gauges import watch_cache, watch_connections, watch_limits, watch_pushes
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
from proxy.handlers.server import HttpServer, Limits
from proxy.handlers.uploads import UploadHandlers
from proxy.metrics import Metrics
from proxy.refusals import Refusals
from proxy.services.blobs import Blobs
from proxy.services.catalog import Catalog
from proxy.services.completeness import Completeness
from proxy.services.debts import Debts, Owed
from proxy.services.downloads import WAIT_SECONDS, Downloads
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
from proxy.tls import ServerTls, TlsError
from proxy.upstream import Tuning
from proxy.wiring import StartError as StartError
from proxy.wiring import open_authenticator, open_registries, rules_of

_log = logging.getLogger(__name__)

_EXPIRY_SECONDS: Final = 600.0
# The free space of the file system is looked at as often, and times of last use are written down.
_TEND_SECONDS: Final = 5.0
# How often the files of a certificate are looked at.
_CERTIFICATE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Started:
    """What runs: the address it listens on (`host:port`), and its registries by name."""

    address: str
    registries: Sequence[str]
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"


@dataclass(frozen=True, slots=True)
class Timing:
    """When and for how long, where no setting says it; in tests, time runs out sooner.

    `rounds` of the background verify, `tuning` of what is asked upstream, `patience` with a blob
    that breaks off; `fill_wait` is how many seconds a reader waits for a download to begin, and
    `certificate_seconds` pass between looks at the certificate's files. By `clock`, in seconds,
    what upstream has said grows old, and what is to outlive a restart does so by `now`, in seconds
    since the epoch.
    """

    rounds: Rounds = field(default_factory=Rounds)
    tuning: Tuning = field(default_factory=Tuning)
    patience: Patience = PATIENCE
    fill_wait: float = WAIT_SECONDS
    certificate_seconds: float = _CERTIFICATE_SECONDS
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Built:
    """What listens, and `drain`, which waits so many seconds at most until nothing is owed."""

    app: web.Application
    refusals: Refusals
    metrics: Metrics
    drain: Callable[[float], Awaitable[None]]


def _reason(error: OSError) -> str:
    """The system's own words: asyncio wraps them in a text that repeats the address."""
    code = error.errno or 0  # negative for a name that cannot be resolved
    return os.strerror(code) if code > 0 else str(error.strerror)


@asynccontextmanager
async def build(
    settings: Settings, events: Events, draining: Draining, timing: Timing, tls: ServerTls | None
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
            await stack.enter_async_context(every(_TEND_SECONDS, store.tend))
            records = await RecordStore.open(store)
            secret = await load_secret(store.space.layout)
        except CacheError as error:
            raise StartError(str(error)) from error
        registries = await open_registries(settings, events, refusals, stack, timing.tuning)

        proofs = Proofs(stale_seconds=settings.stale_if_error, clock=timing.clock)
        leases = Leases(store, clock=timing.clock)
        stack.callback(leases.close)
        await stack.enter_async_context(every(_TEND_SECONDS, leases.expire))
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
        await stack.enter_async_context(every(_EXPIRY_SECONDS, debts.expire))

        vouched = Vouched(clock=timing.clock)
        limits = settings.limits
        downloads: Downloads[Fill] = Downloads(limits.max_fills, refusals, wait=timing.fill_wait)
        blobs = Blobs(
            store, proofs, existence, debts, vouched, downloads, events, clock=timing.clock
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
        await stack.enter_async_context(every(_EXPIRY_SECONDS, uploads.expire))

        app = web.Application()
        draining.watch(app)
        app.middlewares.append(render_errors)
        trusts = (lambda _: False) if tls is None else tls.trusts
        app.middlewares.append(authentication(authenticator, refusals, trusts=trusts))
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
        HealthHandlers(registries, rules).add_to(app)
        watch_cache(store, metrics)
        watch_pushes(uplinks, metrics)
        watch_limits(downloads, uploads, metrics)
        MetricsHandlers(metrics).add_to(app)

        if settings.verify_rate:
            verifying = verify_in_rounds(store, rate=settings.verify_rate, rounds=timing.rounds)
            await stack.enter_async_context(beside(verifying))
        control = listening(Upkeep(store), store.space.layout.control)
        await stack.enter_async_context(control)
        yield Built(app, refusals, metrics, debts.drain)


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
    timing = timing or Timing()
    async with AsyncExitStack() as stack:
        tls = await _open_tls(settings, stack, timing)
        built = await stack.enter_async_context(build(settings, events, draining, timing, tls))
        server = HttpServer(
            built.app,
            limits=_connection_limits(settings),
            refusals=built.refusals,
            tls=None if tls is None else lambda: tls.context,
        )
        watch_connections(lambda: server.connections, built.metrics)
        try:
            try:
                host, port = await server.open(settings.host, settings.port)
            except OSError as error:
                raise StartError(
                    f"cannot listen on {settings.host}:{settings.port}: {_reason(error)}; "
                    "choose another address with --listen"
                ) from error
            if ready is not None:
                address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                names = [registry.name for registry in settings.registries]
                ready(Started(address, names, "http" if tls is None else "https"))
            await stop.wait()
            _log.info("stopping: waiting up to %gs for requests", settings.shutdown_timeout)
            deadline = time.monotonic() + settings.shutdown_timeout
            server.stop()
            await draining.finish(settings.shutdown_timeout)
            # What requests have promised is kept, as far as the time goes.
            await built.drain(max(0.0, deadline - time.monotonic()))
        finally:
            await server.close()


async def _open_tls(settings: Settings, stack: AsyncExitStack, timing: Timing) -> ServerTls | None:
    """The certificate, looked at again as long as the stack lasts; raises `StartError`."""
    if settings.tls is None:
        return None
    try:
        tls = await asyncio.to_thread(
            ServerTls,
            cert_file=settings.tls.cert_file,
            key_file=settings.tls.key_file,
            client_ca_file=settings.tls.client_ca_file,
            now=timing.now,
        )
    except TlsError as error:
        raise StartError(str(error)) from error

    async def refresh() -> None:
        await asyncio.to_thread(tls.refresh)

    await stack.enter_async_context(every(timing.certificate_seconds, refresh))
    return tls


def _connection_limits(settings: Settings) -> Limits:
    limits = settings.limits
    return Limits(
        max_connections=room_for_connections(limits.max_connections),
        max_connections_per_client=limits.max_connections_per_client,
        max_header_size=limits.max_header_size,
        header_timeout=limits.header_timeout,
        send_timeout=limits.send_timeout,
        idle_timeout=limits.idle_timeout,
    )
