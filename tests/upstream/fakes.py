"""Servers on sockets that answer what a test tells them to, and remember what they were asked."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDictProxy

from proxy.events import Event, Events, Kind
from proxy.upstream import Tuning

# Quick, so that no test waits; patient, so that a busy machine does not matter.
QUICK = Tuning(
    connect=10.0,
    idle=10.0,
    patience=30.0,
    push_patience=30.0,
    attempts=4,
    first_pause=0.001,
    longest_pause=0.01,
    between=30.0,
    verdict=10.0,
    first_probe=0.001,
    last_probe=0.01,
    start_wait=30.0,
    close_wait=10.0,
)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came: `target` is its request line's, byte for byte."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")


class FakeServer:
    """Gives the answers told for a request line, in turn, and the last one again and again."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._answers: dict[tuple[str, str], deque[Answer | Handler]] = defaultdict(deque)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._server = TestServer(app, skip_url_asserts=True)

    async def start(self) -> None:
        await self._server.start_server()

    async def close(self) -> None:
        await self._server.close()

    @property
    def host(self) -> str:
        return f"{self._server.host}:{self._server.port}"

    @property
    def port(self) -> int:
        assert self._server.port is not None
        return self._server.port

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def tell(self, method: str, target: str, *answers: Answer | Handler) -> None:
        self._answers[method, target].extend(answers)

    def targets(self, method: str) -> list[str]:
        return [seen.target for seen in self.seen if seen.method == method]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        answers = self._answers[request.method, request.raw_path]
        answer = None
        if answers:
            answer = answers.popleft() if len(answers) > 1 else answers[0]
        if callable(answer):
            self.seen.append(Seen(request.method, request.raw_path, request.headers, b""))
            return await answer(request)
        body = await request.read()
        self.seen.append(Seen(request.method, request.raw_path, request.headers, body))
        if answer is None:
            return web.Response(status=404, text="404 page not found")
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


async def hang_up(request: web.Request) -> web.StreamResponse:
    """Close the connection in place of an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def cut_after(count: int, content: bytes) -> Handler:
    """Promise all of `content`, send `count` bytes of it, close the connection."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[:count])
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def ecr_error(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


EXPIRED = Answer(
    403,
    ecr_error("DENIED", "Your authorization token has expired. Reauthenticate and try again."),
    {"Content-Type": "application/json"},
)
UNAUTHORIZED = Answer(
    401,
    b"Not Authorized\n",
    {
        "Content-Type": "text/plain; charset=utf-8",
        "WWW-Authenticate": 'Basic realm="https://127.0.0.1/",service="ecr.amazonaws.com"',
    },
)


class FakeAws:
    """ECR's JSON API, public and private, and the part of STS that assumes roles."""

    def __init__(self) -> None:
        self.tokens = 0
        self.public_tokens = 0
        self.roles: list[Mapping[str, str]] = []
        self.keys: list[str] = []  # the access key of each request for a token
        self.lifetime = 12 * 3600.0
        self.role_lifetime = 3600.0
        self.skew = 0.0  # how far AWS's clock is ahead of ours, in seconds
        self.refusals: deque[tuple[int, str, str]] = deque()
        self.gate: asyncio.Event | None = None
        self.asked = asyncio.Event()
        app = web.Application()
        app.router.add_post("/", self._handle)
        self._server = TestServer(app, skip_url_asserts=True)

    async def start(self) -> None:
        await self._server.start_server()

    async def close(self) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return f"http://{self._server.host}:{self._server.port}"

    @staticmethod
    def header(number: int) -> str:
        """The Authorization header made of the private token of that number, from 1."""
        return "Basic " + base64.b64encode(f"AWS:token-{number}".encode()).decode()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.set()
        target = request.headers.get("X-Amz-Target", "")
        public = target == "SpencerFrontendService.GetAuthorizationToken"
        if not target:
            return await self._assume_role(request)
        credential = request.headers["Authorization"].partition("Credential=")[2]
        self.keys.append(credential.partition("/")[0])
        if public:
            self.public_tokens += 1
        else:
            self.tokens += 1
        number = self.tokens
        if self.gate is not None:
            await self.gate.wait()
        now = time.time() + self.skew
        headers = {
            "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)),
        }
        if self.refusals:
            status, code, message = self.refusals.popleft()
            return web.json_response(
                {"__type": code, "message": message}, status=status, headers=headers
            )
        token = {
            "authorizationToken": self.header(number).removeprefix("Basic "),
            "expiresAt": now + self.lifetime,
        }
        return web.json_response(
            {"authorizationData": token if public else [token]}, headers=headers
        )

    async def _assume_role(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        self.roles.append({name: str(value) for name, value in form.items()})
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.role_lifetime))
        return web.Response(
            text=(
                '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
                "<AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId>"
                "<SecretAccessKey>role-secret</SecretAccessKey>"
                "<SessionToken>role-session</SessionToken>"
                f"<Expiration>{expires}</Expiration></Credentials>"
                "<AssumedRoleUser><AssumedRoleId>A:s</AssumedRoleId>"
                "<Arn>arn:aws:sts::123456789012:assumed-role/r/s</Arn></AssumedRoleUser>"
                "</AssumeRoleResult></AssumeRoleResponse>"
            ),
            content_type="text/xml",
        )


class Told:
    """Remembers events, and lets a test wait for one."""

    def __init__(self, events: Events) -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Event()
        events.subscribe(self._note)

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def of(self, kind: Kind) -> list[Event]:
        return [event for event in self.events if event.kind is kind]

    async def wait_for(self, kind: Kind, count: int = 1) -> None:
        async with asyncio.timeout(30):
            while len(self.of(kind)) < count:
                self._changed.clear()
                await self._changed.wait()
