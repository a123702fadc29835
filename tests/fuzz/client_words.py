"""What clients say, as pure functions parse it: paths, names, ranges, tokens, types."""

from __future__ import annotations

import string
from typing import Any, Final
from urllib.parse import quote, unquote

from cryptography.fernet import Fernet

from proxy.buildcache import Want
from proxy.errors import BlobUploadInvalid, BlobUploadUnknown, RangeInvalid, RegistryError
from proxy.handlers.ranges import Range, parse_chunk
from proxy.handlers.routes import METHODS, Noun, parse
from proxy.handlers.viewer import asks_to_push, choose
from proxy.oci import (
    DOCKER_LIST,
    MANIFEST_TYPES,
    OCI_INDEX,
    Descriptor,
    Digest,
    RepositoryName,
    Tag,
    parse_reference,
)
from proxy.services.registries import Target as Repository
from proxy.services.tokens import UploadTokens
from tests.fuzz.documents import Documents
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import Target, Wrong

DIGEST: Final = str(Digest.of(b"blob"))
LONG_DIGEST: Final = str(Digest.of(b"blob", "sha512"))
REFERENCES: Final = ("latest", "v1.2_3-rc.4", "_", "a" * 128, DIGEST, LONG_DIGEST)
NAMES: Final = (
    *("app", "team/app", "a/b/c/d", "a__b/c--d.e", "a" * 256, "library/blobs/uploads"),
    "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/app",
    *(
        "manifests/manifests/manifests",
        "tags/list/tags/list",
        "127.0.0.1:5000/app",
        "public.ecr.aws/x",
    ),
)
TOKEN: Final = "gAAAAABnR2-1" + "q-_9" * 40
_TOKEN_LETTERS: Final = frozenset(string.ascii_letters + string.digits + "-_")
PATHS: Final = (
    *("/v2", "/v2/", "/v2/_catalog", "/v2/app/tags/list", "/v2/team/app/tags/list"),
    *(f"/v2/{name}/manifests/{reference}" for name in NAMES[:4] for reference in REFERENCES),
    *(f"/v2/{name}/blobs/{DIGEST}" for name in NAMES),
    *(f"/v2/{name}/referrers/{LONG_DIGEST}" for name in NAMES[:3]),
    *("/v2/app/blobs/uploads", "/v2/app/blobs/uploads/", f"/v2/app/blobs/uploads/{TOKEN}"),
    *("/livez", "/readyz", "/metrics", "/"),
)
METHOD_NAMES: Final = (
    *("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get", "X"),
)
RANGES: Final = (
    *("bytes=0-", "bytes=0-0", "bytes=3-5", "bytes=-4", "Bytes=1-2", "bytes=0-1,3-4", "bytes=-"),
    *("lines=1-2", "bytes=99999999999999999999-", "bytes = 0-1"),
)
CHUNKS: Final = ("0-9", "bytes 0-9/10", "bytes 0-9/*", "10-19", "0-0", "bytes */10", "5-3")
ACCEPTS: Final = (
    *MANIFEST_TYPES,
    ", ".join(MANIFEST_TYPES),
    f"{OCI_INDEX};q=0, {DOCKER_LIST};q=0.5, */*;q=0.1",
    f'{OCI_INDEX}; a="b,c;d"',
    "*/*",
    "",
)
USER_AGENTS: Final = (
    *("buildkit/v0.11.6", "buildkit/0.12.0", "buildkit/v0.12-dev", "buildkit", "curl/7.88.1"),
    *("containerd/1.6.0+unknown", "containerd/v1.7.0", "docker/26.1 (linux; buildkit/v0.9) x/1"),
)


def _draw_route(mutator: Mutator) -> tuple[str, str]:
    path = mutator.text(PATHS)
    if mutator.often(0.5):
        path = unquote(path, errors=mutator.one(("replace", "surrogateescape")))
    return mutator.one(METHOD_NAMES), path


def _check_route(drawn: tuple[str, str]) -> str:
    method, path = drawn
    try:
        route = parse(method, path)
    except RegistryError as error:
        error.body().decode()
        _require(error.reason().isascii() and error.reason().isprintable(), "no line of a header")
        return str(error.wire_status)
    _require(method in METHODS[route.noun], "a method that is not supported")
    if route.noun in (Noun.PING, Noun.CATALOG):
        return route.noun
    if route.digest is not None:
        _require(Digest.parse(route.digest) in path, "a digest that does not stand there")
    try:
        name = RepositoryName.parse(route.name)
    except ValueError:
        return "no name"
    _check_name(name)
    # Locations are made of it: they lead back here.
    if not route.token:
        _require(quote(path, safe="/:") == path, "a path that is quoted otherwise")
    return route.noun


