"""Who looks after a cache for the command line: the proxy that runs on it, else this process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final, TypeAlias

import aiohttp
import click

from proxy.cache import BlobStore, CacheError
from proxy.cache.layout import Layout
from proxy.cli.base import UserError
from proxy.config import CacheSettings
from proxy.events import Events
from proxy.services.debts import Owed
from proxy.services.upkeep import Limits, Message, Messages, Upkeep
from proxy.unix_socket import short_path

Take: TypeAlias = Callable[[Message], None]

# A proxy says at once that it will do what it is asked.
_PATIENCE: Final = 10.0
# No budget: to look at a cache with settings other than the proxy's must not evict anything.
_UNLIMITED: Final = 2**60


def perform(
    settings: CacheSettings, operation: str, arguments: Mapping[str, object], *, take: Take
) -> None:
    """Do an operation of `services.upkeep`, wherever it can be done, and hand over its messages.

    SIGINT ends it with `KeyboardInterrupt`, SIGTERM with `SystemExit`, both after the cache has
    been left in order. Raises `ClickException`.
    """

    async def run() -> None:
        async with aclosing(_messages(settings, operation, arguments)) as messages:
            async for message in messages:
                if "error" in message:
                    raise click.ClickException(message["error"])
                take(message)

    _run(run())


def _run(work: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await task

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)


async def _messages(
    settings: CacheSettings, operation: str, arguments: Mapping[str, object]
) -> Messages:
    layout = Layout(settings.cache_dir)
    owner = _owner(layout)
    async with AsyncExitStack() as stack:
        asked = await _ask_proxy(layout, operation, arguments, stack)
        if asked is None:
            if owner != os.geteuid() == 0:
                # What root leaves there the proxy could not open.
                raise UserError(
                    f"the cache in {layout.root} belongs to user {owner}: do this as that user, "
                    "or while the proxy runs"
                )
            store = await _open(settings, stack)
            limits = Limits(settings.cache_size, settings.min_free)
            asked = Upkeep(store, limits).perform(operation, arguments)
        messages = await stack.enter_async_context(aclosing(asked))
        async for message in messages:
            yield message


def _owner(layout: Layout) -> int:
    """The user id of the proxy whose cache it is; raises `UserError` where there is none."""
    try:
        return os.stat(layout.lock).st_uid
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"there is no cache in {layout.root}; name the directory that the proxy uses, with "
            "--cache-dir, ECR_CACHE_PROXY_CACHE_DIR or --config"
        ) from error
    except OSError as error:
        raise UserError(
            f"the cache directory {layout.root} cannot be used: {error.strerror}"
        ) from error


async def _ask_proxy(
    layout: Layout, operation: str, arguments: Mapping[str, object], stack: AsyncExitStack
) -> Messages | None:
    """What the proxy that runs there tells; None when none answers."""
    path = stack.enter_context(short_path(layout.control))
    session = aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(path), timeout=aiohttp.ClientTimeout(total=None)
    )
    await stack.enter_async_context(session)
    try:
        async with asyncio.timeout(_PATIENCE):
            response = await session.post(f"http://proxy/{operation}", json=arguments)
    except (aiohttp.ClientConnectionError, TimeoutError):
        return None
    stack.callback(response.close)
    return _read(response)


async def _read(response: aiohttp.ClientResponse) -> Messages:
    try:
        async for line in response.content:
            yield json.loads(line)
    except aiohttp.ClientError as error:
        raise click.ClickException("the proxy ended before this was done") from error


async def _open(settings: CacheSettings, stack: AsyncExitStack) -> BlobStore:
    """The cache, taken by this process; raises `UserError` when another one has it."""
    try:
        # What a proxy has promised to send is for the next one to send.
        store = await BlobStore.open(
            settings.cache_dir, budget=_UNLIMITED, events=Events(), first=Owed().keep
        )
    except CacheError as error:
        raise UserError(str(error)) from error
    stack.push_async_callback(store.close)
    await store.settled()
    return store
