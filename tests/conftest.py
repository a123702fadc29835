"""What holds for all tests."""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator

import pytest

from tests.canaries import taps
from tests.canaries.watch import FAILURE_PATHS, WATCH


def pytest_configure() -> None:
    # A shell has its background jobs ignore Ctrl-C, and so would the commands that are tried here.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    taps.install()


@pytest.fixture(autouse=True)
def _watch_at_debug_read_at_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Everything is logged, for the watch; a test reads warnings, unless it asks for more."""
    caplog.handler.setLevel(logging.WARNING)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """A secret that a test let out fails it, when all that it had running has ended."""
    result = yield
    taps.see_metrics()
    leaks = WATCH.take()
    if leaks:
        told = "\n".join(str(leak) for leak in leaks)
        pytest.fail(f"secrets were let out by {item.nodeid}:\n{told}", pytrace=False)
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What was printed, by whatever printed it; it fails the test that runs next."""
    WATCH.see("stdout", report.capstdout, where=report.nodeid)
    WATCH.see("stderr", report.capstderr, where=report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A leak outside of any test, and a failure path that a whole run has not walked, fail it."""
    chosen = ("keyword", "markexpr", "lf", "collectonly", "deselect")
    is_whole = (
        session.config.args_source is not pytest.Config.ArgsSource.ARGS
        and session.exitstatus == pytest.ExitCode.OK
        and not any(session.config.getoption(name, None) for name in chosen)
    )
    missing = [path for path in FAILURE_PATHS if is_whole and not WATCH.walked[path]]
    if WATCH.leaks or missing:
        session.config.stash[_COMPLAINTS] = [
            *map(str, WATCH.take()),
            *(f"no test has walked this failure path: {path}" for path in missing),
        ]
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_COMPLAINTS = pytest.StashKey[list[str]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.section("canaries")
    for name in FAILURE_PATHS:
        terminalreporter.line(f"{name}: {WATCH.walked[name]}")
    for name, count in sorted(WATCH.searched.items()):
        terminalreporter.line(f"searched {name}: {count:,}")
    for complaint in config.stash.get(_COMPLAINTS, []):
        terminalreporter.line(f"FAILED {complaint}", red=True)
