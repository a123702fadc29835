"""Raw HTTP of clients to a real proxy, with the stand-in as its registry."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Final

from proxy.access.tokens import new_token, token_line
from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from tests.bench import servers
from tests.buildcache.manifests import compact, image_manifest, index
from tests.fuzz.mutation import Mutator
from tests.fuzz.outcome import Outcome, Stopwatch
from tests.fuzz.processes import Proxy, running
from tests.fuzz.requests import BLOB, REPOSITORY, Requests
from tests.fuzz.wire import Connections
from tests.running import Client

NAME: Final = "raw HTTP"
# Until then tables that are bounded fill up.
_WARM_UP: Final = 0.25
# What may be kept of inputs, in bytes a hundred thousand, beside what varies with what is going on.
_GROWTH: Final = 6 * 2**20
_SLACK: Final = 24 * 2**20


async def run(inputs: int, seed: int) -> Outcome:
    """Send about so many inputs."""
    outcome = Outcome(NAME)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with servers.upstream(folder / "upstream") as upstream:
            config = folder / "proxy.toml"
            variables = upstream.configure(config)
            keys = {n: v for n, v in variables.items() if n.startswith("AWS_")}
            keys.pop("AWS_EC2_METADATA_DISABLED")
            token = new_token()
            users = folder / "tokens"
            users.write_text(token_line("fuzz", token) + "\n")
            users.chmod(0o600)
            flags = {"config": str(config), "token_file": str(users)}
            with running(folder / "proxy", keys, flags=flags) as proxy:
                await _campaign(proxy, outcome, inputs, seed, f"Bearer {token}")
                proxy.judge(outcome)
    return outcome


async def _campaign(
    proxy: Proxy, outcome: Outcome, inputs: int, seed: int, authorization: str
) -> None:
    headers = {"Authorization": authorization}
    client = Client(f"http://127.0.0.1:{proxy.port}", headers=headers)
    try:
        digests = await _prepare(client)
        requests = Requests(Mutator(f"{seed}/{NAME}"), digests, authorization=authorization)
        connections = Connections(proxy.port, outcome, requests.draw, opened=requests.opened)
        elapsed = Stopwatch()
        await connections.run(int(inputs * _WARM_UP))
        before, counted = proxy.memory(), outcome.inputs
        await connections.run(inputs - counted)
        outcome.seconds = elapsed()
        outcome.memory = (before, proxy.memory())
        judge_memory(outcome, outcome.inputs - counted)
        await check_use(client, outcome)
    finally:
        await client.close()


def judge_memory(outcome: Outcome, inputs: int) -> None:
    grown = outcome.memory[1] - outcome.memory[0]
    if grown > _SLACK + _GROWTH * inputs / 100_000:
        outcome.find(f"memory grew by {grown} bytes over {inputs} inputs")


async def _prepare(client: Client) -> list[str]:
    """An image, two caches and blobs, so that some requests find something."""
    blob = await client.push_blob(REPOSITORY, BLOB)
    other = await client.push_blob(REPOSITORY, b"{}")
    named = {"mediaType": OCI_MANIFEST, "digest": other, "size": 2}
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob, "size": 1000}
    config = "application/vnd.oci.image.config.v1+json"
    image = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {**named, "mediaType": config},
        "layers": [layer],
    }
    digests = [str(blob), str(other)]
    cache = "application/vnd.buildkit.cacheconfig.v0"
    listed = index(0, manifests=[layer, {**named, "mediaType": cache}])
    rewritten = image_manifest(0, config=listed["manifests"][1], layers=[layer])
    manifests = (
        ("v1.2_3-rc.4", compact(image), OCI_MANIFEST),
        ("latest", compact(listed), OCI_INDEX),
        ("_", compact(rewritten), OCI_MANIFEST),
    )
    for tag, content, media_type in manifests:
        pushed = await client.push_manifest(REPOSITORY, tag, content, media_type)
        assert pushed.status == 201, pushed
        digests.append(pushed.digest)
    return digests


async def check_use(client: Client, outcome: Outcome) -> None:
    """After all that it must be what it was: a push and a pull, byte for byte."""
    content = json.dumps({"at": "the end"}).encode()
    try:
        async with asyncio.timeout(30):
            digest = await client.push_blob("fuzz/end", content)
            got = await client.ask("GET", f"/v2/fuzz/end/blobs/{digest}")
    except (AssertionError, TimeoutError) as error:
        outcome.find(f"it is of no use at the end: {error}")
        return
    if got.body != content or not Digest.of(content).matches(got.body):
        outcome.find(f"it is of no use at the end: {got.status}", got.body)
