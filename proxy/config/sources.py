"""What the sources hold: flags, environment and file, checked key by key and merged.

Unknown keys are refused with the nearest known one. What the keys mean together is `load`'s.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from proxy.config.tables import (
    NewRepositoriesTable,
    PushTable,
    RuleTable,
    Table,
    kebab,
    split_names,
)
from proxy.config.values import (
    DEFAULT_ABANDON_FILLS_BELOW,
    DEFAULT_BODY_TIMEOUT,
    DEFAULT_CACHE_SIZE,
    DEFAULT_HEADER_TIMEOUT,
    DEFAULT_IDLE_TIMEOUT,
    DEFAULT_LISTEN,
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_MAX_CONNECTIONS_PER_CLIENT,
    DEFAULT_MAX_FILLS,
    DEFAULT_MAX_HEADER_SIZE,
    DEFAULT_MAX_MANIFEST_SIZE,
    DEFAULT_MAX_UPLOAD_SIZE,
    DEFAULT_MAX_UPLOADS_PER_CLIENT,
    DEFAULT_MIN_FREE,
    DEFAULT_SEND_TIMEOUT,
    DEFAULT_SHUTDOWN_TIMEOUT,
    DEFAULT_STALE_IF_ERROR,
    DEFAULT_TLS_CLIENT_USER,
    DEFAULT_VERIFY_RATE,
    ENV_PREFIX,
    CertificateName,
    LogLevel,
    PushMode,
    Rewrite,
    Show,
    parse_bytes,
    parse_cache_size,
    parse_count,
    parse_floor,
    parse_header_size,
    parse_listen,
    parse_manifest_size,
    parse_path,
    parse_registry,
    parse_seconds,
    parse_upload_size,
)
from proxy.sizes import Share

# A Kubernetes Service named ecr-cache-proxy puts its address into the environment of every pod of
# its namespace, under our prefix (Kubernetes, "Discovering services"). Those are no settings.
_SERVICE_LINK: Final = re.compile(
    r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
)

_PATHS: Final = frozenset(
    {
        *("cache-dir", "password-file", "htpasswd-file", "token-file", "ca-bundle"),
        *("tls-cert-file", "tls-key-file", "tls-client-ca-file"),
        *("client-cert-file", "client-key-file"),
    }
)


_Count: TypeAlias = Annotated[int, BeforeValidator(parse_count)]
_Seconds: TypeAlias = Annotated[float, BeforeValidator(parse_seconds)]
_File: TypeAlias = Annotated[Path, BeforeValidator(parse_path)]


class SettingsError(Exception):
    """A setting that makes no sense: one line that names it and says where it came from."""


def spell(name: str) -> str:
    """A key as the file spells it: what has a table of its own is written with a dot."""
    return {"push": "push.mode"}.get(name, kebab(name))


class Sources(BaseSettings):
    """The keys of all sources, each judged by itself.

    The file's alone are `tables`, `rules`, `push` (flags and variables say `push_mode`) and
    `new_repositories`.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=False,
    )

    # First, so that a mistake in a table is reported before what follows from it.
    tables: Annotated[tuple[Table, ...], NoDecode] = ()
    config: Path | None = None
    listen: Annotated[tuple[str, int], NoDecode, BeforeValidator(parse_listen)] = parse_listen(
        DEFAULT_LISTEN
    )
    registry: Annotated[
        tuple[Annotated[str, BeforeValidator(parse_registry)], ...],
        NoDecode,
        BeforeValidator(split_names),
    ] = ()
    cache_dir: Annotated[Path, BeforeValidator(parse_path)] | None = None
    cache_size: Annotated[int, BeforeValidator(parse_cache_size)] = parse_cache_size(
        DEFAULT_CACHE_SIZE
    )
    min_free: Annotated[Share, NoDecode, BeforeValidator(parse_floor)] = parse_floor(
        DEFAULT_MIN_FREE
    )
    verify_rate: Annotated[int, BeforeValidator(parse_bytes)] = parse_bytes(DEFAULT_VERIFY_RATE)
    stale_if_error: Annotated[float, BeforeValidator(parse_seconds)] = parse_seconds(
        DEFAULT_STALE_IF_ERROR
    )
    abandon_fills_below: Annotated[int, BeforeValidator(parse_bytes)] = parse_bytes(
        DEFAULT_ABANDON_FILLS_BELOW
    )
    rewrite: Rewrite | None = None
    show: Show | None = None
    push: Annotated[PushTable, NoDecode] = PushTable()
    push_mode: PushMode | None = None
    create_repositories: bool = False
    new_repositories: Annotated[NewRepositoriesTable, NoDecode] = NewRepositoriesTable()
    shutdown_timeout: Annotated[float, BeforeValidator(parse_seconds)] = parse_seconds(
        DEFAULT_SHUTDOWN_TIMEOUT
    )
    log_level: LogLevel = "info"
    insecure_no_client_auth: bool = False
    tls_cert_file: _File | None = None
    tls_key_file: _File | None = None
    tls_client_ca_file: _File | None = None
    tls_client_user: CertificateName = DEFAULT_TLS_CLIENT_USER
    htpasswd_file: _File | None = None
    token_file: _File | None = None
    tokens: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_names)] = ()
    rules: Annotated[tuple[RuleTable, ...], NoDecode] = ()
    read_only: bool = False
    ca_bundle: _File | None = None
    max_connections: _Count = parse_count(DEFAULT_MAX_CONNECTIONS)
    max_connections_per_client: _Count = parse_count(DEFAULT_MAX_CONNECTIONS_PER_CLIENT)
    max_header_size: Annotated[int, BeforeValidator(parse_header_size)] = parse_header_size(
        DEFAULT_MAX_HEADER_SIZE
    )
    max_manifest_size: Annotated[int, BeforeValidator(parse_manifest_size)] = parse_manifest_size(
        DEFAULT_MAX_MANIFEST_SIZE
    )
    max_upload_size: Annotated[int, BeforeValidator(parse_upload_size)] = parse_upload_size(
        DEFAULT_MAX_UPLOAD_SIZE
    )
    max_uploads_per_client: _Count = parse_count(DEFAULT_MAX_UPLOADS_PER_CLIENT)
    max_fills: _Count = parse_count(DEFAULT_MAX_FILLS)
    header_timeout: _Seconds = parse_seconds(DEFAULT_HEADER_TIMEOUT)
    body_timeout: _Seconds = parse_seconds(DEFAULT_BODY_TIMEOUT)
    send_timeout: _Seconds = parse_seconds(DEFAULT_SEND_TIMEOUT)
    idle_timeout: _Seconds = parse_seconds(DEFAULT_IDLE_TIMEOUT)


