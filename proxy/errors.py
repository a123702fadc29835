"""Every error that may reach a client of the registry API.

A subclass fixes the spec's code and the HTTP status together; the message says what is wrong, with
which repository and digest, and what to do. `body` renders it; only handlers send it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar


class RegistryError(Exception):
    """An answer of the registry API that is no success.

    `headers` are added to the reply (`Retry-After`, `WWW-Authenticate`).
    Source: distribution-spec, "Error Codes", and what distribution answers with each.
    """

    code: ClassVar[str] = "UNKNOWN"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers = dict(headers or {})

    @property
    def wire_code(self) -> str:
        return self.code

    @property
    def wire_status(self) -> int:
        return self.status

    @property
    def is_trouble(self) -> bool:
        """Whether upstream could not be asked, or did not decide: no answer to what was asked.

        What is no trouble is an answer, and asking again would change nothing.
        """
        return self.wire_status >= 500 or self.wire_status in (408, 429)

    @property
    def retry_after(self) -> float | None:
        """After how many seconds to ask again, where upstream says so in seconds."""
        value = self.headers.get("Retry-After", "")
        return float(value) if value.isascii() and value.isdigit() else None

    def body(self) -> bytes:
        """The registry's JSON error body."""
        error = {"code": self.wire_code, "message": self.message}
        # Upstream's words may hold half a surrogate pair, which JSON allows and UTF-8 does not.
        return json.dumps({"errors": [error]}, ensure_ascii=False).encode("utf-8", "replace")

    def reason(self) -> str:
        """The error as one line of header-safe ASCII, since a reply to HEAD has no body."""
        text = f"{self.wire_code}: {self.message}".encode("ascii", "replace").decode()
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:1000]


class BlobUnknown(RegistryError):
    code = "BLOB_UNKNOWN"
    status = 404


class BlobUploadInvalid(RegistryError):
    code = "BLOB_UPLOAD_INVALID"
    status = 400


class BlobUploadUnknown(RegistryError):
    code = "BLOB_UPLOAD_UNKNOWN"
    status = 404


class RangeInvalid(RegistryError):
    """A chunk that does not begin where the upload stands, or a range outside a blob."""

    code = "RANGE_INVALID"  # distribution's; the spec has none of its own
    status = 416


class DigestInvalid(RegistryError):
    code = "DIGEST_INVALID"
    status = 400


class ManifestInvalid(RegistryError):
    code = "MANIFEST_INVALID"
    status = 400


class ManifestTooLarge(RegistryError):
    code = "MANIFEST_INVALID"
    status = 413


class ManifestUnknown(RegistryError):
    code = "MANIFEST_UNKNOWN"
    status = 404


class NameInvalid(RegistryError):
    code = "NAME_INVALID"
    status = 400


class NameUnknown(RegistryError):
    code = "NAME_UNKNOWN"
    status = 404


class TagInvalid(RegistryError):
    code = "TAG_INVALID"
    status = 400


class SizeInvalid(RegistryError):
    code = "SIZE_INVALID"
    status = 400


class UploadTooLarge(RegistryError):
    code = "SIZE_INVALID"
    status = 413


class PageInvalid(RegistryError):
    code = "PAGINATION_NUMBER_INVALID"
    status = 400


class Unauthorized(RegistryError):
    code = "UNAUTHORIZED"
    status = 401


class Denied(RegistryError):
    code = "DENIED"
    status = 403


class Unsupported(RegistryError):
    code = "UNSUPPORTED"
    status = 405


class NotFound(RegistryError):
    """A path that is no route of the registry API."""

    code = "UNSUPPORTED"
    status = 404


class BadRequest(RegistryError):
    """What is no HTTP, or can be read in two ways."""

    code = "UNSUPPORTED"  # the spec has none for it
    status = 400


class RequestLate(RegistryError):
    """A request whose head did not come in time."""

    code = "UNSUPPORTED"
    status = 408


class TargetTooLong(RegistryError):
    code = "UNSUPPORTED"
    status = 414


class ExpectationFailed(RegistryError):
    code = "UNSUPPORTED"
    status = 417


class HeaderTooLarge(RegistryError):
    code = "UNSUPPORTED"
    status = 431


class TooManyRequests(RegistryError):
    code = "TOOMANYREQUESTS"
    status = 429


class Internal(RegistryError):
    """A fault of the proxy itself."""

    code = "UNKNOWN"
    status = 500


class BadGateway(RegistryError):
    """Upstream could not be reached, or what it sent makes no sense."""

    code = "UNAVAILABLE"
    status = 502


class Unavailable(RegistryError):
    """The proxy or upstream cannot serve this for now (no credentials, an outage)."""

    code = "UNAVAILABLE"
    status = 503


class CredentialsRefused(Unavailable):
    """Upstream refused the proxy's own credentials: an outage to clients, and yet its answer."""

    @property
    def is_trouble(self) -> bool:
        return False


class GatewayTimeout(RegistryError):
    code = "UNAVAILABLE"
    status = 504


class UpstreamRefusal(RegistryError):
    """Upstream's own refusal, with its status, code and words kept.

    For what has no class above; whoever must tell cases apart looks at `wire_code` and
    `wire_status`.
    """

    def __init__(
        self, message: str, *, code: str, status: int, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, headers=headers)
        self._code = code
        self._status = status

    @property
    def wire_code(self) -> str:
        return self._code

    @property
    def wire_status(self) -> int:
        return self._status
