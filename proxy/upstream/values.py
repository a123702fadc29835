"""What upstream is configured with, asked with and answers with, as plain values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from proxy.oci import Digest

Body: TypeAlias = Callable[[], AsyncIterator[bytes]]
"""A request's body that can be asked for again, so that the request can be repeated."""


@dataclass(frozen=True, slots=True)
class NewRepositories:
    """With what settings a missing repository is created in ECR.

    `mutable_tags` are patterns of up to five tags that may move though `immutable_tags` is on.
    Without a `kms_key` (an ARN, an id or an alias) ECR encrypts with keys of its own.
    """

    immutable_tags: bool = False
    mutable_tags: tuple[str, ...] = ()
    scan_on_push: bool = False
    kms_key: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """One registry: where it is, and how to authenticate.

    `name` is the host as clients write it; `url` is the base URL when that is not `https://name`.
    With `ecr`, tokens come from AWS (`api_url`: the endpoint of ECR's JSON API when it is not
    AWS's); otherwise `username` and `password`, or nothing. `redirect_hosts` are patterns such as
    `*.cdn.example`, added to the defaults: the registry's own host, and AWS's storage for ECR.
    `new_repositories` is None where none may be created. The client's certificate and key (PEM) are
    for a registry that asks for one.
    """

    name: str
    url: str | None = None
    ecr: bool = False
    api_url: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    role_session_name: str = "ecr-cache-proxy"
    region: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    # No setting: the credential chain has them. The demo passes its stand-in's.
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    redirect_hosts: tuple[str, ...] = ()
    new_repositories: NewRepositories | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """Limits of time and number; seconds throughout.

    `queue` bounds the wait for a place among the requests to a host, its connection included.
    `idle` is how long a peer may be silent while we wait for it, in either direction; `stall` the
    same for a blob that is being read, which is asked for again then. Twice that must be less than
    the 30 s in which some clients want a reply's headers (BUILDKIT.md), and S3 is never so long
    about a byte when all is well. `answer` is the same for a question, a GET or HEAD of what is
    small: pulls are to hear of an outage soon. `patience` bounds all repetitions of one request,
    and `push_patience` those of a request that waits out trouble, for a push: clients do not repeat
    it. `first_pause` is before the first repetition, `longest_pause` before any of a patient
    request. `between` is the least time between two requests for a token after one failed.
    `connections` is per host, for requests and for uploads each. `rates` are ECR's, in requests a
    second by operation, where they are not those of ECR.md §4.

    So many `failures` in a row make an outage likely; `verdict` is what the registry then has to
    answer a probe in. `first_probe` to `last_probe` is how far apart those after it are.
    """

    connect: float = 10.0
    queue: float = 30.0
    idle: float = 60.0
    answer: float = 15.0
    stall: float = 10.0
    patience: float = 5.0
    push_patience: float = 20.0
    attempts: int = 4
    first_pause: float = 0.25
    longest_pause: float = 4.0
    between: float = 5.0
    start_wait: float = 0.7
    close_wait: float = 2.0
    connections: int = 32
    rates: Mapping[str, float] | None = None
    failures: int = 3
    verdict: float = 4.0
    first_probe: float = 1.0
    last_probe: float = 10.0


@dataclass(frozen=True, slots=True)
class BlobState:
    """What upstream decided of a blob; `size` in bytes, None if it did not say."""

    exists: bool
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What HEAD says of a manifest; `size` in bytes. None: upstream did not say.

    `age`: upstream is a proxy of this kind that could not ask, either, and said what was so that
    many seconds ago.
    """

    digest: Digest | None
    media_type: str
    size: int | None
    age: float | None = None


@dataclass(frozen=True, slots=True)
class PutReply:
    """The answer to a manifest's PUT.

    `subject` and `tags` are OCI-Subject and OCI-Tag, which the client is told in turn.
    """

    digest: Digest | None
    subject: str | None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that upstream has open.

    `location` is absolute, and byte for byte what upstream gave; only upstream understands it.
    `min_part`: no chunk but the last may have fewer bytes (0: any size will do).
    """

    location: str = field(repr=False)
    min_part: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing; `next_last` is the opaque `last` that asks for the next one."""

    names: tuple[str, ...]
    next_last: str | None


@dataclass(frozen=True, slots=True)
class Referrers:
    """An image index of referrers, verbatim.

    `filtered`: upstream applied the artifact type. `next_query`: the query string, verbatim, that
    asks for the next page.
    """

    content: bytes
    filtered: bool
    next_query: str | None
