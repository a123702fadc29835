"""`serve`: the proxy itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final, get_args

import click

from proxy import __version__
from proxy.cli.base import (
    PROGRAM,
    UserError,
    examples,
    log_to_stderr,
    private_files,
    run_until_signal,
    start_errors,
)
from proxy.config import (
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
    DEFAULT_PUSH_MODE,
    DEFAULT_SEND_TIMEOUT,
    DEFAULT_SHUTDOWN_TIMEOUT,
    DEFAULT_STALE_IF_ERROR,
    DEFAULT_TLS_CLIENT_USER,
    DEFAULT_VERIFY_RATE,
    CertificateName,
    LogLevel,
    PushMode,
    Rewrite,
    Settings,
    SettingsError,
    Show,
    is_loopback,
    load_settings,
)

_log = logging.getLogger(__name__)

# The limits on what clients may take, by key: their metavar, default, and what they say.
_LIMITS: Final = (
    ("max-connections", "NUMBER", DEFAULT_MAX_CONNECTIONS, "Most connections of clients at once."),
    (
        "max-connections-per-client",
        "NUMBER",
        DEFAULT_MAX_CONNECTIONS_PER_CLIENT,
        "Most connections from one address.",
    ),
    ("max-header-size", "SIZE", DEFAULT_MAX_HEADER_SIZE, "Longest header of a request."),
    ("max-manifest-size", "SIZE", DEFAULT_MAX_MANIFEST_SIZE, "Largest manifest that is taken."),
    ("max-upload-size", "SIZE", DEFAULT_MAX_UPLOAD_SIZE, "Largest blob that is taken."),
    (
        "max-uploads-per-client",
        "NUMBER",
        DEFAULT_MAX_UPLOADS_PER_CLIENT,
        "Most uploads that a client may have open.",
    ),
    ("max-fills", "NUMBER", DEFAULT_MAX_FILLS, "Most blobs that are fetched at once."),
    (
        "header-timeout",
        "TIME",
        DEFAULT_HEADER_TIMEOUT,
        "How long a request's header, or a TLS handshake, may take.",
    ),
    ("body-timeout", "TIME", DEFAULT_BODY_TIMEOUT, "How long nothing may come of a body."),
    (
        "send-timeout",
        "TIME",
        DEFAULT_SEND_TIMEOUT,
        "How long a client may read nothing of a reply.",
    ),
    (
        "idle-timeout",
        "TIME",
        DEFAULT_IDLE_TIMEOUT,
        "How long a connection without a request is kept.",
    ),
)


def limits(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each limit."""
    for key, metavar, default, text in reversed(_LIMITS):
        option = click.option(f"--{key}", metavar=metavar, help=f"{text} [default: {default}]")
        command = option(command)
    return command


