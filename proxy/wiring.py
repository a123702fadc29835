"""What the settings make of parts that are opened from them alone: registries, users, rules."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, fields

from proxy import access
from proxy.access import Action, Authenticator, Rule, Rules
from proxy.config import RegistrySettings, Settings
from proxy.events import Events
from proxy.refusals import Refusals
from proxy.services.registries import PushMode, Registries, Rewrite, Ways
from proxy.upstream import (
    NewRepositories,
    Registry,
    RegistryConfig,
    Trust,
    Tuning,
    open_registry,
)

_log = logging.getLogger(__name__)


class StartError(Exception):
    """The proxy cannot start; the message is for the person who started it."""


def open_authenticator(settings: Settings, clock: Callable[[], float]) -> Authenticator:
    """Reads files, blocking; raises `StartError`."""
    ways, tls = settings.access, settings.tls
    try:
        return access.open_authenticator(
            htpasswd_file=ways.htpasswd_file,
            token_file=ways.token_file,
            tokens=ways.tokens,
            certificates=None if tls is None or tls.client_ca_file is None else tls.client_user,
            clock=clock,
        )
    except access.AccessError as error:
        raise StartError(str(error)) from error


def rules_of(settings: Settings) -> Rules:
    """What users may do."""
    rules = [
        Rule(rule.users, rule.registries, rule.repositories, frozenset(map(Action, rule.allow)))
        for rule in settings.access.rules
    ]
    return Rules(rules, read_only=settings.access.read_only)


async def open_registries(
    settings: Settings,
    events: Events,
    refusals: Refusals,
    stack: AsyncExitStack,
    tuning: Tuning,
) -> Registries:
    """All at once: each may have to wait a moment for AWS."""
    try:
        trust = Trust() if settings.ca_bundle is None else Trust.read(settings.ca_bundle)
    except ValueError as error:
        raise StartError(f"ca-bundle: {error}") from error

    async def open_one(registry: RegistrySettings) -> Registry:
        try:
            opened = await open_registry(
                _registry_config(registry),
                proxies=settings.proxies,
                events=events,
                refusals=refusals,
                trust=trust,
                tuning=tuning,
            )
        except ValueError as error:
            raise StartError(f"registry {registry.name}: {error}") from error
        stack.push_async_callback(opened.close)
        problem = opened.credentials_problem()
        if problem is not None:
            _log.warning("%s: %s", registry.name, problem)
        return opened

    opening = [asyncio.create_task(open_one(registry)) for registry in settings.registries]
    try:
        opened = await asyncio.gather(*opening)
    except BaseException:
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        raise
    ways = {r.name: Ways(Rewrite(r.rewrite), PushMode(r.push_mode)) for r in settings.registries}
    return Registries(opened, ways)


def _registry_config(registry: RegistrySettings) -> RegistryConfig:
    new = registry.new_repositories
    known = {known.name: getattr(registry, known.name) for known in fields(RegistryConfig)}
    known["new_repositories"] = None if new is None else NewRepositories(**asdict(new))
    return RegistryConfig(**known)
