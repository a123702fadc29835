"""What the parts hold, as gauges: which of their numbers are shown, and under what names."""

from __future__ import annotations

from collections.abc import Callable

from proxy.cache import BlobStore
from proxy.cache.fill import Fill
from proxy.metrics import Metrics
from proxy.services.downloads import Downloads
from proxy.services.uplink import Uplinks
from proxy.services.uploads import Uploads


def watch_cache(store: BlobStore, metrics: Metrics) -> None:
    """Show what is on disk, and how it is doing."""
    metrics.add_gauge(
        "cache_bytes",
        "Bytes on disk as the file system counts them: used, reserved for what is on its way, and "
        "the limit of both.",
        lambda: {
            "used": store.used_bytes,
            "reserved": store.reserved_bytes,
            "limit": store.budget_bytes,
        },
        label="state",
    )
    for name, text, read in (
        ("cache_blobs", "Blobs on disk.", lambda: store.blob_count),
        (
            "cache_unknown_files",
            "Files in the cache directory that are not the cache's, as far as they have been seen.",
            lambda: store.unknown_files,
        ),
        (
            "cache_degraded",
            "1 while the disk refuses writes, so that nothing is stored.",
            lambda: store.is_degraded,
        ),
        (
            "cache_scanning",
            "1 until what was on disk at the start is counted; nothing is stored before.",
            lambda: store.is_loading,
        ),
    ):
        metrics.add_gauge(name, text, read)


def watch_pushes(uplinks: Uplinks, metrics: Metrics) -> None:
    """Show how far clients have run ahead of upstream."""
    metrics.add_gauge(
        "owed_bytes",
        "Bytes of pushed blobs that upstream has not confirmed yet, by registry.",
        uplinks.owed_bytes,
        label="registry",
    )
    metrics.add_gauge(
        "owed_blobs",
        "Blobs that clients were told are taken and that upstream has not got yet, by registry.",
        uplinks.owed_blobs,
        label="registry",
    )


def watch_connections(count: Callable[[], int], metrics: Metrics) -> None:
    """Show how many connections clients have open."""
    metrics.add_gauge("connections_open", "Connections of clients.", count)


def watch_limits(downloads: Downloads[Fill], uploads: Uploads, metrics: Metrics) -> None:
    """Show what clients take of what there is only so much of."""
    for name, text, read in (
        (
            "fills_running",
            "Blobs that are being fetched from registries.",
            lambda: downloads.running,
        ),
        (
            "fills_waiting",
            "Requests for blobs that wait for their turn to be fetched.",
            lambda: downloads.waiting,
        ),
        ("uploads_open", "Uploads that clients have open.", lambda: uploads.open_count),
    ):
        metrics.add_gauge(name, text, read)
