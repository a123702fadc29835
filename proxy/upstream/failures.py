"""How an exchange failed: in words, and whether another attempt is worth it. Pure.

What leaves here names hosts and no URL: a presigned one is a secret.
"""

from __future__ import annotations

import os
import re
from typing import Final

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy import errors
from proxy.errors import RegistryError
from proxy.upstream.addresses import ForbiddenAddress

_BYTES: Final = re.compile(r"\n|\bb['\"]")
_NO_HEADERS: Final = CIMultiDictProxy(CIMultiDict[str]())


class Dropped(aiohttp.ClientConnectionError):
    """A connection that stood ended without an answer; its cause says how."""


def was_sent(error: Exception) -> bool:
    """Whether upstream may have seen the request that failed so."""
    return not isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))


def is_lasting(error: Exception) -> bool:
    """Whether another attempt would fail in the same way: certificates do not heal in seconds."""
    return is_forbidden_address(error) or isinstance(
        error, (aiohttp.ClientSSLError, aiohttp.InvalidURL)
    )


def translate_failure(error: Exception, url: URL, what: object) -> RegistryError:
    """An exchange about `what` that failed, in words: with whom, and how."""
    peer = url.host or "a URL without a host"
    if url.port not in {80, 443}:
        peer = f"{peer}:{url.port}"
    failure = _name_failure(error, peer)
    return type(failure)(f"{failure.message} (asked for {what})")


def _name_failure(error: Exception, peer: str) -> RegistryError:
    if isinstance(error, (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError)):
        return errors.BadGateway(f"the forward proxy does not lead to {peer}: {_cause(error)}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return errors.BadGateway(f"the name {peer} cannot be resolved: {_cause(error)}")
    if isinstance(error, aiohttp.ClientSSLError):
        return errors.BadGateway(
            f"no trusted TLS connection to {peer}: {_cause(error)} "
            "(ca-bundle names a file of certificates to trust)"
        )
    if is_forbidden_address(error):
        return errors.BadGateway(
            f"{peer} is not connected to: its address is link-local, or of a cloud's metadata "
            "service, and no registry is there"
        )
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return errors.GatewayTimeout(f"{peer} cannot be reached: no connection in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        return errors.BadGateway(f"{peer} cannot be reached: {_cause(error)}")
    if isinstance(error, TimeoutError):
        return errors.GatewayTimeout(f"{peer} fell silent in the middle of an exchange")
    if isinstance(error, aiohttp.ClientPayloadError):
        return errors.BadGateway(f"{peer} broke off in the middle of a body: {_cause(error)}")
    if isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return errors.BadGateway(f"{peer} dropped the connection: {_cause(error)}")
    return errors.BadGateway(f"{peer} answered what is no valid HTTP: {_cause(error)}")


def _cause(error: Exception) -> str:
    """The error's own words, without the URL: a presigned one is a secret."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        words = str(error.certificate_error)
    elif isinstance(error, aiohttp.ClientConnectorSSLError):
        # The number is OpenSSL's own, and means something else to the system.
        reason = getattr(error.os_error, "reason", None) or str(error.os_error)
        words = reason.replace("_", " ").lower()
    elif isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        # asyncio puts words of its own, which name the address only, in place of the system's.
        # Those of getaddrinfo have negative numbers, and words that nobody replaces.
        known = os.strerror(number) if number is not None and number > 0 else ""
        words = known or error.os_error.strerror or str(error.os_error)
    elif isinstance(error, aiohttp.ClientResponseError):
        words = f"{error.status} {_without_bytes(error.message)}"
    elif isinstance(error, aiohttp.InvalidURL):
        words = "the URL cannot be used"
    else:
        words = _without_bytes(str(error))
    return words or type(error).__name__


def is_forbidden_address(error: Exception) -> bool:
    """Whether no connection was made, since it would have led to an address never asked."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return isinstance(cause, ForbiddenAddress)


def without_secrets(error: Exception) -> Exception:
    """The same failure without what a traceback or a repr of it would show.

    Of aiohttp's own it has the URL, whose query may be signed, all headers that were sent, and the
    bytes that made no sense.
    """
    if isinstance(error, aiohttp.ClientPayloadError):
        return aiohttp.ClientPayloadError(_without_bytes(str(error)))
    if not isinstance(error, aiohttp.ClientResponseError):
        return error
    bare = error.request_info.real_url.with_query(None).with_user(None)
    info = aiohttp.RequestInfo(bare, error.request_info.method, _NO_HEADERS, bare)
    message = _without_bytes(error.message)
    return type(error)(info, (), status=error.status, message=message)


def _without_bytes(words: str) -> str:
    # What was read follows: it may be a Location.
    return _BYTES.split(words)[0].rstrip(" :")
