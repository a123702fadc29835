"""The real clients as fixtures. Where one is not installed, its tests are skipped, saying why."""

from collections.abc import Generator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from proxy.standin import StandIn, StandInSettings

from .containers import Buildah, Skopeo
from .dockerfile import write_context
from .engine import Engine, missing_for_engine
from .serving import ServedProxy, standin_in_a_thread

_LOG_TAIL = 6000


@pytest.fixture(scope="session")
def _engine_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if reason := missing_for_engine():
        pytest.skip(reason)
    # A short name: the sockets in it may have 108 characters.
    with Engine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture
def engine(_engine_of_the_session: Engine) -> Engine:
    """A Docker Engine that has seen nothing yet. It is one for all tests, pruned before each."""
    _engine_of_the_session.prune()
    return _engine_of_the_session


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """A strict ECR in which every repository below `clients` is created when it is pushed to."""
    settings = StandInSettings(create_on_push=("clients",), rate_limits=False)
    with standin_in_a_thread(settings) as standin:
        yield standin


@pytest.fixture
def live_proxy(standin: StandIn, tmp_path: Path) -> Iterator[ServedProxy]:
    """The proxy in front of it."""
    proxy = ServedProxy(tmp_path / "proxy", standin)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context whose steps no other test has run."""
    return write_context(tmp_path / "context", seed=uuid4().hex)


@pytest.fixture
def repository() -> str:
    """A repository that no other test uses."""
    return f"clients/{uuid4().hex}"


@pytest.fixture
def skopeo(tmp_path: Path) -> Skopeo:
    """skopeo with its files in the test's own folder."""
    if reason := Skopeo.missing():
        pytest.skip(reason)
    return Skopeo(tmp_path / "skopeo")


@pytest.fixture
def buildah(tmp_path: Path) -> Buildah:
    """buildah with its images in the test's own folder."""
    if reason := Buildah.missing():
        pytest.skip(reason)
    return Buildah(tmp_path / "buildah")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the daemons' logs to the report of a failed test: a client's own words are often few."""
    report = yield
    engine = getattr(item, "funcargs", {}).get("engine")
    if report.failed and isinstance(engine, Engine):
        for name, path in engine.logs.items():
            text = path.read_text(errors="replace")[-_LOG_TAIL:]
            report.sections.append((f"the end of the log of {name}", text))
    return report