def _draw_word(mutator: Mutator) -> str:
    return mutator.text((*REFERENCES, *NAMES))


def _check_word(text: str) -> str:
    found = []
    for kind in (Digest, RepositoryName, Tag):
        try:
            value = kind.parse(text)
        except ValueError as error:
            str(error).encode("utf-8", "replace")
            continue
        _require(value == text, "a word that is not what was said")
        _check_name(value)
        found.append(kind.__name__)
        if isinstance(value, Digest):
            value.hasher()
            bytes.fromhex(value.hex)
    try:
        parse_reference(text)
    except ValueError:
        _require("Digest" not in found and "Tag" not in found, "no reference, and yet one")
    return "+".join(found) or "none"


def _check_name(text: str) -> None:
    _require(text.isascii() and text.isprintable() and " " not in text, "odd characters in a word")
    _require(not {"", ".", ".."} & set(text.split("/")), "a component that is none")


def _check_descriptor(value: Any) -> str:
    try:
        descriptor = Descriptor.parse(value)
    except ValueError:
        return "ValueError"
    _require(descriptor.size >= 0, "a size below nothing")
    return "descriptor"


def _draw_descriptor(mutator: Mutator) -> Any:
    annotated = {"mediaType": OCI_INDEX, "digest": DIGEST, "size": 4, "annotations": {"a": "b"}}
    value = Documents(mutator, (annotated, annotated, [])).value()
    if isinstance(value, dict) and mutator.often(0.3):
        return {**value, "size": mutator.one((10**400, 2**64, 1.5, True, -1, float("nan"), "4"))}
    return value


def _draw_ranges(mutator: Mutator) -> tuple[str, str, int]:
    size = mutator.one((0, 1, 10, 2**31, 2**63, mutator.chance.getrandbits(40)))
    return mutator.text(RANGES), mutator.text(CHUNKS), size


def _check_ranges(drawn: tuple[str, str, int]) -> str:
    text, chunk, size = drawn
    said = []
    wanted = Range.parse(text)
    if wanted is not None:
        try:
            first, end = wanted.resolve(size)
        except RangeInvalid:
            said.append("416")
        else:
            _require(0 <= first < end <= size, "a range beyond the blob")
            said.append("range")
    try:
        start = parse_chunk(chunk, size)
    except BlobUploadInvalid as error:
        error.body()
        said.append("400")
    else:
        _require(start is not None and start >= 0, "a chunk that begins nowhere")
        said.append("chunk")
    return "+".join(said)


class _Named:
    """As much of a registry as a token is bound to."""

    name = "registry.example"


class _Tokens:
    """Tokens that were issued, and what is made of them: only what was issued may be good."""

    def __init__(self) -> None:
        self._mine = UploadTokens(Fernet.generate_key())
        other = UploadTokens(Fernet.generate_key())
        self._target = self._repository("app")
        self._good = self._mine.issue("the-upload", self._target)
        foreign = self._mine.issue("the-upload", self._repository("app2"))
        self._seeds = (self._good, foreign, other.issue("the-upload", self._target), TOKEN)

    def draw(self, mutator: Mutator) -> str:
        return mutator.text(self._seeds)

    def check(self, token: str) -> str:
        try:
            name, _ = self._mine.read(token, self._target)
        except BlobUploadUnknown:
            return "404"
        _require(name == "the-upload", "a forged token")
        # It becomes part of a location and of a header.
        _require(token.isascii() and not set(token) - _TOKEN_LETTERS, "odd characters in a token")
        return "good"

    @staticmethod
    def _repository(name: str) -> Repository:
        return Repository(_Named(), RepositoryName.parse(name))  # type: ignore[arg-type]


def _draw_viewer(mutator: Mutator) -> tuple[list[str], str]:
    accept = [mutator.text(ACCEPTS) for _ in range(mutator.one((0, 1, 1, 2)))]
    return accept, mutator.text(USER_AGENTS)


def _check_viewer(drawn: tuple[list[str], str]) -> str:
    asks_to_push(drawn[0])
    _require(choose(*drawn, peer=True) is Want.STORED, "a peer that gets another form")
    return choose(*drawn, peer=False)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


def targets() -> tuple[Target, ...]:
    tokens = _Tokens()
    return (
        Target("routes", _draw_route, _check_route, 2.0),
        Target("names and digests", _draw_word, _check_word, 2.0),
        Target("descriptors", _draw_descriptor, _check_descriptor),
        Target("ranges", _draw_ranges, _check_ranges, 1.5),
        Target("upload tokens", tokens.draw, tokens.check),
        Target("Accept, User-Agent", _draw_viewer, _check_viewer),
    )
