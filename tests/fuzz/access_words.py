"""What says who a client is: the Authorization header, lines of htpasswd and token files, rules."""

from __future__ import annotations

import base64
from fnmatch import fnmatchcase
from typing import Final

from proxy.access.attempts import network_of
from proxy.access.credentials import Credentials, CredentialsMalformed, parse_authorization
from proxy.access.htpasswd import parse_htpasswd
from proxy.access.identity import AccessError, Action, Identity
from proxy.access.rules import Rule, Rules
from proxy.access.tokens import Tokens, new_token, parse_token_file, token_line
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import Target, Wrong

_TOKEN: Final = new_token()
_BASIC: Final = tuple(
    f"Basic {base64.b64encode(pair.encode()).decode()}"
    for pair in (f"ci:{_TOKEN}", f"token:{_TOKEN}", "a:b:c", ":", "é:ü", "AWS:x")
)
AUTHORIZATIONS: Final = (*_BASIC, f"Bearer {_TOKEN}", f"bearer  {_TOKEN} ", "Basic", "Digest x=y")
_HASH: Final = "$2y$05$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234"
_HTPASSWD: Final = (
    f"ci:{_HASH}\n# a remark\n\nteam.dev-1:{_HASH.replace('2y', '2b')}\n",
    "old:$apr1$abc$def\n",
)
_TOKEN_FILE: Final = (f"{token_line('ci', _TOKEN)}\n# x\n\n{token_line('b', 'x')}\n",)
_PATTERNS: Final = ("*", "ci-*", "team/*", "[a-c]*", "cache/?", "!x", "a" * 200, "*a*a*a*a*b")
_NAMES: Final = ("ci-1", "team/app", "cache/x", "registry.example", "a" * 200, "")
_ADDRESSES: Final = ("127.0.0.1", "::1", "fe80::1%eth0", "2001:db8::1", "::ffff:10.0.0.1", "")


def _draw_header(mutator: Mutator) -> str:
    """As aiohttp decodes one."""
    raw = mutator.text(AUTHORIZATIONS).encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "surrogateescape")


class _Known:
    """Whether a header lets somebody in who does not have the token."""

    def __init__(self) -> None:
        self._tokens = Tokens(parse_token_file(token_line("ci", _TOKEN), "file"), None)

    def check(self, header: str) -> str:
        try:
            credentials = parse_authorization(header)
        except CredentialsMalformed as error:
            if _TOKEN in str(error):
                raise Wrong("an error that repeats a token") from error
            return "malformed"
        if _TOKEN in repr(credentials):
            raise Wrong("a secret that is shown")
        identity = self._tokens.recall(credentials)
        if identity is not None and (
            credentials.secret != _TOKEN.encode() or identity != Identity("ci")
        ):
            raise Wrong(f"another secret lets {identity} in")
        return "known" if identity else "unknown"


def _check_htpasswd(text: str) -> str:
    try:
        users = parse_htpasswd(text, "file")
    except AccessError as error:
        _check_line(error)
        return "AccessError"
    return f"{len(users.hashes)} users"


def _check_tokens(text: str) -> str:
    try:
        owners = parse_token_file(text, "file")
    except AccessError as error:
        _check_line(error)
        return "AccessError"
    Tokens(owners, None).recall(Credentials(None, b"x"))
    return f"{len(owners)} tokens"


def _check_line(error: AccessError) -> None:
    if len(str(error).splitlines()) != 1:
        raise Wrong("more than a line, or none")


def _draw_rule(mutator: Mutator) -> tuple[str, str, str, str]:
    patterns = (mutator.text(_PATTERNS)[:400], mutator.text(_PATTERNS)[:400])
    return (*patterns, mutator.text(_NAMES)[:400], mutator.text(_NAMES)[:400])


def _check_rule(drawn: tuple[str, str, str, str]) -> str:
    users, repositories, user, repository = drawn
    rule = Rule((users,), ("*",), (repositories,), frozenset({Action.PULL}))
    rules = Rules((rule,))
    identity = Identity(user)
    if rules.allows(identity, Action.PUSH, "registry", repository):
        raise Wrong("a push that no rule allows")
    allowed = rules.allows(identity, Action.PULL, "registry", repository)
    if allowed != (fnmatchcase(user, users) and fnmatchcase(repository, repositories)):
        raise Wrong("another verdict than that of the patterns")
    if Rules((rule,), read_only=True).allows(identity, Action.DELETE, "registry", repository):
        raise Wrong("a deletion that is read-only")
    return "allowed" if allowed else "denied"


def _check_address(address: str) -> str:
    return "same" if network_of(address) == address else "network"


def targets() -> tuple[Target, ...]:
    known = _Known()
    return (
        Target("Authorization", _draw_header, known.check, 1.5),
        Target("htpasswd files", lambda m: m.text(_HTPASSWD), _check_htpasswd, 0.1),
        Target("token files", lambda m: m.text(_TOKEN_FILE), _check_tokens, 0.7),
        Target("rules", _draw_rule, _check_rule, 0.5),
        Target("addresses", lambda m: m.text(_ADDRESSES), _check_address, 0.7),
    )
