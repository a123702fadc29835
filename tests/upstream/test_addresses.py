"""Addresses that are never connected to, however they are written and whatever name leads there."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from proxy.errors import BadGateway
from proxy.events import Events
from proxy.oci import Digest, RepositoryName
from proxy.refusals import Reason, Refusals
from proxy.upstream import RegistryConfig, Tuning, open_registry
from proxy.upstream.addresses import is_forbidden
from tests.upstream.conftest import OpenRegistry
from tests.upstream.fakes import QUICK, Answer, FakeServer
from tests.upstream.test_proxies import ForwardProxy

REPO = RepositoryName("app")
DIGEST = Digest.of(b"x")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.0.1",
        "100.100.100.200",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "FD00:0EC2:0:0::254",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "64:ff9b::169.254.169.254",
        "64:ff9b::6464:64c8",
        "64:ff9b:1::a9fe:a9fe",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.254.169.254.",
    ],
)
def test_link_local_and_metadata_addresses_are_never_asked(host: str) -> None:
    assert is_forbidden(host)


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "192.168.1.1", "127.0.0.1", "::1", "fd12::1", "100.100.100.201", "registry", ""],
)
def test_private_addresses_and_names_may_be(host: str) -> None:
    assert not is_forbidden(host)


@dataclass(slots=True)
class Names:
    """What the system's resolver says, one list of addresses after the other for each name."""

    answers: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def resolve(
        self, host: str, real: Callable[..., object], *args: object, **more: object
    ) -> object:
        if host not in self.answers:
            return real(host, *args, **more)
        self.asked.append(host)
        several = self.answers[host]
        addresses = several.pop(0) if len(several) > 1 else several[0]
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, args[0], 0, 0) if ":" in address else (address, args[0]),
            )
            for address in addresses
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names, real = Names(), socket.getaddrinfo

    def getaddrinfo(host: str, *args: object, **more: object) -> object:
        return names.resolve(host, real, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.mark.parametrize(
    "addresses",
    [
        ["169.254.169.254"],
        ["fd00:ec2::254"],
        ["169.254.169.254", "fd00:ec2::254", "fe80::1", "::ffff:169.254.169.254"],
    ],
)
async def test_name_that_leads_there_is_not_followed(
    open_: OpenRegistry, names: Names, addresses: list[str]
) -> None:
    names.answers["registry.test"] = [addresses]
    registry = await open_(
        RegistryConfig(name="lan", url="http://registry.test"),
        # A refusal is no outage: it is not asked over and over.
        tuning=Tuning(attempts=3, first_pause=3600.0, patience=7200.0),
    )
    with pytest.raises(BadGateway, match=r"registry\.test is not connected to.*metadata"):
        await registry.ping()
    assert len(names.asked) == 1


async def test_redirect_by_a_name_that_leads_there_is_refused_and_counted(
    server: FakeServer, names: Names, nothing_left_open: None
) -> None:
    """As a name does that answers differently when it is asked again."""
    names.answers["cdn.test"] = [["127.0.0.1"], ["169.254.169.254"]]
    refusals = Refusals()
    registry = await open_registry(
        RegistryConfig(name="lan", url=server.url, redirect_hosts=(f"cdn.test:{server.port}",)),
        proxies={},
        events=Events(),
        refusals=refusals,
        tuning=QUICK,
    )
    target = f"/v2/{REPO}/blobs/{DIGEST}"
    to = f"http://cdn.test:{server.port}/x"
    server.tell("GET", target, Answer(307, b"", {"Location": to}))
    server.tell("GET", "/x", Answer(200, b"x", {"Connection": "close"}))
    async with registry.open_blob(REPO, DIGEST) as stream:
        assert [chunk async for chunk in stream.chunks()] == [b"x"]
    # aiohttp remembers what a name led to for some seconds.
    for session in registry._client._transport._direct.values():
        session.connector.clear_dns_cache()  # type: ignore[union-attr]
    with pytest.raises(BadGateway, match=r"cdn\.test:\d+ is not connected to"):
        async with registry.open_blob(REPO, DIGEST):
            pass
    assert refusals.counts()[Reason.REDIRECT.value] == 1
    assert server.targets("GET").count("/x") == 1
    await registry.close()


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://169.254.169.254/latest/meta-data/", "never followed"),
        ("http://2852039166/latest/meta-data/", "no URL"),
        ("http://[::ffff:169.254.169.254]/latest/meta-data/", "never followed"),
        ("http://evil.test/x", "redirect-hosts"),
    ],
)
async def test_every_redirect_that_is_refused_is_counted(
    server: FakeServer, nothing_left_open: None, location: str, words: str
) -> None:
    refusals = Refusals()
    registry = await open_registry(
        RegistryConfig(name="lan", url=server.url),
        proxies={},
        events=Events(),
        refusals=refusals,
        tuning=QUICK,
    )
    server.tell("GET", f"/v2/{REPO}/blobs/{DIGEST}", Answer(307, b"", {"Location": location}))
    with pytest.raises(BadGateway, match=words):
        async with registry.open_blob(REPO, DIGEST):
            pass
    assert refusals.counts()[Reason.REDIRECT.value] == 1
    await registry.close()


@pytest.mark.parametrize("location", ["http://evil.test/x", "http://127.0.0.1:1/x"])
async def test_upload_that_is_to_go_elsewhere_is_refused_and_counted(
    server: FakeServer, nothing_left_open: None, location: str
) -> None:
    refusals = Refusals()
    registry = await open_registry(
        RegistryConfig(name="lan", url=server.url),
        proxies={},
        events=Events(),
        refusals=refusals,
        tuning=QUICK,
    )
    server.tell("POST", f"/v2/{REPO}/blobs/uploads/", Answer(202, b"", {"Location": location}))
    upload = await registry.start_upload(REPO)
    assert upload is not None
    with pytest.raises(BadGateway, match="wants uploads sent to the host"):
        await registry.finish_upload(upload, DIGEST, offset=0, length=0)
    assert refusals.counts()[Reason.REDIRECT.value] == 1
    await registry.close()


async def test_a_forward_proxy_is_not_asked_for_them_either(
    open_: OpenRegistry, server: FakeServer
) -> None:
    forward = ForwardProxy(server.port)
    await forward.start()
    registry = await open_(
        RegistryConfig(name="lan", url="http://169.254.169.254"),
        proxies={"http": f"http://127.0.0.1:{forward.port}"},
        tuning=Tuning(attempts=1),
    )
    with pytest.raises(BadGateway, match="is not connected to"):
        await registry.ping()
    assert forward.asked == []
    await forward.close()


async def test_a_configured_forward_proxy_may_be_anywhere(
    open_: OpenRegistry, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is the user's own choice, unlike what upstream names."""
    monkeypatch.setattr("proxy.upstream.transport.is_forbidden", lambda host: host == "127.0.0.1")
    forward = ForwardProxy(server.port)
    await forward.start()
    server.tell("GET", "/v2/", Answer(200))
    registry = await open_(
        RegistryConfig(name="lan", url="http://registry.test"),
        proxies={"http": f"http://127.0.0.1:{forward.port}"},
    )
    await registry.ping()
    assert len(forward.asked) == 1
    await forward.close()