FILE_ALONE: Final = frozenset({"tables", "rules", "push", "new_repositories"})
NOT_IN_FILE: Final = frozenset({"tables", "rules", "config", "push_mode"})
# A flag is there for all to read in the list of processes.
NO_FLAG: Final = frozenset({"tokens"})
_KEYS: Final = frozenset(Sources.model_fields) - FILE_ALONE
_FILE_KEYS: Final = frozenset(Sources.model_fields) - NOT_IN_FILE
_INNER: Final[Mapping[str, type[BaseModel]]] = {
    "push": PushTable,
    "new-repositories": NewRepositoriesTable,
}


class Given:
    """Everything that was given, by source, so that an error can name where a value came from."""

    def __init__(self, flags: Mapping[str, object]) -> None:
        """Read the environment and the file that it or a flag names; raises `SettingsError`."""
        self._flags = {name: value for name, value in flags.items() if value not in (None, ())}
        self._variables = _read_environment()
        path = self._flags.get("config") or self._variables.get("config")
        try:
            self._path = None if path is None else parse_path(path)
        except ValueError as error:
            raise SettingsError(f"{self.name('config')}: {error}") from error
        self._file = {} if self._path is None else _read_file(self._path)

    def merge(self) -> Sources:
        """The keys of all sources, flags before environment before file."""
        flags, file = self._flags, self._file

        class Merged(Sources):
            @classmethod
            def settings_customise_sources(
                cls,
                settings_cls: type[BaseSettings],
                init_settings: PydanticBaseSettingsSource,
                env_settings: PydanticBaseSettingsSource,
                dotenv_settings: PydanticBaseSettingsSource,
                file_secret_settings: PydanticBaseSettingsSource,
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                return (
                    InitSettingsSource(settings_cls, flags),
                    env_settings,
                    InitSettingsSource(settings_cls, file),
                )

        try:
            return Merged()
        except ValidationError as error:
            raise SettingsError(self._describe(error)) from error

    @property
    def path(self) -> Path | None:
        """The settings file, where there is one."""
        return self._path

    @property
    def has_secrets(self) -> bool:
        """Whether a password or tokens stand in the file itself."""
        tables = self._file.get("tables")
        named = (
            [table for table in tables if "password" in table] if isinstance(tables, list) else []
        )
        return bool(named or self._file.get("tokens"))

    def in_file_alone(self, key: str) -> bool:
        """Whether no flag and no variable gives the key."""
        return key not in self._flags and key not in self._variables

    def name(self, key: str) -> str:
        """The key as its source spells it: `--cache-size`, or a variable, or a file and its key."""
        if key in self._flags:
            return f"--{kebab(key)}"
        if key in self._variables:
            return f"{ENV_PREFIX}{key.upper()}"
        if self._path is not None and key in self._file:
            return f"{self._path}: {kebab(key)}"
        return kebab(key)

    def name_table(self, position: int) -> str:
        """A table of the file, by its host or URL where it has one."""
        tables = self._file.get("tables")
        table = tables[position] if isinstance(tables, list) else {}
        name = str(table.get("host") or table.get("url") or "")
        if not name or "@" in name:  # a password may stand before the @
            name = f"table {position + 1}"
        return f"{self._path}: registry {name}"

    def _describe(self, error: ValidationError) -> str:
        """The first mistake, in one line; a key that is misspelt before one that is missing."""
        found = error.errors(include_url=False)
        first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
        location = first["loc"]
        within, path = self.name(str(location[0])), location[1:]
        if location[0] == "tables":
            within = f"{self.name_table(int(location[1]))}: {location[2]}"
            path = location[3:]
        if location[0] == "rules":
            within = f"{self._path}: rule {int(location[1]) + 1}: {location[2]}"
            path = ()
        # What follows is the place in a list, or the key in a table of its own.
        where = ".".join([within, *(part for part in path if isinstance(part, str))])
        if first["type"] == "extra_forbidden":
            inner = [_INNER[kebab(str(part))] for part in location if kebab(str(part)) in _INNER]
            outer = RuleTable if location[0] == "rules" else Table
            known = [spell(name) for name in (inner[0] if inner else outer).model_fields]
            return f"{where}: unknown key{_nearest(str(location[-1]), known)}"
        if first["type"] == "missing":
            return f"{where}: this key is missing"
        if first["type"] == "model_type":
            return f"{where}: write a table, not {first['input']!r}"
        if first["type"] == "value_error":
            return f"{where}: {first['ctx']['error']}"
        value = "" if {"password", "tokens"} & set(location) else f", not {first['input']!r}"
        return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}{value}"


