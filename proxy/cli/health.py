"""`health`: whether the proxy on this machine answers, for the checks of containers."""

from __future__ import annotations

import http.client
import ipaddress
import ssl
from typing import Final

import click

from proxy.cli.base import PROGRAM, UserError, examples
from proxy.config import DEFAULT_LISTEN, ListenSettings, SettingsError, load_listen_settings

_PATIENCE_SECONDS: Final = 4.0
_MAX_BYTES: Final = 64 * 1024


@click.command(
    epilog=examples(
        f"{PROGRAM} health",
        f"{PROGRAM} health --live --config /etc/ecr-cache-proxy.toml",
    )
)
@click.option("--live", is_flag=True, help="Ask only whether it runs, not whether it is of use.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help=f"Where the proxy listens. [default: {DEFAULT_LISTEN}]",
)
@click.option("--config", metavar="FILE", help="Settings file (TOML).")
@click.option("--tls-cert-file", metavar="FILE", help="As serve has it: the proxy speaks HTTPS.")
@click.option("--tls-key-file", metavar="FILE", help="As serve has it.")
def health(live: bool, **flags: object) -> None:
    """Ask the proxy on this machine how it is.

    It finds the proxy as serve finds its address: by options, ECR_CACHE_PROXY_<OPTION> in the
    environment, or the settings file. The exit code is 0 when the proxy is well, and 1 when it is
    not or does not answer; where clients must log in, only the proxy's log says why. Over HTTPS the
    certificate is not looked at: the question goes to this machine alone, and says nothing.
    """
    try:
        settings = load_listen_settings(flags)
    except SettingsError as error:
        raise UserError(str(error)) from error
    if settings.port == 0:
        raise UserError("--listen: port 0 takes a free port, and nobody knows which; name one")
    path = "/livez" if live else "/readyz"
    connection = _connect(settings)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        told = reply.read(_MAX_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(f"the proxy does not answer: {error}") from error
    finally:
        connection.close()
    if reply.status != http.client.OK:
        raise click.ClickException(f"{path} answers {reply.status}: {told}")


def _connect(settings: ListenSettings) -> http.client.HTTPConnection:
    host = _here(settings.host)
    if not settings.tls:
        return http.client.HTTPConnection(host, settings.port, timeout=_PATIENCE_SECONDS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what it is asked is no secret, nor is the answer trusted
    return http.client.HTTPSConnection(
        host, settings.port, timeout=_PATIENCE_SECONDS, context=context
    )


def _here(host: str) -> str:
    """Where this machine reaches what listens on that address: loopback for all addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"
