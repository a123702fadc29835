"""Which targets there are, and how a campaign's inputs are shared out among them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.fuzz import clients, parsers, targets, upstreams
from tests.fuzz.outcome import Outcome

PARSERS: Final = "parsers"
CLIENTS: Final = "clients"
UPSTREAM: Final = "upstream"

# By what an input costs: within this process, over a socket, and with garbage that is waited for.
GROUPS: Final = MappingProxyType({PARSERS: 0.75, CLIENTS: 0.22, UPSTREAM: 0.03})


def run(
    inputs: int, seed: int, only: str | None = None, *, tell: Callable[[str], None]
) -> list[Outcome]:
    """The outcomes of all targets, or of those that are meant by `only`; `tell` hears of each."""
    outcomes = []
    if only in (None, PARSERS) or only not in GROUPS:
        share = GROUPS[PARSERS] if only is None else 1.0
        outcomes += run_parsers(ceil(inputs * share), seed, only, tell=tell)
    for group, campaign in ((CLIENTS, clients.run), (UPSTREAM, upstreams.run)):
        if only in (None, group):
            tell(group)
            share = GROUPS[group] if only is None else 1.0
            outcomes.append(asyncio.run(campaign(ceil(inputs * share), seed)))
    return outcomes


def run_parsers(
    inputs: int, seed: int, only: str | None, *, tell: Callable[[str], None]
) -> list[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        found = parsers.targets(Path(folder))
        if only not in (None, PARSERS):
            found = tuple(target for target in found if only in target.name)
        whole = sum(target.share for target in found)
        outcomes = []
        for target in found:
            tell(target.name)
            outcomes.append(targets.run(target, ceil(inputs * target.share / whole), seed))
        return outcomes
