"""What users may do where: the first rule that is about them decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from proxy.access.identity import Action, Identity


@dataclass(frozen=True, slots=True)
class Rule:
    """`allow` is what users that match may do in repositories that match, and nothing else.

    The patterns are `fnmatch`'s, in which `*` crosses slashes.
    """

    users: tuple[str, ...]
    registries: tuple[str, ...]
    repositories: tuple[str, ...]
    allow: frozenset[Action]


class Rules:
    """No rules: everything is allowed to whoever is let in. Else what no rule allows is denied."""

    def __init__(self, rules: Sequence[Rule] = (), *, read_only: bool = False) -> None:
        self._rules = tuple(rules)
        self.read_only = read_only

    @property
    def restricts(self) -> bool:
        """Whether there is anything that one user may read and another may not."""
        return bool(self._rules)

    def allows(
        self,
        identity: Identity,
        action: Action,
        registry: str,
        repository: str,
        *,
        aliases: Iterable[tuple[str, str]] = (),
    ) -> bool:
        """Whether the user may do that in that repository of that registry.

        By its `aliases`, which are registries and repositories that may be the same, it can be
        denied, and never allowed: no other name leads past a rule.
        """
        if self.read_only and action is not Action.PULL:
            return False
        if not self._rules:
            return True
        names = tuple(aliases)
        for rule in self._rules:
            if not _matches(identity.user, rule.users):
                continue
            if _is_about(rule, registry, repository):
                return action in rule.allow
            if action not in rule.allow and any(_is_about(rule, *name) for name in names):
                return False
        return False

    def allows_some(self, identity: Identity, registry: str, *actions: Action) -> bool:
        """Whether there may be a repository of the registry in which the user may do any of that.

        A rule about all repositories decides for those after it.
        """
        if not self._rules:
            return True
        for rule in self._rules:
            if _matches(identity.user, rule.users) and _matches(registry, rule.registries):
                if not rule.allow.isdisjoint(actions):
                    return True
                if "*" in rule.repositories:
                    return False
        return False


def _is_about(rule: Rule, registry: str, repository: str) -> bool:
    return _matches(registry, rule.registries) and _matches(repository, rule.repositories)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
