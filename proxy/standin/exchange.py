"""One request from its headers to its reply: recorded, met by faults, handled, answered.

The same for the registry, S3 and the JSON API; what they answer is their own business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from proxy.standin.delivery import deliver, hang_up, reset
from proxy.standin.faults import Fault, Faults, Plan
from proxy.standin.journal import Journal
from proxy.standin.replies import Reply


class RequestCut(Exception):
    """The request's connection was broken on purpose, in the middle of its body."""


class Call:
    """A request as the front ends see it; `account` is the registry it is addressed to."""

    def __init__(self, request: web.BaseRequest, plan: Plan, account: str) -> None:
        path, _, query = request.raw_path.partition("?")
        self.method = request.method
        self.target = request.raw_path
        self.raw_path = path
        self.path = unquote(path)
        self.raw_query = query
        self.query = dict(parse_qsl(query, keep_blank_values=True))
        self.headers = request.headers
        self.host = request.headers.get("Host", "")
        self.account = account
        self.principal = ""
        self.plan = plan
        self.body_bytes = 0
        self.stored = ""  # digest of what this request put into a repository, if it did
        self._request = request

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes in; raises `RequestCut`, or what aiohttp raises for a broken one."""
        await self._continue()
        cut = self.plan.first("request_cut")
        now = asyncio.get_running_loop().time
        if cut == 0:
            raise RequestCut
        while chunk := await self._request.content.readany():
            if cut is not None and self.body_bytes + len(chunk) >= cut:
                chunk = chunk[: cut - self.body_bytes]
            self.body_bytes += len(chunk)
            delay = self.plan.delay(len(chunk), now())
            if delay:
                await asyncio.sleep(delay)
            yield chunk
            if self.body_bytes == cut:
                raise RequestCut

    async def read(self, limit: int) -> bytes:
        """The whole body, or its first `limit` bytes and a little more."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                break
        return bytes(body)

    async def _continue(self) -> None:
        # RFC 9110 §10.1.1: the client waits for this with its body. What was refused on its
        # headers alone never gets here.
        if self.headers.get("Expect", "").lower() == "100-continue":
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._request.writer.output_size = 0


Front: TypeAlias = Callable[[Call], Awaitable[Reply]]
FaultReply: TypeAlias = Callable[[Call, Fault], Reply]


class Exchange:
    """Runs requests of one server through `front`; `fault_reply` is its style of an outage."""

    def __init__(
        self,
        server: str,
        front: Front,
        fault_reply: FaultReply,
        *,
        faults: Faults,
        journal: Journal,
    ) -> None:
        self._server = server
        self._front = front
        self._fault_reply = fault_reply
        self._faults = faults
        self._journal = journal

    async def handle(self, request: web.BaseRequest, account: str) -> web.StreamResponse:
        number = self._journal.begin(
            self._server, request.method, request.raw_path, request.headers.items()
        )
        plan = self._faults.plan(self._server, request.method, request.raw_path)
        call = Call(request, plan, account)
        status, length = 0, 0
        try:
            reply = await self._answer(call, plan)
            if reply is None:
                return reset(request)
            if not plan.has("lose_reply"):
                status = reply.status
                length = 0 if request.method == "HEAD" else reply.length
        finally:
            self._journal.end(
                number,
                status=status,
                request_bytes=call.body_bytes,
                reply_bytes=length,
                stored=call.stored,
            )
        try:
            return await deliver(request, reply, plan)
        except ConnectionError:  # the client left: there is no one to tell
            return hang_up(request)

    async def _answer(self, call: Call, plan: Plan) -> Reply | None:
        """None: the connection is to be reset."""
        if plan.latency:
            await asyncio.sleep(plan.latency)
        for armed in plan.met:
            if armed.fault.hold:
                await armed.wait()
        if plan.has("reset"):
            return None
        fault = plan.answer()
        if fault is not None:
            return self._fault_reply(call, fault)
        try:
            return await self._front(call)
        except (RequestCut, ConnectionError, web.RequestPayloadError):
            return None  # the client, or a fault, broke off in the middle of the body
