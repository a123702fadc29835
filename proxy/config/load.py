"""What the given keys mean together: the one way from sources to `Settings`."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from proxy.config.secret_files import check_secret_files
from proxy.config.sources import Given, SettingsError, Sources
from proxy.config.tables import Table, kebab
from proxy.config.values import (
    DEFAULT_PUSH_MODE,
    AccessSettings,
    CacheSettings,
    LimitSettings,
    ListenSettings,
    NewRepositorySettings,
    PushMode,
    RegistrySettings,
    RuleSettings,
    Settings,
    TlsSettings,
    is_loopback,
)

_AWS: Final = frozenset(
    {
        "region",
        "profile",
        "role_arn",
        "external_id",
        "role_session_name",
        "endpoint",
        "api_endpoint",
        "create_repositories",
        "new_repositories",
    }
)
_BY_URL: Final = frozenset(
    {"username", "password", "password_file", "client_cert_file", "client_key_file"}
)


def load_settings(flags: Mapping[str, object]) -> Settings:
    """The settings that flags, environment and file make together; raises `SettingsError`.

    `flags` holds what the command line gave, by name (`cache_size`), as the user typed it: all
    sources are judged by one rule. None and an empty tuple count as not given.
    """
    given = Given(flags)
    sources = given.merge()
    host, port = sources.listen
    registries = _resolve_registries(sources, given)
    settings = Settings(
        host=host,
        port=port,
        registries=registries,
        cache_dir=_resolve_cache_dir(sources),
        cache_size=sources.cache_size,
        min_free=sources.min_free,
        verify_rate=sources.verify_rate,
        stale_if_error=sources.stale_if_error,
        abandon_fills_below=sources.abandon_fills_below,
        shutdown_timeout=sources.shutdown_timeout,
        log_level=sources.log_level,
        insecure_no_client_auth=sources.insecure_no_client_auth,
        tls=_resolve_tls(sources, given),
        access=_resolve_access(sources),
        limits=_resolve_limits(sources, given),
        ca_bundle=sources.ca_bundle,
        proxies=urllib.request.getproxies_environment(),
        warnings=(*_check_files(sources, given), *_check_rules(sources, given, registries)),
    )
    is_open = not settings.authenticates and not settings.insecure_no_client_auth
    if is_open and not is_loopback(host):
        raise SettingsError(
            f"{given.name('listen')}: {host} is no loopback address, and clients are not "
            "authenticated: whoever reaches it pulls and pushes with the proxy's credentials; "
            "authenticate them (--htpasswd-file, --token-file, --tls-client-ca-file), or accept "
            "that with --insecure-no-client-auth"
        )
    return settings


def _check_files(sources: Sources, given: Given) -> tuple[str, ...]:
    secrets = [sources.htpasswd_file, sources.token_file, sources.tls_key_file]
    for table in sources.tables:
        secrets += [table.password_file, table.client_key_file]
    trusted = [sources.ca_bundle, sources.tls_client_ca_file, sources.tls_cert_file]
    (secrets if given.has_secrets else trusted).append(given.path)
    return tuple(check_secret_files(secrets, trusted))


def _check_rules(
    sources: Sources, given: Given, registries: Sequence[RegistrySettings]
) -> Iterator[str]:
    """Warnings about rules that are of no use, which most often is a misspelt name."""
    if not all(registry.ecr for registry in registries):
        return  # another proxy upstream may have registries of any name
    names = [registry.name for registry in registries]
    for number, rule in enumerate(sources.rules, 1):
        if not any(fnmatchcase(name, pattern) for name in names for pattern in rule.registries):
            yield (
                f"{given.path}: rule {number}: registries: no configured registry matches "
                f"{', '.join(rule.registries)}; configured: {', '.join(names)}"
            )


def load_cache_settings(flags: Mapping[str, object]) -> CacheSettings:
    """Of the settings only what says which cache it is: no registry is needed for that.

    From the same sources, which are judged as a whole, and with the same `SettingsError`.
    """
    sources = Given(flags).merge()
    return CacheSettings(
        cache_dir=_resolve_cache_dir(sources),
        cache_size=sources.cache_size,
        min_free=sources.min_free,
    )


def load_listen_settings(flags: Mapping[str, object]) -> ListenSettings:
    """Of the settings only where the proxy listens, and whether it speaks TLS there.

    From the same sources, which are judged as a whole, and with the same `SettingsError`.
    """
    given = Given(flags)
    sources = given.merge()
    host, port = sources.listen
    return ListenSettings(host=host, port=port, tls=_resolve_tls(sources, given) is not None)


def _resolve_cache_dir(sources: Sources) -> Path:
    return (sources.cache_dir or default_cache_dir()).absolute()


def default_cache_dir() -> Path:
    """The system's cache folder for root, else the user's (XDG base directory specification)."""
    if os.geteuid() == 0:
        return Path("/var/cache/ecr-cache-proxy")
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):  # the specification: a relative one is to be ignored
        return Path(base, "ecr-cache-proxy")
    try:
        return Path.home() / ".cache" / "ecr-cache-proxy"
    except RuntimeError as error:
        raise SettingsError("cache-dir: there is no home directory; give --cache-dir") from error


def _resolve_tls(sources: Sources, given: Given) -> TlsSettings | None:
    if sources.tls_cert_file is None or sources.tls_key_file is None:
        for key in ("tls_cert_file", "tls_key_file", "tls_client_ca_file", "tls_client_user"):
            if key in sources.model_fields_set:
                raise SettingsError(
                    f"{given.name(key)}: TLS needs both tls-cert-file and tls-key-file"
                )
        return None
    if "tls_client_user" in sources.model_fields_set and sources.tls_client_ca_file is None:
        raise SettingsError(f"{given.name('tls_client_user')}: it goes with tls-client-ca-file")
    return TlsSettings(
        cert_file=sources.tls_cert_file,
        key_file=sources.tls_key_file,
        client_ca_file=sources.tls_client_ca_file,
        client_user=sources.tls_client_user,
    )


def _resolve_access(sources: Sources) -> AccessSettings:
    return AccessSettings(
        htpasswd_file=sources.htpasswd_file,
        token_file=sources.token_file,
        tokens=sources.tokens,
        rules=tuple(
            RuleSettings(
                users=rule.users,
                repositories=rule.repositories,
                registries=rule.registries,
                allow=frozenset(rule.allow),
            )
            for rule in sources.rules
        ),
        read_only=sources.read_only,
    )


def _resolve_limits(sources: Sources, given: Given) -> LimitSettings:
    limits = LimitSettings(**{f.name: getattr(sources, f.name) for f in fields(LimitSettings)})
    for key in ("header_timeout", "body_timeout", "send_timeout", "idle_timeout"):
        if not getattr(limits, key):
            raise SettingsError(f"{given.name(key)}: a client needs some time; write 30s")
    return limits


def _resolve_registries(sources: Sources, given: Given) -> tuple[RegistrySettings, ...]:
    """The registries named by the first source that names any, each with the file's table on it."""
    tables: dict[str, Table] = {}
    for position, table in enumerate(sources.tables):
        where = given.name_table(position)
        if problem := _problem(table):
            raise SettingsError(f"{where}: {problem}")
        if table.key in tables:
            raise SettingsError(f"{where}: {table.key} has a table already")
        tables[table.key] = table

    registries: dict[str, RegistrySettings] = {}
    for key in sources.registry:
        table = tables.get(key) or (Table(url=key) if "://" in key else Table(host=key))
        registry = _resolve(table, sources, given)
        if registry.name in registries:
            raise SettingsError(f"{given.name('registry')}: {registry.name} is there twice")
        registries[registry.name] = registry
    if not registries:
        raise SettingsError(
            "no registry is given; name one with --registry HOST_OR_URL, ECR_CACHE_PROXY_REGISTRY "
            "or a [[registry]] table in the settings file"
        )
    return tuple(registries.values())


