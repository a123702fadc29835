"""`serve`, `standin` and `demo` as processes: what they print, what they serve, how they end."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import trustme

from proxy.access.htpasswd import password_line
from proxy.access.tokens import token_line
from proxy.oci import OCI_INDEX, Digest
from proxy.standin import Fault, StandIn, StandInSettings
from tests.access.files import basic
from tests.caches import OLD, Cache, only
from tests.certificates import Pair, trusting
from tests.cli.process import finished, started
from tests.running import Client, straight_to

NO_METADATA = {"AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn(StandInSettings(repositories=("app",))) as standin:
        yield standin


def settings_file(folder: Path, standin: StandIn) -> str:
    path = folder / "settings.toml"
    path.write_text(
        f'listen = "127.0.0.1:0"\ncache-dir = "cache"\n[[registry]]\nhost = "{standin.host}"\n'
        f'endpoint = "{standin.url}"\napi-endpoint = "{standin.url}"\n'
    )
    return str(path)


def credentials(standin: StandIn) -> dict[str, str]:
    return NO_METADATA | {
        "AWS_ACCESS_KEY_ID": standin.access_key_id,
        "AWS_SECRET_ACCESS_KEY": standin.secret_access_key,
    }


async def push_image(client: Client, *, layer: bytes) -> None:
    """A cache is an image too, and one that is quickly made."""
    cache = Cache.of(layer)
    await cache.push_blobs(client, "app")
    pushed = await client.push_manifest(
        "app", "1", cache.image_manifest, "application/vnd.oci.image.manifest.v1+json"
    )
    assert pushed.status == 201


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_says_where_and_for_whom_and_ends_with_success(
    number: signal.Signals, standin: StandIn, tmp_path: Path
) -> None:
    arguments = ["serve", "--config", settings_file(tmp_path, standin)]
    with started(arguments, **credentials(standin)) as program:
        line = await asyncio.to_thread(program.output.wait_for, "listening")
        match = re.fullmatch(
            r"ecr-cache-proxy \S+ listening on (http://127\.0\.0\.1:\d+), for (\S+) \(default\)",
            line,
        )
        assert match is not None, line
        assert match[2] == standin.host
        async with aiohttp.ClientSession() as session:
            for path in ("/v2/", "/livez", "/readyz"):
                async with session.get(match[1] + path) as response:
                    assert response.status == 200, path
        program.signal(number)
        assert await asyncio.to_thread(program.wait) == 0
    assert (tmp_path / "cache").is_dir()


async def test_serve_says_that_it_speaks_https_and_does(standin: StandIn, tmp_path: Path) -> None:
    authority = trustme.CA()
    pair = Pair(tmp_path)
    pair.write(authority)
    arguments = ["serve", "--config", settings_file(tmp_path, standin)]
    arguments += ["--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key)]
    with started(arguments, **credentials(standin)) as program:
        line = await asyncio.to_thread(program.output.wait_for, "listening")
        match = re.search(r"listening on (https://127\.0\.0\.1:\d+),", line)
        assert match is not None, line
        url = f"{match[1]}/readyz"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, ssl=trusting(authority)) as response,
        ):
            assert response.status == 200
        program.signal(signal.SIGTERM)
        assert await asyncio.to_thread(program.wait) == 0


def test_a_certificate_that_cannot_be_used_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.write(trustme.CA())
    pair.key.write_text("garbage")
    arguments = ["serve", "--registry", "http://127.0.0.1:9", "--cache-dir", str(tmp_path / "c")]
    arguments += ["--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key)]
    done = finished([*arguments, "--listen", "127.0.0.1:0"])
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("ecr-cache-proxy: tls-key-file: ")
    assert str(pair.key) in line


async def test_a_second_proxy_on_a_directory_is_refused_and_told_of_the_first(
    standin: StandIn, tmp_path: Path
) -> None:
    arguments = ["serve", "--config", settings_file(tmp_path, standin)]
    with started(arguments, **credentials(standin)) as first:
        await asyncio.to_thread(first.output.wait_for, "listening")
        second = await asyncio.to_thread(
            lambda: finished(arguments, stdin=b"", **credentials(standin))
        )
    assert (second.returncode, second.stdout) == (2, b"")
    last = second.stderr.decode().splitlines()[-1]
    assert f"the cache directory {tmp_path / 'cache'} is in use by process {first.id}: " in last


@pytest.mark.parametrize("impatient", [False, True], ids=["one signal", "two signals"])
async def test_a_signal_lets_requests_finish_and_a_second_one_does_not(
    impatient: bool, standin: StandIn, tmp_path: Path
) -> None:
    arguments = ["serve", "--config", settings_file(tmp_path, standin)]
    layer = b"a layer of some size" * 100_000
    path = f"/v2/app/blobs/{Digest.of(layer)}"
    async with straight_to(standin) as straight:
        await push_image(straight, layer=layer)
    held = standin.faults.add(Fault(server="s3", path=Digest.of(layer).hex, hold_at=1_000_000))
    with started(arguments, **credentials(standin)) as program:
        line = await asyncio.to_thread(program.output.wait_for, "listening")
        client = Client(line.partition(" on ")[2].partition(",")[0], watched=True)
        pulling = asyncio.create_task(client.ask("GET", path))
        await held.reached.wait()
        program.signal(signal.SIGTERM)
        await asyncio.to_thread(program.errors.wait_for, "stopping")
        if impatient:
            program.signal(signal.SIGTERM)
            assert await asyncio.to_thread(program.wait) == 128 + signal.SIGTERM
            with pytest.raises(aiohttp.ClientError):
                await pulling
        else:
            held.release()
            assert (await pulling).body == layer
            await client.close()
            assert await asyncio.to_thread(program.wait) == 0
        await client.close()


async def test_without_credentials_it_starts_and_says_what_is_missing(
    standin: StandIn, tmp_path: Path
) -> None:
    arguments = ["serve", "--config", settings_file(tmp_path, standin)]
    with started(arguments, **NO_METADATA, HOME=str(tmp_path)) as program:
        line = await asyncio.to_thread(program.output.wait_for, "listening")
        client = Client(line.partition(" on ")[2].partition(",")[0], watched=True)
        assert (await client.ask("GET", "/livez")).status == 200
        assert (await client.ask("GET", "/readyz")).status == 503
        refused = await client.ask("GET", "/v2/app/manifests/1")
        assert refused.status == 503
        assert b"credentials" in refused.body
        await client.close()
        program.signal(signal.SIGTERM)
        assert await asyncio.to_thread(program.wait) == 0


async def test_an_address_that_others_reach_is_warned_of(standin: StandIn, tmp_path: Path) -> None:
    arguments = ["serve", "--config", settings_file(tmp_path, standin)]
    arguments += ["--listen", "0.0.0.0:0", "--insecure-no-client-auth"]
    with started(arguments, **credentials(standin)) as program:
        await asyncio.to_thread(program.output.wait_for, "listening")
        await asyncio.to_thread(program.errors.wait_for, "clients are not authenticated")


@pytest.mark.parametrize(
    ("listen", "flags", "told"),
    [
        ("0.0.0.0:0", [], "cross the network to 0.0.0.0:0 in the clear"),
        ("127.0.0.1:0", ["--insecure-no-client-auth"], "changes nothing, leave it out"),
    ],
)
async def test_what_authentication_leaves_open_is_warned_of(
    standin: StandIn, tmp_path: Path, listen: str, flags: list[str], told: str
) -> None:
    (tmp_path / "htpasswd").write_text(password_line("alice", "wonderland"))
    arguments = ["serve", "--config", settings_file(tmp_path, standin), "--listen", listen]
    arguments += ["--htpasswd-file", str(tmp_path / "htpasswd"), *flags]
    with started(arguments, **credentials(standin)) as program:
        line = await asyncio.to_thread(program.output.wait_for, "listening")
        await asyncio.to_thread(program.errors.wait_for, told)
        port = line.partition(",")[0].rpartition(":")[2]
        client = Client(f"http://127.0.0.1:{port}")
        assert (await client.ask("GET", "/v2/")).status == 401
        login = {"Authorization": basic("alice", "wonderland")}
        assert (await client.ask("GET", "/v2/", headers=login)).status == 200
        await client.close()


async def test_with_authentication_on_loopback_there_is_nothing_to_warn_of(
    standin: StandIn, tmp_path: Path
) -> None:
    token = token_line("ci", "ecp_secret")
    arguments = ["serve", "--config", settings_file(tmp_path, standin)]
    with started(arguments, **credentials(standin), ECR_CACHE_PROXY_TOKENS=token) as program:
        line = await asyncio.to_thread(program.output.wait_for, "listening")
        client = Client(line.partition(" on ")[2].partition(",")[0])
        bearer = {"Authorization": "Bearer ecp_secret"}
        assert (await client.ask("GET", "/v2/", headers=bearer)).status == 200
        assert (await client.ask("GET", "/v2/")).status == 401
        await client.close()
        program.signal(signal.SIGTERM)
        assert await asyncio.to_thread(program.wait) == 0
        first = await asyncio.to_thread(program.errors.wait_for, "")
        assert " WARNING " not in first


def test_the_standin_alone_prints_how_to_reach_it(tmp_path: Path) -> None:
    arguments = ["standin", "--listen", "127.0.0.1:0", "--dir", str(tmp_path / "ecr")]
    with started([*arguments, "--repository", "app"]) as program:
        url = program.output.wait_for("url: ").removeprefix("url: ")
        host = program.output.wait_for("host: ").removeprefix("host: ")
        assert re.fullmatch(r"\d{12}\.dkr\.ecr\.eu-west-1\.amazonaws\.com", host)
        with urllib.request.urlopen(f"{url}/_standin/credentials") as reply:
            login = json.load(reply)
        assert login["password"]
        with urllib.request.urlopen(f"{url}/_standin/state") as reply:
            assert "app" in reply.read().decode()
        program.signal(signal.SIGINT)
        assert program.wait() == 0


async def test_the_demo_tells_live_what_the_proxy_does_whatever_the_users_settings() -> None:
    # Settings of the user, for the proxy or for AWS, must not reach it.
    strange = {
        "AWS_PROFILE": "no-such-profile",
        "AWS_CONFIG_FILE": __file__,
        "AWS_ACCESS_KEY_ID": "AKIAOFTHEUSER",
        "AWS_SECRET_ACCESS_KEY": "of the user",
        "AWS_REGION": "nowhere",
        "ECR_CACHE_PROXY_CACHE_SIZE": "nonsense",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    cache = Cache.of(b"x" * 2_000_000, b"y" * 1000)
    with started(["demo", "--listen", "127.0.0.1:0"], **strange) as program:

        async def told(text: str) -> str:
            return await asyncio.to_thread(program.output.wait_for, text)

        line = await told("in front of it the proxy at ")
        client = Client(line.partition(" at ")[2].partition(". ")[0], watched=True)
        await told("Ctrl-C ends the demo")
        await cache.push_blobs(client, "demo/app")
        pushed = await client.push_manifest("demo/app", "cache", cache.index, OCI_INDEX)
        assert pushed.status == 201
        assert "demo/app:cache" in await told("rewritten")
        read = await client.ask(
            "GET", "/v2/demo/app/manifests/cache", headers=OLD | only(OCI_INDEX)
        )
        assert read.body == cache.index
        await told("restored")
        await client.ask("GET", f"/v2/demo/app/blobs/{Digest.of(cache.layers[0])}")
        assert "1.9 MiB from disk - saved so far: 1.9 MiB" in await told("hit")
        await client.close()
        program.signal(signal.SIGINT)
        await told("bytes that did not cross the uplink: 1.9 MiB")
        assert await asyncio.to_thread(program.wait) == 0
