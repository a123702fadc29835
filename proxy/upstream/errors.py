"""Upstream's refusals as errors of our own, with upstream's code, status and words kept.

Pure: a status, headers and a body in, an error out. Nothing is raised here, nothing is sent.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from proxy import errors
from proxy.errors import RegistryError

_KEPT: Final[dict[tuple[str, int], type[RegistryError]]] = {
    (kind.code, kind.status): kind
    for kind in (
        errors.BlobUnknown,
        errors.BlobUploadInvalid,
        errors.BlobUploadUnknown,
        errors.RangeInvalid,
        errors.DigestInvalid,
        errors.ManifestInvalid,
        errors.ManifestTooLarge,
        errors.ManifestUnknown,
        errors.NameInvalid,
        errors.NameUnknown,
        errors.TagInvalid,
        errors.SizeInvalid,
        errors.PageInvalid,
        errors.Denied,
        errors.Unsupported,
        errors.TooManyRequests,
    )
}
# Codes of a 404 that say precisely what is missing; any other 404 is about what was asked for.
_PRECISE: Final = frozenset(
    {"BLOB_UNKNOWN", "BLOB_UPLOAD_UNKNOWN", "MANIFEST_UNKNOWN", "NAME_UNKNOWN"}
)
_MAX_WORDS: Final = 2000
# ECR names every layer that a manifest lacks, and a manifest may have 500 (ECR.md §4): by these
# words they are sent again.
_MAX_SAID: Final = 40_000
# RFC 9110 §10.2.3: seconds, or a date in the one form that is still made (§5.6.7).
_RETRY_AFTER: Final = re.compile(
    r"[0-9]{1,9}|[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)
# What is signed, and what was sent to authenticate, in words that repeat the request.
# From the last question mark before it on: a text of many would be looked through from each.
_SIGNED: Final = re.compile(r"\?[^\s\"'<>?]*x-amz-[^\s\"'<>]*", re.IGNORECASE)
_CREDENTIALS: Final = re.compile(r"\b(basic|bearer) +[a-z0-9+/=._~-]{16,}", re.IGNORECASE)
# Of a password, in characters: a shorter one is a part of many words, which say more without their
# gaps.
_SHORTEST: Final = 6
_XML_CODE: Final = re.compile(r"<Code>([^<]{1,200})</Code>")
_XML_MESSAGE: Final = re.compile(r"<Message>([^<]{1,2000})</Message>")


class Kind(StrEnum):
    """What a request was about; what a 404 without words means follows from it."""

    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOAD = "upload"
    REPOSITORY = "repository"
    REGISTRY = "registry"


_MISSING: Final[dict[Kind, type[RegistryError]]] = {
    Kind.MANIFEST: errors.ManifestUnknown,
    Kind.BLOB: errors.BlobUnknown,
    Kind.UPLOAD: errors.BlobUploadUnknown,
    Kind.REPOSITORY: errors.NameUnknown,
    Kind.REGISTRY: errors.NotFound,
}


@dataclass(frozen=True, slots=True)
class What:
    """What a request was about, for its error's words."""

    registry: str
    kind: Kind = Kind.REGISTRY
    repository: str = ""
    reference: str = ""

    def __str__(self) -> str:
        """`manifest latest of team/app in HOST`, as much of it as applies."""
        parts = [] if self.kind in {Kind.REPOSITORY, Kind.REGISTRY} else [self.kind.value]
        if self.reference:
            parts.append(self.reference)
        if self.repository:
            parts.append(f"of {self.repository}" if parts else self.repository)
        parts.append(f"in {self.registry}" if parts else self.registry)
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Words:
    """What upstream said: a code (empty if none) and a message (likewise)."""

    code: str
    message: str


def read_words(headers: Mapping[str, str], body: bytes) -> Words:
    """Upstream's code and message: the spec's JSON, S3's XML, or a line of plain text."""
    text = redact(body[: 1 << 16].decode("utf-8", "replace")).strip()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and isinstance(document.get("errors"), list):
        entries = [entry for entry in document["errors"] if isinstance(entry, dict)]
        if entries:
            code = entries[0].get("code")
            said = [words for entry in entries if (words := _sentence(entry))]
            told = one_line("; ".join(said)[:_MAX_SAID])
            return Words(one_line(code) if isinstance(code, str) else "", told)
    if code_match := _XML_CODE.search(text):
        message = _XML_MESSAGE.search(text)
        return Words(one_line(code_match[1]), one_line(message[1]) if message else "")
    # A page in HTML is some proxy's, and says nothing in the words of a registry.
    if text.startswith("<") or "html" in headers.get("Content-Type", "").lower():
        return Words("", "")
    return Words("", one_line(text)[:_MAX_WORDS])


