"""Bytes on disk: blobs by digest, uploads on their way, small records; all within one budget.

Nothing here knows manifests, what HTTP is, or where bytes come from.
"""

from proxy.cache.errors import CacheError, FillFailed, NoSpace, WrongDigest
from proxy.cache.fill import Fill
from proxy.cache.inspection import Audit, Checked
from proxy.cache.records import RecordStore
from proxy.cache.secret import load_secret
from proxy.cache.sources import PATIENCE, Patience, Source, SourceStream
from proxy.cache.spool import Spool
from proxy.cache.store import BlobStore
from proxy.cache.values import Pin, PinnedBlob, StoredBlob, Usage

__all__ = [
    "PATIENCE",
    "Audit",
    "BlobStore",
    "CacheError",
    "Checked",
    "Fill",
    "FillFailed",
    "NoSpace",
    "Patience",
    "Pin",
    "PinnedBlob",
    "RecordStore",
    "Source",
    "SourceStream",
    "Spool",
    "StoredBlob",
    "Usage",
    "WrongDigest",
    "load_secret",
]
