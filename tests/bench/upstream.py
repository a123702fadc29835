"""The stand-in in a process of its own: without ECR's rates, and with blobs that no image names.

    python -m tests.bench.upstream DIRECTORY [SETTINGS]

SETTINGS is JSON, fields of `StandInSettings` that are to be otherwise.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxy.standin import StandIn, StandInSettings


async def _serve(directory: Path, changes: Mapping[str, Any]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = StandInSettings(
        directory=directory,
        create_on_push=("ROOT",),
        rate_limits=False,
        unreferenced_blob_status=200,
        recorded_requests=1,
    )
    async with StandIn(replace(settings, **changes)) as standin:
        told = {
            "url": standin.url,
            "host": standin.host,
            "username": standin.username,
            "password": standin.password,
            "access_key_id": standin.access_key_id,
            "secret_access_key": standin.secret_access_key,
        }
        print(json.dumps(told), flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), json.loads((sys.argv[2:] or ["{}"])[0])))
