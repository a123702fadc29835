"""Rules: the first one that is about a user and a repository decides."""

from __future__ import annotations

import pytest

from proxy.access import NOBODY, Action, Identity, Rule, Rules

PULL, PUSH, DELETE = Action
ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
ALL = ("*",)


def rule(users: str, repositories: str, *allow: Action, registries: tuple[str, ...] = ALL) -> Rule:
    return Rule(tuple(users.split()), registries, tuple(repositories.split()), frozenset(allow))


# Pull requests from forks read the cache and never write it.
FORKS = Rules(
    [
        rule("fork-*", "*-cache base/*", PULL),
        rule("fork-*", "*"),
        rule("ci", "app app/* *-cache", PULL, PUSH),
        rule("admin", "*", PULL, PUSH, DELETE, registries=(ECR,)),
        rule("*", "public/*", PULL),
    ]
)


@pytest.mark.parametrize(
    ("user", "repository", "allowed"),
    [
        ("fork-1", "app-cache", {PULL}),
        ("fork-1", "team/app-cache", {PULL}),  # an asterisk crosses slashes
        ("fork-1", "base/debian", {PULL}),
        ("fork-1", "app", set()),
        ("fork-1", "public/x", set()),  # decided before
        ("ci", "app", {PULL, PUSH}),
        ("ci", "app/web/deep", {PULL, PUSH}),
        ("ci", "apple", set()),
        ("ci", "App", set()),  # case counts
        ("CI", "app", set()),
        ("ci2", "app", set()),
        ("ci", "public/x", {PULL}),
        ("admin", "anything", {PULL, PUSH, DELETE}),
        ("nobody", "public/x", {PULL}),
        ("nobody", "app-cache", set()),
        ("", "public/x", {PULL}),  # the asterisk is for clients without a user, too
        ("", "app", set()),
    ],
)
def test_the_first_rule_that_matches_decides(
    user: str, repository: str, allowed: set[Action]
) -> None:
    identity = Identity(user)
    assert {a for a in Action if FORKS.allows(identity, a, ECR, repository)} == allowed


def test_a_rule_is_about_its_registries() -> None:
    assert not FORKS.allows(Identity("admin"), PULL, "other.example", "anything")
    assert FORKS.allows(Identity("admin"), PULL, "other.example", "public/x")


def test_without_rules_everything_is_allowed_and_nothing_restricted() -> None:
    rules = Rules()
    assert all(rules.allows(who, a, ECR, "x") for who in (NOBODY, Identity("u")) for a in Action)
    assert not rules.restricts
    assert rules.allows_some(NOBODY, ECR, PULL)
    assert FORKS.restricts


def test_a_rule_about_all_repositories_decides_for_those_after_it() -> None:
    rules = Rules([rule("fork-*", "*"), rule("*", "*", PULL)])
    assert not rules.allows_some(Identity("fork-1"), ECR, *Action)
    assert rules.allows_some(Identity("ci"), ECR, *Action)


@pytest.mark.parametrize("rules", [[], [rule("*", "*", PULL, PUSH, DELETE)]])
def test_read_only_goes_before_the_rules(rules: list[Rule]) -> None:
    judged = Rules(rules, read_only=True)
    assert {a for a in Action if judged.allows(Identity("u"), a, ECR, "x")} == {PULL}


@pytest.mark.parametrize("pattern", ["?*", "[a-z]*", "u*"])
def test_no_user_matches_the_asterisk_alone(pattern: str) -> None:
    assert not Rules([rule(pattern, "*", PULL)]).allows(NOBODY, PULL, ECR, "x")


@pytest.mark.parametrize(
    ("user", "registry", "actions", "some"),
    [
        ("fork-1", ECR, (PULL,), True),
        ("fork-1", ECR, (PUSH,), False),  # the rule about all repositories ends it
        ("ci", ECR, (PUSH,), True),
        ("admin", ECR, (DELETE,), True),
        ("admin", "other.example", (DELETE,), False),
        ("admin", "other.example", (PULL, DELETE), True),
        ("", ECR, (PUSH, DELETE), False),
    ],
)
def test_whether_there_is_anything_for_a_user_in_a_registry(
    user: str, registry: str, actions: tuple[Action, ...], some: bool
) -> None:
    assert FORKS.allows_some(Identity(user), registry, *actions) is some


LAN = "lan-cache:5000"


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        # Whatever comes first decides, also when it is about another name of the repository.
        ([rule("*", "app"), rule("*", "*", PULL)], False),
        ([rule("*", "app", registries=(LAN,)), rule("*", "*", PULL)], False),
        ([rule("*", "app", registries=(ECR,)), rule("*", "*", PULL)], False),
        ([rule("*", "app", PUSH), rule("*", "*", PULL)], False),
        ([rule("*", f"{ECR}/app", PULL), rule("*", "app")], True),
        ([rule("*", "app", registries=("other.example",)), rule("*", "*", PULL)], True),
        ([rule("else", "app"), rule("*", "*", PULL)], True),
        ([rule("*", "app", PULL), rule("*", f"{ECR}/*", PULL)], True),
        # No alias allows anything.
        ([rule("*", "app", PULL)], False),
        ([rule("*", "*", PULL, registries=(ECR,))], False),
    ],
)
def test_no_other_name_of_a_repository_leads_past_a_rule(rules: list[Rule], allowed: bool) -> None:
    aliases = [(ECR, "app"), (LAN, "app")]
    judged = Rules(rules)
    assert judged.allows(Identity("u"), PULL, LAN, f"{ECR}/app", aliases=aliases) is allowed