def one_line(text: str) -> str:
    """Somebody else's words as they may stand in a log: what moves a terminal's cursor, or begins
    a line that looks like one of ours, is a space."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def redact(text: str) -> str:
    """Upstream's words without what they may repeat of a request: signed queries, credentials."""
    return _CREDENTIALS.sub(r"\1 …", _SIGNED.sub("?…", text))


def conceal(body: bytes, authorization: str | None) -> bytes:
    """A refusal's body without the credentials that were refused, should it repeat them.

    Of a Basic header neither what was sent nor the password in it.
    """
    scheme, _, token = (authorization or "").partition(" ")
    secrets = [token]
    if scheme.lower() == "basic":
        with suppress(ValueError):
            password = base64.b64decode(token, validate=True).decode().partition(":")[2]
            if len(password) >= _SHORTEST:
                secrets += [json.dumps(password)[1:-1], password]
    for secret in secrets:
        if secret:
            body = body.replace(secret.encode(), b"(credentials)")
    return body


def _sentence(entry: Mapping[str, object]) -> str:
    message, detail = entry.get("message"), entry.get("detail")
    words = message if isinstance(message, str) else ""
    if isinstance(detail, str) and detail and detail not in words:
        words = f"{words} ({detail})" if words else detail
    return words


def translate(status: int, headers: Mapping[str, str], body: bytes, what: What) -> RegistryError:
    """The error for an answer that was no success; `headers` are looked up without case."""
    words = read_words(headers, body)
    said = words.message or f"{what.registry} answered {status}{_where(words, what)}"
    asked = headers.get("Retry-After", "")
    kept = {"Retry-After": asked} if _RETRY_AFTER.fullmatch(asked) else {}
    if status == 401:
        return refused_credentials(words, what)
    if exact := _KEPT.get((words.code, status)):
        return exact(said, headers=kept)
    if status == 404:
        return _translate_missing(words, what)
    if status >= 500:
        return _translate_outage(status, words, what, kept)
    if status < 400:
        return errors.BadGateway(f"{what.registry} answered {status} for {what}: unexpected here")
    if words.code and status != 429:
        return errors.UpstreamRefusal(said, code=words.code, status=status, headers=kept)
    if status == 403:
        return errors.Denied(said)
    if status == 405:
        return errors.Unsupported(said)
    if status == 413 and what.kind is Kind.MANIFEST:
        return errors.ManifestTooLarge(said)
    if status == 416:
        return errors.RangeInvalid(said)
    if status == 429:
        return errors.TooManyRequests(said, headers=kept)
    return errors.UpstreamRefusal(said, code=_plain_code(status, what), status=status, headers=kept)


def refused_credentials(words: Words, what: What, *, had_some: bool = True) -> RegistryError:
    """For a 401 of upstream, which must not reach a client as a challenge.

    A client would ask its user for a password that only the proxy can have.
    """
    said = f": {words.message}" if words.message else ""
    if not had_some:
        return errors.CredentialsRefused(
            f"{what.registry} wants credentials for {what}{said} "
            "(the proxy is configured with none for this registry)"
        )
    return errors.CredentialsRefused(
        f"{what.registry} refused the proxy's credentials for {what}{said} "
        "(check the credentials that the proxy is configured with for this registry)"
    )


def means_expired(status: int, words: Words) -> bool:
    """Whether an answer says that the token is no longer, or not, accepted (ECR.md §2).

    ECR: 401, or 403 DENIED with words about expiry; behind proxies, and from ECR Public, 400.
    """
    if status == 401:
        return True
    if status not in {400, 403}:
        return False
    said = f"{words.code} {words.message}".lower()
    return "expired" in said and ("token" in said or "authoriz" in said or "credential" in said)


def _translate_missing(words: Words, what: What) -> RegistryError:
    kind = _KEPT[words.code, 404] if words.code in _PRECISE else _MISSING[what.kind]
    # "404 page not found" is the answer to an unknown route and says nothing (ECR.md, top).
    if words.message and words.message != "404 page not found":
        return kind(words.message)
    return kind(f"{what.registry} knows no {what}")


def _translate_outage(
    status: int, words: Words, what: What, headers: Mapping[str, str]
) -> RegistryError:
    said = ", ".join(part for part in (words.code, words.message) if part)
    message = f"{what.registry} answered {status} for {what}" + (f": {said}" if said else "")
    if status == 503:
        return errors.Unavailable(message, headers=headers)
    if status == 504:
        return errors.GatewayTimeout(message, headers=headers)
    return errors.BadGateway(message, headers=headers)


def _plain_code(status: int, what: What) -> str:
    """A code for a refusal without one, as to HEAD, which has no body."""
    if status == 400:
        return {Kind.MANIFEST: "MANIFEST_INVALID", Kind.UPLOAD: "BLOB_UPLOAD_INVALID"}.get(
            what.kind, "UNSUPPORTED"
        )
    return "UNKNOWN"


def _where(words: Words, what: What) -> str:
    code = f" {words.code}" if words.code else ""
    return f"{code} for {what}"
