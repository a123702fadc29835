"""Which upstream registry and repository a client means (the four ways to name one)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from proxy.errors import NameInvalid, NameUnknown
from proxy.oci import RepositoryName
from proxy.upstream import Registry, parse_host


class Rewrite(StrEnum):
    """Whether legacy cache pushes to a registry are rewritten."""

    AUTO = "auto"  # where the registry is ECR
    ALWAYS = "always"
    NEVER = "never"


class PushMode(StrEnum):
    """What a blob's 201 means."""

    WRITE_BACK = "write-back"  # it is on this proxy's disk, and goes upstream before its manifest
    WRITE_THROUGH = "write-through"  # it is upstream


@dataclass(frozen=True, slots=True)
class Ways:
    """How a registry is dealt with."""

    rewrite: Rewrite = Rewrite.AUTO
    push_mode: PushMode = PushMode.WRITE_BACK


@dataclass(frozen=True, slots=True)
class Target:
    """A repository in a registry: what every fact, record and proof is keyed by.

    `client` is on whose behalf it is dealt with, a user or an address, where what one client may
    take is limited; no fact depends on it. `user` is the same where clients say who they are.
    """

    registry: Registry
    repository: RepositoryName
    ways: Ways = Ways()
    client: str = field(default="", compare=False)
    user: str = field(default="", compare=False)

    @property
    def rewrite(self) -> Rewrite:
        return self.ways.rewrite

    @property
    def push_mode(self) -> PushMode:
        return self.ways.push_mode

    @property
    def key(self) -> tuple[str, str]:
        return (self.registry.name, self.repository)

    async def rewrites_pushes(self) -> bool:
        """Only the last proxy of a chain rewrites: the one that talks to the registry itself."""
        if self.rewrite is Rewrite.NEVER:
            return False
        if self.registry.is_ecr:
            return True
        return self.rewrite is Rewrite.ALWAYS and not await self.registry.is_peer()

    async def converts_pulls(self) -> bool:
        """Whether readers get a cache in the form that they understand.

        Behind another proxy too: that one hands its peers what is stored, whoever asks.
        """
        if self.rewrite is Rewrite.NEVER:
            return False
        return (
            self.registry.is_ecr or self.rewrite is Rewrite.ALWAYS or await self.registry.is_peer()
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a name leads, before anybody is asked: a registry, and what is called for there.

    `repository` is not checked yet. With a `host` the name leads to a registry of that name which
    is not configured, and to `rest` there; the default one may know it, if that is another proxy.
    """

    registry: Registry
    repository: str
    host: str = ""
    rest: str = ""

    @property
    def aliases(self) -> tuple[tuple[str, str], ...]:
        return aliases_of(self.registry, self.repository)


def aliases_of(registry: Registry, repository: str) -> tuple[tuple[str, str], ...]:
    """What else may be this repository, as registry and repository, if that registry is a proxy.

    There a name has a registry's host before it, or not: then it is in the default one, which is
    not known here.
    """
    names: list[tuple[str, str]] = []
    # A longer one is no name, and whoever sends it shall not have thousands of them judged.
    is_short = len(repository) <= RepositoryName.MAX
    host, _, rest = (repository if is_short and not registry.is_ecr else "").partition("/")
    while rest and ("." in host or host == "localhost"):
        names += [(host, rest), (registry.name, rest)]
        host, _, rest = rest.partition("/")
    return tuple(names)


def _everything(_: str) -> bool:
    return True


class Registries:
    """The configured registries by the name that clients use; the first one is the default."""

    def __init__(self, registries: Sequence[Registry], ways: Mapping[str, Ways]) -> None:
        self._by_name = {registry.name: registry for registry in registries}
        self._default = registries[0]
        self._ways = ways

    def all(self) -> tuple[Registry, ...]:
        return tuple(self._by_name.values())

    def place(self, name: str, ns: str | None) -> Place:
        """Where a request for `name` leads, with `?ns=` if the client sent one."""
        if ns is not None:
            known = self._by_name.get(ns)
            return Place(known, name) if known else Place(self._default, f"{ns}/{name}", ns, name)
        first, _, rest = name.partition("/")
        if rest and first in self._by_name:
            return Place(self._by_name[first], rest)
        # Only what can be nothing but a registry is refused: `ghcr.io/…` is a common prefix of
        # ECR's pull-through repositories, and so a repository name here.
        if rest and parse_host(first) is not None:
            return Place(self._default, name, first, rest)
        return Place(self._default, name)

    async def resolve(self, place: Place, shown: Callable[[str], bool] = _everything) -> Target:
        """The target that is there.

        Raises `NameInvalid` for what is no repository name, `NameUnknown` for a registry that is
        not configured, naming those that are and may be `shown`.
        """
        # Another proxy as the default upstream may know a registry that is not known here.
        if place.host and (self._default.is_ecr or not await self._default.is_peer()):
            raise self._unknown(place.host, shown)
        try:
            repository = RepositoryName.parse(place.repository)
        except ValueError as error:
            raise NameInvalid(str(error)) from error
        return self.target(place.registry, repository)

    def name(self, ns: str | None) -> str:
        """What the registry is called that `?ns=` names, configured or not."""
        return self._default.name if ns is None else ns

    def catalog(self, ns: str | None, shown: Callable[[str], bool]) -> Registry:
        """The registry whose repositories are to be listed."""
        if ns is None:
            return self._default
        registry = self._by_name.get(ns)
        if registry is None:
            raise self._unknown(ns, shown)
        return registry

    async def mount_source(self, name: str, target: Target) -> RepositoryName | None:
        """The repository that a mount's `from` names, or None if it is in another registry.

        None for a name that cannot be one, too: what cannot be mounted is uploaded.
        """
        try:
            source = await self.resolve(self.place(name, None))
        except (NameInvalid, NameUnknown):
            return None
        if source.registry is target.registry:
            return source.repository
        # A client that addresses by `?ns=` names its source without a registry.
        if source.registry is self._default and source.repository == name:
            return RepositoryName.parse(name)
        return None

    def target(self, registry: Registry, repository: RepositoryName) -> Target:
        """A repository of a registry that is configured."""
        return Target(registry, repository, self._ways[registry.name])

    def _unknown(self, host: str, shown: Callable[[str], bool]) -> NameUnknown:
        known = ", ".join(filter(shown, self._by_name))
        return NameUnknown(
            f"the registry {host[:255]!r} is not configured in this proxy; "
            f"configured: {known}. Add it with --registry or in the configuration file"
        )