def _resolve(table: Table, sources: Sources, given: Given) -> RegistrySettings:
    # Flags and variables go for every registry; in the file, the table comes before the top level.
    rewrite, show = sources.rewrite, sources.show
    if given.in_file_alone("rewrite"):
        rewrite = table.rewrite or rewrite
    if given.in_file_alone("show"):
        show = table.show or show
    return RegistrySettings(
        name=table.host or urlsplit(table.url or "").netloc,
        url=table.endpoint or table.url,
        ecr=table.host is not None,
        api_url=table.api_endpoint,
        region=table.region,
        profile=table.profile,
        role_arn=table.role_arn,
        external_id=table.external_id,
        role_session_name=table.role_session_name or "ecr-cache-proxy",
        username=table.username,
        password=_read_password(table),
        client_cert_file=table.client_cert_file,
        client_key_file=table.client_key_file,
        redirect_hosts=table.redirect_hosts,
        rewrite=rewrite or "auto",
        show=show or "auto",
        push_mode=_push_mode(table, sources, given),
        new_repositories=_new_repositories(table, sources, given),
    )


def _push_mode(table: Table, sources: Sources, given: Given) -> PushMode:
    of_table = table.push and table.push.mode
    if not given.in_file_alone("push_mode"):
        of_table = None
    return of_table or sources.push_mode or sources.push.mode or DEFAULT_PUSH_MODE


def _new_repositories(table: Table, sources: Sources, given: Given) -> NewRepositorySettings | None:
    """How a missing repository is made in the registry; None where none may be made."""
    creates = sources.create_repositories
    if given.in_file_alone("create_repositories") and table.create_repositories is not None:
        creates = table.create_repositories
    # Only ECR can be asked for one: what goes for every registry says nothing of the others.
    if not creates or table.host is None:
        return None
    chosen = table.new_repositories or sources.new_repositories
    return NewRepositorySettings(
        immutable_tags=chosen.immutable_tags,
        mutable_tags=chosen.mutable_tags,
        scan_on_push=chosen.scan_on_push,
        kms_key=chosen.kms_key,
        tags=chosen.tags,
    )


def _problem(table: Table) -> str | None:
    """What is wrong with a table's keys taken together."""
    if (table.host is None) == (table.url is None):
        return "give either host (ECR) or url (any other registry)"
    misplaced = sorted(table.model_fields_set & (_AWS if table.host is None else _BY_URL))
    if misplaced:
        owner = "ECR, given by host" if table.host is None else "a registry given by url"
        return f"{kebab(misplaced[0])} is for {owner}"
    if table.external_id is not None and table.role_arn is None:
        return "external-id goes with role-arn"
    if table.password is not None and table.password_file is not None:
        return "give either password or password-file"
    if (table.username is None) != (table.password is None and table.password_file is None):
        return "username and a password go together"
    if (table.client_cert_file is None) != (table.client_key_file is None):
        return "client-cert-file and client-key-file go together"
    return None


def _read_password(table: Table) -> str | None:
    if table.password_file is None:
        return None if table.password is None else table.password.get_secret_value()
    try:
        password = table.password_file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"password-file: cannot read {table.password_file}: {why}") from error
    if not password:
        raise SettingsError(f"password-file: {table.password_file} is empty")
    return password
