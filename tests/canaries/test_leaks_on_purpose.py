"""Whatever lets out any canary in any encoding, through any channel, is found out: none is missed.

Each leak is made on purpose, through the very thing that is watched: a logger, a reply on a socket,
a process. What is found here fails nothing; anywhere else it fails the test.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from proxy.demo import registry_of
from proxy.errors import BadGateway
from proxy.events import Event, Events, Kind
from proxy.handlers.replies import render_errors
from proxy.metrics import Metrics
from proxy.refusals import Refusals
from proxy.standin import StandIn
from tests.canaries import taps
from tests.canaries.encodings import forms
from tests.canaries.scanner import UNKNOWN, Scanner
from tests.canaries.values import CANARIES, Canary
from tests.canaries.watch import WATCH
from tests.cli.process import finished, started
from tests.clients.serving import ServedProxy

ROOT = Path(__file__).parent.parent.parent
FOLDER = web.AppKey("folder", Path)

_log = logging.getLogger("proxy.leaking.on.purpose")


def log_line(text: str) -> None:
    _log.debug(f"asking with {text} in the line")


def log_argument(text: str) -> None:
    _log.debug("asking with %s, %d times", text, 1)


def log_arguments(text: str) -> None:
    half = len(text) // 2
    _log.debug("asking with %s%s", text[:half], text[half:])


def log_of_a_library(text: str) -> None:
    logging.getLogger("aiohttp.client").warning("unclosed %s", text)


def traceback(text: str) -> None:
    try:
        int(text)
    except ValueError:
        _log.exception("failed")


def traceback_of_a_cause(text: str) -> None:
    try:
        try:
            _ = dict[str, str]()[text]
        except KeyError as error:
            raise RuntimeError("failed") from error
    except RuntimeError:
        _log.debug("failed", exc_info=True)


def event(text: str) -> None:
    Events().emit(Event(Kind.TROUBLE, detail=f"answered {text}"))


def metric_label(text: str) -> None:
    metrics = Metrics(Events(), Refusals())
    metrics.add_gauge("leak", "On purpose.", lambda: {text: 1.0}, label="secret")
    taps.see_metrics()


@pytest.mark.parametrize(
    "leak",
    [
        log_line,
        log_argument,
        log_arguments,
        log_of_a_library,
        traceback,
        traceback_of_a_cause,
        event,
        metric_label,
    ],
)
@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.name)
def test_a_leak_within_the_process_is_found(canary: Canary, leak: Callable[[str], None]) -> None:
    for encoding, form in forms(canary.value):
        with WATCH.on_purpose() as leaks:
            leak(form.decode())
        assert {each.found.canary for each in leaks} == {canary.name}, encoding


async def in_a_header(text: str, request: web.Request) -> web.StreamResponse:
    return web.Response(headers={"X-Leak": text})


async def in_a_reason(text: str, request: web.Request) -> web.StreamResponse:
    return web.Response(status=404, reason=text)


async def in_a_body(text: str, request: web.Request) -> web.StreamResponse:
    return web.Response(text=f"so much for {text}")


async def in_two_pieces(text: str, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    half = len(text) // 2
    for piece in (text[:half], text[half:]):
        await response.write(piece.encode())
    return response


async def in_a_file(text: str, request: web.Request) -> web.StreamResponse:
    path = request.app[FOLDER] / "file"
    await asyncio.to_thread(path.write_text, text)
    response = web.StreamResponse(headers={"Content-Length": str(len(text))})
    await response.prepare(request)
    assert request.transport is not None
    with await asyncio.to_thread(path.open, "rb") as file:
        await asyncio.get_running_loop().sendfile(request.transport, file)
    await response.write_eof()
    return response


async def in_an_error(text: str, request: web.Request) -> web.StreamResponse:
    raise BadGateway(f"upstream answered {text}")


async def in_an_exception(text: str, request: web.Request) -> web.StreamResponse:
    raise RuntimeError(text)


@pytest.mark.parametrize(
    "leak",
    [
        in_a_header,
        in_a_reason,
        in_a_body,
        in_two_pieces,
        in_a_file,
        in_an_error,
        in_an_exception,
    ],
)
async def test_a_leak_in_a_reply_is_found_whoever_reads_it(
    leak: Callable[[str, web.Request], Awaitable[web.StreamResponse]], tmp_path: Path
) -> None:
    """On a socket, read by a client that looks at nothing."""
    text = ""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await leak(text, request)

    app = web.Application(middlewares=[render_errors])
    app[FOLDER] = tmp_path
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession() as session:
            for canary in CANARIES:
                for encoding, form in dict(forms(canary.value)).items():
                    text = form.decode()
                    with WATCH.on_purpose() as leaks:
                        async with session.get(f"http://127.0.0.1:{port}/") as response:
                            await response.read()
                    # The first of two pieces may have the mark alone.
                    found = {each.found.canary for each in leaks} - {UNKNOWN}
                    assert found == {canary.name}, (canary.name, encoding)
                    assert all(each.channel.startswith(("replies", "log")) for each in leaks)
    finally:
        await runner.cleanup()


EVERYTHING = " ".join(form.decode() for canary in CANARIES for _, form in forms(canary.value))


def test_a_leak_on_the_stderr_of_a_process_is_found() -> None:
    with WATCH.on_purpose() as leaks:
        done = finished(["serve", "--log-level", EVERYTHING])
    assert done.returncode == 2
    assert {each.found.canary for each in leaks} == {canary.name for canary in CANARIES}
    assert {each.channel for each in leaks} == {"processes' stderr"}


def test_a_leak_on_the_stderr_of_a_process_that_goes_on_is_found() -> None:
    with WATCH.on_purpose() as leaks, started(["serve", "--log-level", EVERYTHING]) as program:
        program.errors.wait_for("log-level")
        program.wait()
    assert {each.found.canary for each in leaks} == {canary.name for canary in CANARIES}


async def test_a_leak_in_the_log_of_a_proxy_that_clients_use_is_found(
    standin: StandIn, tmp_path: Path
) -> None:
    proxy = ServedProxy(tmp_path / "proxy", standin)
    await asyncio.to_thread(proxy.start)
    with WATCH.on_purpose() as leaks:
        with proxy.log.open("a") as log:
            log.write(EVERYTHING)
        await asyncio.to_thread(proxy.stop)
    assert {each.found.canary for each in leaks} == {canary.name for canary in CANARIES}


LEAKING = """
import logging
from tests.canaries.values import CANARIES

def test_leaking():
    logging.getLogger("proxy.some").debug("with %s", CANARIES[1].value)

def test_clean():
    logging.getLogger("proxy.some").debug("with nothing")
"""


def test_a_leak_fails_the_test_that_made_it_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_it.py").write_text(LEAKING)
    options = ("-p", "no:randomly", "-p", "no:cacheprovider", f"--rootdir={tmp_path}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "2 passed, 1 error" in done.stdout
    told = done.stdout.partition("secrets were let out by test_it.py::test_leaking")[2]
    told = told.partition("-----")[0]
    assert "AWS secret access key (raw) in log (proxy.some, test_it.py:6)" in told, done.stdout
    assert not Scanner(CANARIES).find(told.encode())


def test_the_registry_that_is_tested_with_has_canaries(standin: StandIn) -> None:
    registry = registry_of(standin)
    values = [canary.value for canary in CANARIES]
    assert registry.access_key_id in values
    assert registry.secret_access_key in values
