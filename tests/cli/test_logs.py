"""What the log says at its most talkative: much of what happened, and no secret."""

from __future__ import annotations

import asyncio
import base64
import logging
import signal
from pathlib import Path

import pytest

from proxy.cli.base import log_to_stderr
from proxy.oci import Digest
from proxy.standin import Fault, StandIn, StandInSettings
from proxy.standin.settings import MARK
from tests.cli.process import started
from tests.cli.test_running import credentials, push_image, settings_file
from tests.running import Client, straight_to


async def test_nothing_secret_is_logged_at_debug(tmp_path: Path) -> None:
    async with StandIn(StandInSettings(repositories=("app",))) as standin:
        async with straight_to(standin) as client:
            layers = [bytes([number]) * 5000 for number in range(3)]
            for layer in layers:
                await push_image(client, layer=layer)
        digests = [Digest.of(layer) for layer in layers]
        arguments = ["serve", "--config", settings_file(tmp_path, standin), "--log-level", "debug"]
        with started(arguments, **credentials(standin)) as program:
            line = await asyncio.to_thread(program.output.wait_for, "listening")
            client = Client(line.split(" listening on ")[1].split(",")[0])
            # From storage, through a refusal of storage, and where storage breaks off.
            standin.faults.add(Fault(server="s3", path=str(digests[1]), status=403))
            standin.faults.add(Fault(server="s3", path=str(digests[2]), reset=True))
            pulled = [await client.ask("GET", f"/v2/app/blobs/{digest}") for digest in digests]
            assert [answer.status for answer in pulled] == [200, 200, 200]
            login = "Basic " + base64.b64encode(b"me:clients-password").decode()
            await client.ask("GET", "/v2/app/tags/list", headers={"Authorization": login})
            await client.close()
            program.signal(signal.SIGTERM)
            await asyncio.to_thread(program.wait)
            log = "\n".join(await asyncio.to_thread(program.errors.rest))
    assert "DEBUG" in log
    secrets = [
        *(MARK, base64.b64encode(MARK.encode()).decode()[4:-4]),
        *(standin.secret_access_key, standin.access_key_id, "X-Amz-", "Signature", "AWS4-HMAC"),
        *("botocore", "urllib3", "clients-password", login.removeprefix("Basic ")),
    ]
    assert [secret for secret in secrets if secret in log] == []


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_libraries_tell_no_more_than_info(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log_to_stderr(level, "%(message)s")
    for name in ("botocore", "botocore.auth", "boto3", "urllib3", "aiohttp.client", "asyncio"):
        assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)
    assert logging.getLogger("proxy.access_log").isEnabledFor(getattr(logging, level.upper()))
    assert logging.getLogger("proxy.app").isEnabledFor(logging.DEBUG) is (level == "debug")
