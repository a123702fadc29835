"""Lets clients in: the methods that are configured, one after the other."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from proxy.access.attempts import WINDOW_SECONDS, Attempts, TooManyAttempts
from proxy.access.certificates import CertificateName, Certificates, CertificateUnusable
from proxy.access.credentials import (
    Credentials,
    CredentialsMalformed,
    fingerprint,
    parse_authorization,
)
from proxy.access.files import WatchedFile
from proxy.access.htpasswd import Passwords, parse_htpasswd
from proxy.access.identity import NOBODY, Identity
from proxy.access.tokens import Tokens, parse_token_file, parse_token_settings
from proxy.errors import TooManyRequests, Unauthorized

CHALLENGE: Final = 'Basic realm="ecr-cache-proxy"'
_log = logging.getLogger(__name__)

# Files are looked at when somebody asks, as often as this at most.
_LOOK_SECONDS: Final = 1.0
# How long, in seconds, a password waits for its turn to be tried: below the 30 s after which some
# clients give a reply up (BUILDKIT.md).
_WAIT_SECONDS: Final = 20.0
# `docker login` with ECR's own token: a client that was set up for ECR itself sends it.
_USER_OF_ECR: Final = "AWS"


class Method(Protocol):
    """One way to show who one is by credentials: passwords, tokens.

    What an identity provider has signed for a CI job is another: it lives for minutes, so it is to
    be exchanged for a token of ours, which is then known as those of the file are.
    """

    def recall(self, credentials: Credentials) -> Identity | None:
        """Who it is, where that is known without any cost."""

    async def verify(self, credentials: Credentials) -> Identity | None:
        """Who it is, at whatever cost."""

    async def refresh(self) -> None:
        """Look at what it reads users from."""

    async def close(self) -> None: ...


def open_authenticator(
    *,
    htpasswd_file: Path | None = None,
    token_file: Path | None = None,
    tokens: Sequence[str] = (),
    certificates: CertificateName | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Authenticator:
    """The ways to authenticate that are given; `certificates` says which name in them is the user.

    Reads the files, blocking; raises `AccessError`.
    """
    methods: list[Method] = []
    if tokens or token_file is not None:
        file = None
        if token_file is not None:
            file = WatchedFile(token_file, parse_token_file)
            if not file.value and not tokens:
                _warn_of_nobody(token_file)
        methods.append(Tokens(parse_token_settings(tokens), file))
    if htpasswd_file is not None:
        users = WatchedFile(htpasswd_file, parse_htpasswd)
        if not users.value.hashes:
            _warn_of_nobody(htpasswd_file)
        methods.append(Passwords(users, clock))
    reader = None if certificates is None else Certificates(certificates)
    return Authenticator(methods, reader, clock=clock)


def _warn_of_nobody(path: Path) -> None:
    _log.warning("%s names nobody: until it does, nobody can log in by it", path)


class Authenticator:
    """Says who a client is by what it has sent; what has no cost is looked at first."""

    def __init__(
        self,
        methods: Sequence[Method],
        certificates: Certificates | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: float = _WAIT_SECONDS,
    ) -> None:
        """`clock` gives seconds that never go back; nobody waits longer than `wait` seconds."""
        self._methods = methods
        self._wait = wait
        self._certificates = certificates
        self._clock = clock
        self._attempts = Attempts(clock)
        self._key = secrets.token_bytes(32)
        self._next_look = 0.0
        self._looking = asyncio.Lock()

    @property
    def is_needed(self) -> bool:
        """Whether clients have to say who they are."""
        return bool(self._methods) or self._certificates is not None

    async def authenticate(
        self, authorization: str | None, certificate: bytes | None, address: str
    ) -> Identity:
        """Who has sent these: the Authorization header, and the certificate in DER that TLS took.

        The header decides where there is one. Raises `Unauthorized` for what is wrong, and
        `TooManyRequests` for what is not looked at, since there was so much wrong from the address.
        """
        if not self.is_needed:
            return NOBODY
        if authorization is None:
            return self._by_certificate(certificate)
        try:
            credentials = parse_authorization(authorization)
        except CredentialsMalformed as error:
            raise _unauthorized(f"{error}; log in again") from error
        if not credentials.user and not credentials.secret:
            # skopeo, podman and buildah answer the challenge so where nobody has logged in.
            return self._by_certificate(certificate)
        await self._look()
        identity = self._recall(credentials)
        return identity or await self._verify(credentials, address)

    async def close(self) -> None:
        for method in self._methods:
            await method.close()

    async def _look(self) -> None:
        if self._looking.locked() or self._clock() < self._next_look:
            return  # who is known already goes on with that
        async with self._looking:
            self._next_look = self._clock() + _LOOK_SECONDS
            for method in self._methods:
                await method.refresh()

    def _recall(self, credentials: Credentials) -> Identity | None:
        found = (method.recall(credentials) for method in self._methods)
        return next((identity for identity in found if identity is not None), None)

    async def _verify(self, credentials: Credentials, address: str) -> Identity:
        try:
            async with asyncio.timeout(self._wait):
                identity = await self._verify_in_turn(credentials, address)
        except TimeoutError as error:
            raise _busy(self._wait) from error
        if identity is None:
            raise self._wrong(credentials)
        return identity

    async def _verify_in_turn(self, credentials: Credentials, address: str) -> Identity | None:
        user = credentials.user or ""
        attempt = fingerprint(self._key, user.encode(), credentials.secret)
        async with self._looking:
            pass  # what is being read may know of this user
        async with self._attempts.turn(address):
            # Whoever had the turn before may have shown the same.
            if (identity := self._recall(credentials)) is not None:
                return identity
            try:
                self._attempts.begin(address, attempt)
            except TooManyAttempts as error:
                raise _too_many(error.retry_after) from error
            identity = await self._try(credentials)
            if identity is not None:
                self._attempts.forgive(address, attempt)
            return identity

    async def _try(self, credentials: Credentials) -> Identity | None:
        for method in self._methods:
            if (identity := await method.verify(credentials)) is not None:
                return identity
        return None

    def _wrong(self, credentials: Credentials) -> Unauthorized:
        if not self._methods:
            return _unauthorized(
                "this proxy takes certificates of clients, and no passwords or tokens; log out"
            )
        if credentials.user is None:
            return _unauthorized("this token is not known here; it may have been revoked")
        if credentials.user == _USER_OF_ECR:
            return _unauthorized(
                "these are credentials of ECR, and this proxy has users of its own; "
                "log in to it with one of them"
            )
        return _unauthorized("the user or the password is wrong; log in again")

    def _by_certificate(self, certificate: bytes | None) -> Identity:
        if certificate is None or self._certificates is None:
            raise _unauthorized(self._invitation())
        try:
            return self._certificates.identify(certificate)
        except CertificateUnusable as error:
            raise _unauthorized(str(error)) from error

    def _invitation(self) -> str:
        ways = []
        if self._methods:
            ways.append("log in with a user and a password or token (docker login)")
        if self._certificates is not None:
            ways.append("connect with a certificate of yours")
        return f"this proxy must know who you are: {', or '.join(ways)}"


def _unauthorized(message: str) -> Unauthorized:
    return Unauthorized(message, headers={"WWW-Authenticate": CHALLENGE})


def _busy(seconds: float) -> TooManyRequests:
    return TooManyRequests(
        f"so many passwords are being tried here that yours was not within {seconds:g} s; "
        "try again later, or log in with a token, which has no such wait",
        headers={"Retry-After": "5"},
    )


def _too_many(retry_after: int) -> TooManyRequests:
    return TooManyRequests(
        f"too many wrong passwords or tokens from this address in {WINDOW_SECONDS:g} s; no more "
        f"are looked at for {retry_after} s",
        headers={"Retry-After": str(retry_after)},
    )