@click.command(
    epilog=examples(
        f"{PROGRAM} serve --registry 123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        f"{PROGRAM} serve --registry http://lan-cache:5000 --cache-dir /var/cache/ecr",
        f"{PROGRAM} serve --listen 0.0.0.0:5000 --token-file tokens --registry ...",
        f"{PROGRAM} serve --config /etc/ecr-cache-proxy.toml --log-level warning",
    )
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help=f"Address for clients; port 0 takes a free one. [default: {DEFAULT_LISTEN}]",
)
@click.option(
    "--registry",
    multiple=True,
    metavar="HOST_OR_URL",
    help="Upstream registry: the host name of an ECR registry, or the http:// or https:// URL of "
    "any other. Repeatable; the first is the default.",
)
@click.option(
    "--cache-dir",
    metavar="DIR",
    help="Where the cache is kept. [default: /var/cache/ecr-cache-proxy for root, else "
    "$XDG_CACHE_HOME/ecr-cache-proxy, else ~/.cache/ecr-cache-proxy]",
)
@click.option(
    "--cache-size",
    metavar="SIZE",
    help=f"Most that the cache may hold: 20GiB, 500MB. [default: {DEFAULT_CACHE_SIZE}]",
)
@click.option(
    "--min-free",
    metavar="SIZE|PERCENT",
    help="What the cache leaves free on its file system, whatever its own size: 5%, 10GiB. "
    f"[default: {DEFAULT_MIN_FREE}]",
)
@click.option(
    "--verify-rate",
    metavar="SIZE",
    help="How much of what is stored is read and hashed again each second, in the background; "
    f"0: nothing. [default: {DEFAULT_VERIFY_RATE}]",
)
@click.option(
    "--abandon-fills-below",
    metavar="SIZE",
    help="Stop fetching a blob when all who wanted it have gone and less than this has arrived; "
    f"0: never. [default: {DEFAULT_ABANDON_FILLS_BELOW}]",
)
@click.option(
    "--stale-if-error",
    metavar="TIME",
    help="How long what is on disk is served on past its time while the registry cannot be asked. "
    f"[default: {DEFAULT_STALE_IF_ERROR}]",
)
@click.option("--config", metavar="FILE", help="Settings file (TOML).")
@click.option(
    "--rewrite",
    metavar="|".join(get_args(Rewrite)),
    help="Whether caches pushed in BuildKit's legacy form are stored as image manifests; auto: "
    "where the registry is ECR. [default: auto]",
)
@click.option(
    "--show",
    metavar="|".join(get_args(Show)),
    help="Form in which readers get a cache by its tag; auto: the one that the client can read. "
    "[default: auto]",
)
@click.option(
    "--push-mode",
    metavar="|".join(get_args(PushMode)),
    help="When a pushed blob is acknowledged: once it is on this proxy's disk, or once it is in "
    "the registry; a manifest always is once all of it is there. Several proxies behind a balancer "
    f"without stickiness need write-through. [default: {DEFAULT_PUSH_MODE}]",
)
@click.option(
    "--create-repositories",
    is_flag=True,
    default=None,
    help="Create a repository that a push finds missing in ECR; with what settings, the table "
    "new-repositories of the settings file says.",
)
@click.option(
    "--shutdown-timeout",
    metavar="TIME",
    help="How long requests in flight, and blobs owed to a registry, may take at the end. "
    f"[default: {DEFAULT_SHUTDOWN_TIMEOUT}]",
)
@click.option(
    "--log-level", metavar="|".join(get_args(LogLevel)), help="Least level logged. [default: info]"
)
@click.option("--tls-cert-file", metavar="FILE", help="Serve HTTPS with this certificate (PEM).")
@click.option("--tls-key-file", metavar="FILE", help="The certificate's private key (PEM).")
@click.option(
    "--tls-client-ca-file",
    metavar="FILE",
    help="Clients may authenticate by a certificate of one of these authorities (PEM).",
)
@click.option(
    "--tls-client-user",
    metavar="|".join(get_args(CertificateName)),
    help=f"Which name in a client's certificate is the user. [default: {DEFAULT_TLS_CLIENT_USER}]",
)
@click.option(
    "--htpasswd-file",
    metavar="FILE",
    help="Clients authenticate by user and password; made with "
    f"{PROGRAM} htpasswd, or htpasswd -B.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    help=f"Clients authenticate by a token; each line is made with {PROGRAM} token.",
)
@click.option(
    "--insecure-no-client-auth",
    is_flag=True,
    default=None,
    help="Listen on an address that is not loopback, though clients are not authenticated.",
)
@click.option("--read-only", is_flag=True, default=None, help="Refuse pushes and deletions.")
@click.option(
    "--ca-bundle",
    metavar="FILE",
    help="Certificates (PEM) that are trusted upstream beside the system's.",
)
@limits
def serve(**flags: object) -> None:
    """Run the proxy.

    Every option can also be given as ECR_CACHE_PROXY_<OPTION> in the environment (lists with
    commas) and as a key of the settings file. Options come before the environment, that before
    the file. AWS credentials come from the usual chain: environment, ~/.aws, container or
    instance role.
    """
    from proxy import app

    settings = _load(flags)
    log_to_stderr(settings.log_level, "%(asctime)s %(levelname)s %(message)s")
    for warning in (*settings.warnings, *_warnings(settings)):
        _log.warning("%s", warning)

    def on_ready(started: app.Started) -> None:
        first, *others = started.registries
        names = ", ".join([f"{first} (default)", *others])
        click.echo(f"{PROGRAM} {__version__} listening on {started.url}, for {names}")

    with start_errors(), private_files():
        run_until_signal(lambda stop: app.serve(settings, stop=stop, ready=on_ready))


def _warnings(settings: Settings) -> Iterator[str]:
    """What the settings leave open, at every start."""
    if not settings.authenticates:
        if settings.insecure_no_client_auth:
            yield (
                "clients are not authenticated: whoever reaches "
                f"{settings.host}:{settings.port} pulls and pushes with the proxy's credentials"
            )
        return
    if settings.insecure_no_client_auth:
        yield "clients are authenticated: --insecure-no-client-auth changes nothing, leave it out"
    if settings.tls is None and not is_loopback(settings.host):
        yield (
            f"passwords and tokens of clients cross the network to {settings.host}:{settings.port} "
            "in the clear: whoever listens there has them; serve HTTPS with --tls-cert-file and "
            "--tls-key-file, or keep a TLS terminator in front"
        )


def _load(flags: dict[str, object]) -> Settings:
    from proxy.upstream import parse_host

    try:
        settings = load_settings(flags)
    except SettingsError as error:
        raise UserError(str(error)) from error
    for registry in settings.registries:
        # With an endpoint and a region of its own there is nothing left that the name must tell.
        told = registry.url is not None and registry.region is not None
        if registry.ecr and not told and parse_host(registry.name) is None:
            raise UserError(
                f"{registry.name} is no ECR host; for another registry give its URL, "
                f"https://{registry.name}"
            )
    return settings
