"""Passwords: an htpasswd file with bcrypt hashes, and what was found right or wrong lately."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import bcrypt
from cachetools import TTLCache

from proxy.access.credentials import Credentials, fingerprint
from proxy.access.files import WatchedFile, numbered_lines
from proxy.access.identity import AccessError, Identity, check_user
from proxy.singleflight import SingleFlight

# A salt's last character holds two bits alone; bcrypt takes it for no salt if there are more.
_HASH: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}", re.ASCII)
_KINDS: Final = (
    ("$apr1$", "Apache's MD5"),
    ("$1$", "MD5"),
    ("$5$", "SHA-256 crypt"),
    ("$6$", "SHA-512 crypt"),
    ("$y$", "yescrypt"),
    ("$argon2", "Argon2"),
    ("{SHA}", "SHA-1"),
    ("{SSHA}", "salted SHA-1"),
    ("$2", "a damaged bcrypt hash"),
)
_REMEDY: Final = "make the line anew with htpasswd -B, or with ecr-cache-proxy htpasswd"
DEFAULT_COST: Final = 12
# bcrypt's own least, and the most that a client may cost: 2^15 rounds take some seconds.
MIN_COST: Final = 4
MAX_COST: Final = 15
# bcrypt looks at no more of a password, and neither does Apache.
MAX_PASSWORD_BYTES: Final = 72

# So many passwords are tried at a time, whoever asks: the rest of the processor is for the others.
_THREADS: Final = 2
# How long what was found out stands, if it is right since it was last used; how much is kept.
_RIGHT_SECONDS: Final = 600.0
_WRONG_SECONDS: Final = 60.0
_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Users:
    """The hash of each user's password, and one that no password has, of their usual cost."""

    hashes: Mapping[str, bytes]
    stand_in: bytes


def parse_htpasswd(text: str, source: str) -> Users:
    """The users of an htpasswd file; raises `AccessError`, which names the line."""
    hashes: dict[str, bytes] = {}
    costs: Counter[int] = Counter()
    for where, line in numbered_lines(text, source):
        user, colon, hashed = line.partition(":")
        if not colon:
            raise AccessError(f"{where}: there is no USER:HASH; {_REMEDY}")
        try:
            check_user(user)
        except ValueError as error:
            raise AccessError(f"{where}: {error}") from error
        costs[_cost(hashed, where)] += 1
        if user in hashes:
            raise AccessError(f"{where}: the user {user} is there twice; remove one of the lines")
        hashes[user] = hashed.encode()
    ((usual, _),) = costs.most_common(1) or [(DEFAULT_COST, 0)]
    return Users(hashes, _hash_of_nothing(usual))


def _cost(hashed: str, where: str) -> int:
    match = _HASH.fullmatch(hashed)
    if match is None:
        kind = next((name for sign, name in _KINDS if hashed.startswith(sign)), "another kind")
        raise AccessError(f"{where}: this is {kind}, and only bcrypt is taken; {_REMEDY}")
    cost = int(match[1])
    if not MIN_COST <= cost <= MAX_COST:
        raise AccessError(
            f"{where}: a bcrypt cost of {cost}, and {MIN_COST} to {MAX_COST} are taken: whoever "
            f"tries a password makes the proxy pay it; {_REMEDY}"
        )
    return cost


def _hash_of_nothing(cost: int) -> bytes:
    """For users that do not exist: it takes as long as theirs would, and never matches."""
    hashed = secrets.token_urlsafe(24)[:31].translate({ord("-"): ".", ord("_"): "/"})
    return bcrypt.gensalt(cost) + hashed.encode()


def password_line(user: str, password: str) -> str:
    """What stands for the password in a file; raises `ValueError`."""
    return f"{check_user(user)}:{hash_password(password)}"


def hash_password(password: str, *, cost: int = DEFAULT_COST) -> str:
    """For a line of the file; raises `ValueError` for a password that bcrypt cannot tell apart."""
    secret = password.encode()
    if not secret:
        raise ValueError("the password is empty")
    if len(secret) > MAX_PASSWORD_BYTES:
        raise ValueError(f"bcrypt looks at {MAX_PASSWORD_BYTES} bytes of a password: choose less")
    if b"\0" in secret:
        raise ValueError("a password holds no NUL")
    return bcrypt.hashpw(secret, bcrypt.gensalt(cost)).decode()


class Passwords:
    """Tells whether a password is right, without paying bcrypt each time.

    What was tried is remembered by a keyed hash over user, stored hash and password: a line that
    changes is as good as forgotten. Threads of its own try them, so that whoever sends many wrong
    ones stalls neither the event loop nor the threads that read the disk.
    """

    def __init__(
        self,
        file: WatchedFile[Users],
        clock: Callable[[], float] = time.monotonic,
        threads: Executor | None = None,
    ) -> None:
        self._file = file
        self._key = secrets.token_bytes(32)
        self._right = TTLCache[bytes, bool](_REMEMBERED, _RIGHT_SECONDS, timer=clock)
        # Apart, so that no flood of wrong ones drives the right ones out.
        self._wrong = TTLCache[bytes, bool](_REMEMBERED, _WRONG_SECONDS, timer=clock)
        self._flights: SingleFlight[bytes, bool] = SingleFlight()
        self._threads = threads or ThreadPoolExecutor(_THREADS, "bcrypt")

    async def refresh(self) -> None:
        await self._file.refresh()

    def recall(self, credentials: Credentials) -> Identity | None:
        """The user, if this password was found right and still is, and was used lately."""
        user = credentials.user
        if user is None or user not in self._file.value.hashes:
            return None
        memo, _ = self._memo(credentials, user)
        if memo not in self._right:
            return None
        # Whoever goes on asking needs no bcrypt again: it may have to wait for those who guess.
        self._right[memo] = True
        return Identity(user)

    async def verify(self, credentials: Credentials) -> Identity | None:
        """The user, if the password is right; costs a bcrypt, for unknown users too."""
        user = credentials.user
        if user is None or b"\0" in credentials.secret:
            return None
        memo, stored = self._memo(credentials, user)
        if memo in self._wrong:
            return None
        right = memo in self._right or await self._flights.do(
            memo, lambda: self._try(memo, stored, credentials.secret)
        )
        # The file may have changed while bcrypt was at work.
        is_current = self._file.value.hashes.get(user) == stored
        return Identity(user) if right and is_current else None

    async def close(self) -> None:
        await self._flights.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _memo(self, credentials: Credentials, user: str) -> tuple[bytes, bytes]:
        users = self._file.value
        stored = users.hashes.get(user, users.stand_in)
        return fingerprint(self._key, user.encode(), stored, credentials.secret), stored

    async def _try(self, memo: bytes, stored: bytes, secret: bytes) -> bool:
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(
            self._threads, bcrypt.checkpw, secret[:MAX_PASSWORD_BYTES], stored
        )
        (self._right if right else self._wrong)[memo] = True
        return right
