"""The stand-in as a whole: opens its ports, wires its parts, closes them in reverse."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeAlias

from aiohttp import web

from proxy.standin.control import Control
from proxy.standin.exchange import Exchange
from proxy.standin.faults import Faults
from proxy.standin.journal import Journal, Recorded
from proxy.standin.json_api import JsonApi
from proxy.standin.presign import Presigner
from proxy.standin.registry_api import RegistryApi
from proxy.standin.s3 import FakeS3
from proxy.standin.settings import StandInSettings
from proxy.standin.state import State
from proxy.standin.tokens import USERNAME, Token

_Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_OTHER_LOOPBACK: Final = "127.0.0.2"
_LINE: Final = 64 * 1024  # tokens are of unbounded size (ECR.md §2); aiohttp's default is 8 KiB


class StandIn:
    """A strict local ECR: registry API and JSON API on one port, a fake S3 on another host and
    port. Use as an async context manager, or `start` and `close`.

    `listen` is an IP address. `port` and `s3_port` 0 take free ones. On 127.0.0.1 the fake S3 is
    at 127.0.0.2, where the system has such an address; elsewhere at the host that the client used.
    """

    def __init__(
        self,
        settings: StandInSettings | None = None,
        *,
        listen: str = "127.0.0.1",
        port: int = 0,
        s3_port: int = 0,
    ) -> None:
        self.settings = settings or StandInSettings()
        self.faults = Faults()
        self.state = State(self.settings)
        self.presigner = Presigner(
            region=self.settings.region,
            lifetime=self.settings.url_lifetime,
            key_id=self.settings.url_key_id,
            session_token=self.settings.url_session_token,
            signature=self.settings.url_signature,
        )
        self._journal = Journal(self.settings.recorded_requests)
        self._listen = listen
        self._port = port
        self._s3_port = s3_port
        self._s3_host: str | None = self.settings.s3_host
        self._urls: dict[str, str] = {}
        self._accounts_by_port: dict[int, str] = {}
        self._runners: list[web.ServerRunner] = []
        self._token: Token | None = None
        exchange = partial(Exchange, faults=self.faults, journal=self._journal)
        registry = RegistryApi(self.state, self.presigner, self._s3_origin)
        self._registry = exchange("registry", registry.answer, registry.fault_reply)
        api = JsonApi(self.state)
        self._api = exchange("api", api.answer, api.fault_reply)
        s3 = FakeS3(self.state, self.presigner)
        self._s3 = exchange("s3", s3.answer, s3.fault_reply)
        self._control = Control(self.state, self.faults, self._journal)

    @property
    def url(self) -> str:
        """Base URL of the registry API and the JSON API, of the first account."""
        return self.url_of(self.settings.account)

    def url_of(self, account: str) -> str:
        """The same for any account: each has a port of its own."""
        return self._urls[account]

    @property
    def s3_port(self) -> int:
        return self._s3_port

    @property
    def host(self) -> str:
        """The registry's host name in AWS."""
        return self.state.host_of(self.settings.account)

    @property
    def username(self) -> str:
        return USERNAME

    @property
    def password(self) -> str:
        """A password that is good now."""
        if self._token is None or not self.state.tokens.is_good(self._token):
            self._token = self.state.tokens.issue(self.state.principals.user.arn)
        return self._token.password

    @property
    def access_key_id(self) -> str:
        return self.settings.access_key_id

    @property
    def secret_access_key(self) -> str:
        return self.settings.secret_access_key

    @property
    def requests(self) -> list[Recorded]:
        """The requests so far, in the order they came in."""
        return self._journal.entries()

    def forget_requests(self) -> None:
        self._journal.clear()

    async def start(self) -> None:
        """Open the ports; raises OSError when one cannot be had, and then leaves nothing open."""
        try:
            await self._open_registry()
            await self._open_s3()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let go of held requests, close the ports, drop what was temporary."""
        self.faults.clear()
        for runner in reversed(self._runners):
            await runner.cleanup()
        self._runners.clear()
        await asyncio.to_thread(self.state.close)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _open_registry(self) -> None:
        runner = await self._runner(self._serve_registry)
        port = self._port
        for account in self.state.accounts:
            bound = await self._site(runner, self._listen, port)
            self._accounts_by_port[bound] = account
            self._urls[account] = f"http://{_authority(_reachable(self._listen), bound)}"
            port = 0

    async def _open_s3(self) -> None:
        runner = await self._runner(self._serve_s3)
        if self._s3_host is None and self._listen == "127.0.0.1":
            try:
                self._s3_port = await self._site(runner, _OTHER_LOOPBACK, self._s3_port)
            except OSError as error:
                # Not every system has more than one loopback address; a port in use is an error.
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                self._s3_host = "localhost"
            else:
                self._s3_host = _OTHER_LOOPBACK
                return
        self._s3_port = await self._site(runner, self._listen, self._s3_port)

    async def _runner(self, handler: _Handler) -> web.ServerRunner:
        server = web.Server(
            handler,
            max_line_size=_LINE,
            max_field_size=_LINE,
            read_bufsize=512 * 1024,
            auto_decompress=False,
            access_log=None,
        )
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def _site(self, runner: web.ServerRunner, host: str, port: int) -> int:
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        return int(runner.addresses[-1][1])

    async def _serve_registry(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path.startswith("/_standin/"):
            return await self._control.handle(request)
        local = request.transport.get_extra_info("sockname") if request.transport else None
        account = self.state.account_of(request.headers.get("Host", "")) or (
            self._accounts_by_port.get(local[1]) if local else None
        )
        is_api = request.method == "POST" and request.raw_path.partition("?")[0] == "/"
        exchange = self._api if is_api else self._registry
        return await exchange.handle(request, account or self.settings.account)

    async def _serve_s3(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._s3.handle(request, self.settings.account)

    def _s3_origin(self, host: str) -> str:
        """Host and port of the fake S3 for a client that addressed the registry as `host`."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return _authority(self._s3_host or name or self._listen, self._s3_port)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _reachable(listen: str) -> str:
    """An address at which a server that listens there can be dialled from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen, listen)  # noqa: S104 compared only
