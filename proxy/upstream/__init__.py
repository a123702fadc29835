"""HTTP out: registries, their credentials, their errors; ECR and any other OCI registry.

Never knows caches or rewriting. `Registry` is all that services see, and whatever it raises is a
`RegistryError`. boto3 is imported in this package only.
"""

from __future__ import annotations

from proxy.upstream.blobs import BlobStream
from proxy.upstream.hosts import EcrHost, parse_host
from proxy.upstream.registry import Registry, open_registry
from proxy.upstream.trust import Trust
from proxy.upstream.values import (
    BlobState,
    Body,
    ManifestHead,
    NewRepositories,
    Page,
    PutReply,
    Referrers,
    RegistryConfig,
    Tuning,
    Upload,
)

__all__ = [
    "BlobState",
    "BlobStream",
    "Body",
    "EcrHost",
    "ManifestHead",
    "NewRepositories",
    "Page",
    "PutReply",
    "Referrers",
    "Registry",
    "RegistryConfig",
    "Trust",
    "Tuning",
    "Upload",
    "open_registry",
    "parse_host",
]