def _read_environment() -> Mapping[str, str]:
    """Our variables by key; an empty one counts as not given."""
    given = {}
    for variable, value in sorted(os.environ.items()):
        key = variable.upper().removeprefix(ENV_PREFIX)
        if key == variable.upper() or _SERVICE_LINK.fullmatch(key):
            continue
        if key.lower() not in _KEYS:
            known = [ENV_PREFIX + name.upper() for name in _KEYS]
            raise SettingsError(f"{variable}: unknown variable{_nearest(variable, known)}")
        if value:
            given[key.lower()] = value
    return given


def _read_file(path: Path) -> dict[str, object]:
    """The file's keys in the spelling of `Sources`; raises `SettingsError`."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} is no TOML: {error}") from error
    known = {kebab(name): spell(name) for name in _FILE_KEYS} | {"rule": "rule"}
    for key in content:
        if key not in known:
            raise SettingsError(f"{path}: {key}: unknown key{_nearest(key, known.values())}")
    registries = content.pop("registry", [])
    if not isinstance(registries, list):
        raise SettingsError(f"{path}: registry: write [[registry]], in double brackets")
    tables = [_beside(path, entry) for entry in registries if isinstance(entry, dict)]
    rules = content.pop("rule", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise SettingsError(f"{path}: rule: write [[rule]], in double brackets")
    keys: dict[str, object] = {
        key.replace("-", "_"): value for key, value in _beside(path, content).items()
    }
    names = [
        (entry.get("host") or entry.get("url")) if isinstance(entry, dict) else entry
        for entry in registries
    ]
    keys |= {"rules": rules, "tables": tables}
    return keys | {"registry": [name for name in names if name is not None]}


def _beside(path: Path, entry: Mapping[str, object]) -> dict[str, object]:
    """The entry with its relative paths taken from the file's own folder."""
    return {
        key: path.parent / value
        if key in _PATHS and isinstance(value, str) and value and value[0] != "~"
        else value
        for key, value in entry.items()
    }


def _nearest(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
