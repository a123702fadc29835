"""The settings as frozen values, their defaults, and the grammar of a single value.

The parsers take what a flag, a variable or a TOML value holds and raise `ValueError` with a
sentence for the person who wrote it. Nothing here reads files or the environment.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

from proxy.oci import MAX_MANIFEST_BYTES
from proxy.sizes import Share, parse_duration, parse_share, parse_size

Rewrite: TypeAlias = Literal["auto", "always", "never"]
Show: TypeAlias = Literal["auto", "stored", "index", "image-manifest"]
PushMode: TypeAlias = Literal["write-back", "write-through"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
Action: TypeAlias = Literal["pull", "push", "delete"]
CertificateName: TypeAlias = Literal["common-name", "dns-name", "email", "uri"]

DEFAULT_LISTEN: Final = "127.0.0.1:5000"
DEFAULT_CACHE_SIZE: Final = "20GiB"
DEFAULT_MIN_FREE: Final = "1%"
DEFAULT_VERIFY_RATE: Final = "4MiB"
DEFAULT_STALE_IF_ERROR: Final = "12h"
DEFAULT_ABANDON_FILLS_BELOW: Final = "0"
DEFAULT_PUSH_MODE: Final[PushMode] = "write-back"
DEFAULT_SHUTDOWN_TIMEOUT: Final = "30s"
DEFAULT_TLS_CLIENT_USER: Final[CertificateName] = "common-name"
DEFAULT_MAX_CONNECTIONS: Final = "4096"
DEFAULT_MAX_CONNECTIONS_PER_CLIENT: Final = "256"
DEFAULT_MAX_HEADER_SIZE: Final = "64KiB"
DEFAULT_MAX_MANIFEST_SIZE: Final = "4MiB"
DEFAULT_MAX_UPLOAD_SIZE: Final = "52000MiB"
DEFAULT_MAX_UPLOADS_PER_CLIENT: Final = "256"
DEFAULT_MAX_FILLS: Final = "256"
DEFAULT_HEADER_TIMEOUT: Final = "30s"
DEFAULT_BODY_TIMEOUT: Final = "60s"
DEFAULT_SEND_TIMEOUT: Final = "60s"
DEFAULT_IDLE_TIMEOUT: Final = "2m"
ENV_PREFIX: Final = "ECR_CACHE_PROXY_"

_MIN_CACHE_BYTES: Final = 1024 * 1024
_ALL_ADDRESSES: Final = "0.0.0.0"  # noqa: S104 what an empty host means; refused without a flag
# ECR's API reference, CreateRepository, and the limits of its tags.
_MAX_MUTABLE_TAGS: Final = 5
_MUTABLE_TAG: Final = re.compile(r"[0-9a-zA-Z._*-]{1,128}")
_KMS_KEY: Final = re.compile(r"arn:\S{1,2000}|alias/\S{1,250}|(mrk-)?[0-9a-f-]{32,36}")
_MAX_TAG_KEY: Final = 128
_MAX_TAG_VALUE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRepositorySettings:
    """With what settings a missing repository is created in ECR.

    `mutable_tags` are patterns of tags that may move though `immutable_tags` is on. Without a
    `kms_key` ECR encrypts with AES-256 and keys of its own.
    """

    immutable_tags: bool = False
    mutable_tags: tuple[str, ...] = ()
    scan_on_push: bool = False
    kms_key: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """One upstream registry.

    `name` is the host as clients write it, `url` the base URL of its registry API where that is
    not `https://name`. `ecr` says how it was given: by host (ECR, tokens from AWS) or by URL (any
    registry; `username` and `password`, or nothing). `api_url` is the endpoint of ECR's JSON API
    when it is not AWS's. The client's certificate and key (PEM) are for a registry that asks for
    one. `new_repositories` is None where none may be created. No file sets the access key: it is
    for the demo's stand-in alone.
    """

    name: str
    url: str | None = None
    ecr: bool = False
    api_url: str | None = None
    region: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    role_session_name: str = "ecr-cache-proxy"
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    redirect_hosts: tuple[str, ...] = ()
    rewrite: Rewrite = "auto"
    show: Show = "auto"
    push_mode: PushMode = DEFAULT_PUSH_MODE
    new_repositories: NewRepositorySettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """How the proxy speaks TLS to clients. The files are PEM.

    With a `client_ca_file` a client may authenticate by a certificate that it has signed;
    `client_user` says which of its names is the user.
    """

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    client_user: CertificateName = DEFAULT_TLS_CLIENT_USER


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSettings:
    """What users may do, by patterns (`fnmatch`) of their names, of repositories and registries."""

    users: tuple[str, ...]
    repositories: tuple[str, ...]
    registries: tuple[str, ...] = ("*",)
    allow: frozenset[Action] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Who may use the proxy, and for what.

    `tokens` are `USER:sha256:HEX`, as are the lines of the `token_file`. Without `rules` whoever
    is authenticated may do everything. `read_only` goes before them.
    """

    htpasswd_file: Path | None = None
    token_file: Path | None = None
    tokens: tuple[str, ...] = field(default=(), repr=False)
    rules: tuple[RuleSettings, ...] = ()
    read_only: bool = False

    @property
    def authenticates(self) -> bool:
        """Whether clients must give a password or a token (or a certificate, by `TlsSettings`)."""
        return bool(self.htpasswd_file or self.token_file or self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """What clients may take: connections, bytes, uploads that are open, fills; and seconds.

    A client is a user where it has authenticated, else an address.
    """

    max_connections: int = int(DEFAULT_MAX_CONNECTIONS)
    max_connections_per_client: int = int(DEFAULT_MAX_CONNECTIONS_PER_CLIENT)
    max_header_size: int = parse_size(DEFAULT_MAX_HEADER_SIZE)
    max_manifest_size: int = parse_size(DEFAULT_MAX_MANIFEST_SIZE)
    max_upload_size: int = parse_size(DEFAULT_MAX_UPLOAD_SIZE)
    max_uploads_per_client: int = int(DEFAULT_MAX_UPLOADS_PER_CLIENT)
    max_fills: int = int(DEFAULT_MAX_FILLS)
    header_timeout: float = parse_duration(DEFAULT_HEADER_TIMEOUT)
    body_timeout: float = parse_duration(DEFAULT_BODY_TIMEOUT)
    send_timeout: float = parse_duration(DEFAULT_SEND_TIMEOUT)
    idle_timeout: float = parse_duration(DEFAULT_IDLE_TIMEOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of a proxy's settings.

    `cache_size` and `abandon_fills_below` are in bytes, `verify_rate` in bytes a second (0: never),
    `stale_if_error` and `shutdown_timeout` in seconds.

    `registries` has at least one; the first is the default. `proxies` are the forward proxies of
    the environment by scheme, with the exceptions under `no`, as `urllib` reads them. `ca_bundle`
    holds certificates (PEM) that are trusted upstream beside the system's. Without `tls` clients
    are served over plain HTTP.
    """

    registries: tuple[RegistrySettings, ...]
    cache_dir: Path
    host: str = "127.0.0.1"
    port: int = 5000
    cache_size: int = parse_size(DEFAULT_CACHE_SIZE)
    min_free: Share = field(default_factory=lambda: parse_share(DEFAULT_MIN_FREE))
    verify_rate: int = parse_size(DEFAULT_VERIFY_RATE)
    stale_if_error: float = parse_duration(DEFAULT_STALE_IF_ERROR)
    abandon_fills_below: int = parse_size(DEFAULT_ABANDON_FILLS_BELOW)
    shutdown_timeout: float = parse_duration(DEFAULT_SHUTDOWN_TIMEOUT)
    log_level: LogLevel = "info"
    insecure_no_client_auth: bool = False
    tls: TlsSettings | None = None
    access: AccessSettings = field(default_factory=AccessSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    ca_bundle: Path | None = None
    # They may hold passwords.
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    # For the log: files of secrets that others can read.
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def authenticates(self) -> bool:
        """Whether clients must say who they are, in any way."""
        by_certificate = self.tls is not None and self.tls.client_ca_file is not None
        return self.access.authenticates or by_certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """The part of the settings that says which cache it is; as in `Settings`."""

    cache_dir: Path
    cache_size: int
    min_free: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """The part of the settings that says where the proxy is to be found, over TLS or not."""

    host: str
    port: int
    tls: bool


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address. A name other than localhost is not trusted."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parse_listen(value: object) -> tuple[str, int]:
    """Host and port of `HOST:PORT`: an IPv6 address in brackets, no host for every address."""
    host, colon, port = str(value).rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or (":" in host and not bracketed):
        raise ValueError(f"{value!r} is no address to listen on; write HOST:PORT")
    if int(port) > 65535:
        raise ValueError(f"{port} is no port: 65535 is the highest")
    return (host[1:-1] if bracketed else host or _ALL_ADDRESSES, int(port))


def parse_cache_size(value: object) -> int:
    """Bytes. A number without its unit is the likely mistake, so there is a least size."""
    size = parse_size(str(value))
    if size < _MIN_CACHE_BYTES:
        raise ValueError(f"{value} is {size} bytes, and 1MiB is the least; is the unit missing?")
    return size


def parse_bytes(value: object) -> int:
    return parse_size(str(value))


def parse_count(value: object) -> int:
    """How many of something there may be: one at least."""
    text = "" if isinstance(value, bool) else str(value)
    if not re.fullmatch(r"[0-9]{1,9}", text) or not int(text):
        raise ValueError(f"{value!r} is no number of at least 1")
    return int(text)


def parse_manifest_size(value: object) -> int:
    """Bytes. A registry takes 4 MiB (distribution-spec, "Pushing Manifests"), and ECR no more."""
    size = parse_bytes(value)
    if not 1024 <= size <= MAX_MANIFEST_BYTES:
        raise ValueError(f"{value} is not between 1KiB and 4MiB, which is the most registries take")
    return size


def parse_upload_size(value: object) -> int:
    """Bytes. Elsewhere 0 stands for no limit, and here it would be for no blob."""
    size = parse_bytes(value)
    if not size:
        raise ValueError("with 0 no blob would be taken; leave it out for ECR's own limit")
    return size


def parse_header_size(value: object) -> int:
    """Bytes. What clients of every kind send must find room."""
    size = parse_bytes(value)
    if not 8 * 1024 <= size <= 1024 * 1024:
        raise ValueError(f"{value} is not between 8KiB and 1MiB")
    return size


def parse_patterns(value: object) -> tuple[str, ...]:
    """Patterns of a rule: a list, or one by itself."""
    patterns = (value,) if isinstance(value, str) else value
    if not isinstance(patterns, list | tuple) or not patterns:
        raise ValueError(f'{value!r} is no list of patterns; write ["team/*"]')
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            raise ValueError(f"{pattern!r} is no pattern; write team/*, or * for all")
    return tuple(patterns)


def parse_name_patterns(value: object) -> tuple[str, ...]:
    """Patterns of repositories or registries, whose names are in lower case."""
    patterns = parse_patterns(value)
    for pattern in patterns:
        if pattern != pattern.lower():
            raise ValueError(
                f"{pattern!r} matches nothing: names of repositories and registries are in lower "
                f"case; write {pattern.lower()!r}"
            )
    return patterns


def parse_floor(value: object) -> Share:
    return parse_share(str(value))


def parse_seconds(value: object) -> float:
    return parse_duration(str(value))


def parse_path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"{value!r} is no path")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{str(value)!r}: {error}") from error


def parse_mutable_tags(value: object) -> object:
    """Patterns of tags, as ECR takes them for filters of a repository's immutability."""
    if not isinstance(value, list):
        raise ValueError(f'{value!r} is no list of patterns; write ["cache*"]')
    for pattern in value:
        if not isinstance(pattern, str) or not _MUTABLE_TAG.fullmatch(pattern):
            raise ValueError(f"{pattern!r} is no pattern of tags; write cache*, or *-cache")
    if len(value) > _MAX_MUTABLE_TAGS:
        raise ValueError(f"{len(value)} patterns, and ECR takes {_MAX_MUTABLE_TAGS} at most")
    return value


def parse_kms_key(value: object) -> str:
    if not isinstance(value, str) or not _KMS_KEY.fullmatch(value):
        raise ValueError(
            f"{value!r} is no KMS key; give its ARN, its id, or alias/NAME (alias/aws/ecr is "
            "AWS's own key for ECR)"
        )
    return value


def parse_resource_tags(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError(f'{value!r} is no table of tags; write {{team = "build"}}')
    for key, text in value.items():
        if not isinstance(text, str):
            raise ValueError(f"{key} is {text!r}: a tag's value is a string")
        if not 0 < len(key) <= _MAX_TAG_KEY or len(text) > _MAX_TAG_VALUE:
            raise ValueError(
                f"{key[:_MAX_TAG_KEY]!r}: a tag's key has 1 to {_MAX_TAG_KEY} characters, its "
                f"value {_MAX_TAG_VALUE} at most"
            )
    return value


def parse_registry(value: object) -> str:
    """What `--registry` takes: a URL, or the host name of an ECR registry."""
    return parse_base_url(value) if "://" in str(value) else parse_host_name(value)


def parse_host_name(value: object) -> str:
    """A host name without port, in lower case."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._-]+", value):
        raise ValueError(
            f"{value!r} is no host name of ECR; for another registry give its URL, https://HOST"
        )
    return value.lower()


def parse_base_url(value: object) -> str:
    """`http://HOST[:PORT]` or `https://…`, in lower case, without the scheme's own port."""
    try:
        parts = urlsplit(str(value))
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{value!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{value!r} is no registry's URL; write http://HOST:PORT or https://HOST")
    if "@" in parts.netloc:
        raise ValueError("a URL has no place for a password; use username and password-file")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{value!r} names more than a host; a registry's API is at its root, /v2/")
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, default) else "")
