"""Uploads as they are opened upstream, and where pushes were taken of late."""

from __future__ import annotations

import asyncio
from typing import Final

from cachetools import TTLCache

from proxy.errors import BadGateway, Denied, NameUnknown, RegistryError
from proxy.events import Event, Events, Kind
from proxy.oci import Digest, RepositoryName
from proxy.services.registries import Target
from proxy.services.remedies import explain_missing_repository
from proxy.singleflight import SingleFlight
from proxy.upstream import Upload

# For so long, in seconds, nobody asks whether a repository takes pushes that has taken one.
_TAKEN_SECONDS: Final = 3600.0
_TAKEN: Final = 20_000


class Openings:
    """Opens uploads upstream; creates a repository that is not there where that is asked for."""

    def __init__(self, events: Events) -> None:
        self._events = events
        # Written and read by the running loop's clock.
        clock = asyncio.get_running_loop().time
        self._taken: TTLCache[tuple[str, str], None] = TTLCache(_TAKEN, _TAKEN_SECONDS, clock)
        self._creations: SingleFlight[tuple[str, str], None] = SingleFlight()

    async def close(self) -> None:
        await self._creations.close()

    def were_taken(self, target: Target) -> bool:
        """Whether upstream has lately taken a push to the repository.

        A client need not wait for it to be asked then: should it refuse, the blob's end says so.
        """
        return target.key in self._taken

    async def open(self, target: Target, *, patient: bool) -> Upload:
        """A new upload; raises upstream's refusal, with what to do about it."""
        upload = await self._open(target, patient=patient)
        if upload is None:
            raise BadGateway("upstream answered a plain upload as if it were a mount")
        return upload

    async def mount(
        self, target: Target, digest: Digest, source: RepositoryName | None
    ) -> Upload | None:
        """None if upstream took the blob from `source`, else an upload; raises as `open`."""
        return await self._open(target, patient=True, mount=digest, source=source)

    async def create(self, target: Target, error: NameUnknown) -> None:
        """Make the repository whose absence upstream has just told, or raise what it told."""
        if not target.registry.creates_repositories:
            raise explain_missing_repository(error, target)

        async def create() -> None:
            await target.registry.create_repository(target.repository)
            registry, repository = target.key
            self._events.emit(Event(Kind.CREATED, registry, repository))

        await self._creations.do(target.key, create)

    async def _open(
        self,
        target: Target,
        *,
        patient: bool,
        mount: Digest | None = None,
        source: RepositoryName | None = None,
    ) -> Upload | None:
        async def start() -> Upload | None:
            return await target.registry.start_upload(
                target.repository, mount=mount, source=source, patient=patient
            )

        try:
            try:
                upload = await start()
            except NameUnknown as error:
                await self.create(target, error)
                upload = await start()
        except RegistryError as error:
            if isinstance(error, NameUnknown | Denied):
                self._taken.pop(target.key, None)
            raise
        self._taken[target.key] = None
        return upload
