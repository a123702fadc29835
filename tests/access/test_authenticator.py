"""Who is let in, by which method, and at what cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from proxy.access import NOBODY, AccessError, Authenticator, Identity, open_authenticator
from proxy.access.attempts import MAX_FAILURES
from proxy.access.certificates import Certificates
from proxy.access.files import WatchedFile
from proxy.access.htpasswd import Passwords, parse_htpasswd
from proxy.access.tokens import Tokens, parse_token_settings, token_line
from proxy.errors import TooManyRequests, Unauthorized
from tests.access.conftest import Threads
from tests.access.files import Htpasswd, basic
from tests.access.test_certificates import END, certificate
from tests.clocks import Clock

HERE, THERE = "192.0.2.1", "192.0.2.2"
TOKEN = "ecp_" + "A1-_" * 10 + "xyz"
ALICE = basic("alice", "wonderland")
CERTIFICATE = certificate(common_names=("robot",))


def wall_clock() -> float:
    return (END - timedelta(hours=1)).timestamp()


@pytest.fixture
async def authenticator(
    htpasswd: Htpasswd, clock: Clock, threads: Threads
) -> AsyncIterator[Authenticator]:
    """All methods at once."""
    authenticator = Authenticator(
        [
            Tokens(parse_token_settings([token_line("ci", TOKEN)]), None),
            Passwords(WatchedFile(htpasswd.path, parse_htpasswd), clock, threads),
        ],
        Certificates("common-name", now=wall_clock),
        clock=clock,
    )
    yield authenticator
    threads.gate.set()
    await authenticator.close()


@pytest.mark.parametrize(
    ("header", "certificate", "user"),
    [
        (ALICE, None, "alice"),
        (basic("ci", TOKEN), None, "ci"),
        (basic("token", TOKEN), None, "ci"),
        (f"Bearer {TOKEN}", None, "ci"),
        (None, CERTIFICATE, "robot"),
        (basic("", ""), CERTIFICATE, "robot"),  # so skopeo says that it has no login
        (ALICE, CERTIFICATE, "alice"),  # the header decides
    ],
)
async def test_any_mix_of_methods_lets_users_in(
    authenticator: Authenticator, header: str | None, certificate: bytes | None, user: str
) -> None:
    assert await authenticator.authenticate(header, certificate, HERE) == Identity(user)


@pytest.mark.parametrize(
    ("header", "certificate", "told"),
    [
        (None, None, "docker login"),
        (basic("", ""), None, "docker login"),
        (None, b"junk", "cannot be read"),
        ("", CERTIFICATE, "neither Basic nor Bearer"),
        ("Basic !", None, "no base64; log in again"),
        (basic("alice", "wrong"), None, "the user or the password is wrong"),
        (basic("alice", "wrong"), CERTIFICATE, "the user or the password is wrong"),
        (basic("nobody", "wrong"), None, "the user or the password is wrong"),
        (basic("alice", TOKEN), None, "the user or the password is wrong"),
        (basic("AWS", "token of ECR"), None, "these are credentials of ECR"),
        ("Bearer ecp_wrong", CERTIFICATE, "this token is not known here"),
    ],
)
async def test_anything_else_is_challenged_and_told_why(
    authenticator: Authenticator, header: str | None, certificate: bytes | None, told: str
) -> None:
    with pytest.raises(Unauthorized, match=told) as refused:
        await authenticator.authenticate(header, certificate, HERE)
    assert refused.value.headers == {"WWW-Authenticate": 'Basic realm="ecr-cache-proxy"'}


async def test_a_wrong_user_hears_what_a_wrong_password_does(authenticator: Authenticator) -> None:
    told = []
    for user in ("alice", "nobody"):
        with pytest.raises(Unauthorized) as refused:
            await authenticator.authenticate(basic(user, "wrong"), None, HERE)
        told.append(refused.value.message)
    assert told[0] == told[1]


async def test_where_nothing_is_configured_clients_need_not_say_who_they_are() -> None:
    authenticator = open_authenticator()
    assert not authenticator.is_needed
    for header in (None, ALICE, "nonsense"):
        assert await authenticator.authenticate(header, CERTIFICATE, HERE) == NOBODY


async def test_where_certificates_alone_are_taken_the_message_says_so() -> None:
    authenticator = Authenticator([], Certificates("common-name"))
    with pytest.raises(Unauthorized, match="connect with a certificate of yours"):
        await authenticator.authenticate(None, None, HERE)
    with pytest.raises(Unauthorized, match="takes certificates of clients"):
        await authenticator.authenticate(ALICE, CERTIFICATE, HERE)


async def test_a_certificate_counts_only_where_certificates_are_configured(
    htpasswd: Htpasswd,
) -> None:
    authenticator = open_authenticator(htpasswd_file=htpasswd.path)
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(None, CERTIFICATE, HERE)
    await authenticator.close()


async def guess(authenticator: Authenticator, times: int, address: str = HERE) -> list[Exception]:
    """Wrong passwords, all at once; what comes of each."""
    asked = [
        authenticator.authenticate(basic("alice", f"guess {n}"), None, address)
        for n in range(times)
    ]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    return [outcome for outcome in outcomes if isinstance(outcome, Exception)]


async def test_guessing_is_ended_without_paying_for_it(
    authenticator: Authenticator, threads: Threads, clock: Clock
) -> None:
    outcomes = await guess(authenticator, 200)
    refused = [outcome for outcome in outcomes if isinstance(outcome, TooManyRequests)]
    assert (len(outcomes), len(refused)) == (200, 200 - MAX_FAILURES)
    assert threads.tried == MAX_FAILURES
    assert refused[0].headers == {"Retry-After": "60"}
    clock.now += 60
    assert [type(o) for o in await guess(authenticator, 1)] == [Unauthorized]


async def test_guessing_tokens_is_ended_too(authenticator: Authenticator) -> None:
    for n in range(MAX_FAILURES):
        with pytest.raises(Unauthorized):
            await authenticator.authenticate(f"Bearer {n}", None, HERE)
    with pytest.raises(TooManyRequests):
        await authenticator.authenticate("Bearer more", None, HERE)


async def test_who_is_known_is_let_in_beside_whoever_guesses(
    authenticator: Authenticator,
) -> None:
    """Many clients may share an address (NAT)."""
    await authenticator.authenticate(ALICE, None, HERE)
    await guess(authenticator, 50)
    assert await authenticator.authenticate(ALICE, None, HERE) == Identity("alice")
    assert await authenticator.authenticate(f"Bearer {TOKEN}", None, HERE) == Identity("ci")
    assert await authenticator.authenticate(None, CERTIFICATE, HERE) == Identity("robot")
    # Who has not been seen lately has to wait, but only behind that address.
    with pytest.raises(TooManyRequests):
        await authenticator.authenticate(basic("bob", "builder"), None, HERE)
    assert await authenticator.authenticate(basic("bob", "builder"), None, THERE)


async def test_who_goes_on_asking_is_known_however_long_others_guess(
    authenticator: Authenticator, clock: Clock
) -> None:
    await authenticator.authenticate(ALICE, None, HERE)
    for _ in range(20):
        await guess(authenticator, MAX_FAILURES)
        assert await authenticator.authenticate(ALICE, None, HERE) == Identity("alice")
        clock.now += 61


async def test_many_users_log_in_from_one_address(
    authenticator: Authenticator, htpasswd: Htpasswd, clock: Clock
) -> None:
    users = [f"user{n}" for n in range(2 * MAX_FAILURES)]
    for user in users:
        htpasswd.set(user, f"password of {user}")
    clock.now += 2  # the first one has the file read, and the others wait for that
    headers = [basic(user, f"password of {user}") for user in users]
    asked = [authenticator.authenticate(header, None, HERE) for header in headers]
    assert await asyncio.gather(*asked) == [Identity(user) for user in users]


async def test_who_was_found_right_while_others_guessed_is_let_in(
    authenticator: Authenticator,
) -> None:
    """Two requests of one client, and guesses from its address between them, all at once."""
    await authenticator.authenticate(f"Bearer {TOKEN}", None, HERE)  # looks at the files
    async with asyncio.TaskGroup() as group:
        first = group.create_task(authenticator.authenticate(ALICE, None, HERE))
        guesses = group.create_task(guess(authenticator, 20))
        await asyncio.sleep(0)
        second = group.create_task(authenticator.authenticate(ALICE, None, HERE))
    assert len(guesses.result()) == 20
    assert first.result() == second.result() == Identity("alice")


async def test_a_client_with_an_old_password_shuts_nobody_out(
    authenticator: Authenticator, threads: Threads
) -> None:
    for _ in range(100):
        with pytest.raises(Unauthorized):
            await authenticator.authenticate(basic("alice", "old"), None, HERE)
    assert threads.tried == 1
    assert await authenticator.authenticate(ALICE, None, HERE) == Identity("alice")


async def test_an_attempt_that_is_given_up_counts(
    authenticator: Authenticator, threads: Threads
) -> None:
    """Or whoever hangs up in time would have as many as he likes."""
    threads.gate.clear()
    for n in range(MAX_FAILURES):
        asked = asyncio.create_task(
            authenticator.authenticate(basic("alice", f"guess {n}"), None, HERE)
        )
        await threads.until(n + 1)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    with pytest.raises(TooManyRequests):
        await authenticator.authenticate(basic("alice", "one more"), None, HERE)


async def test_who_waits_too_long_for_a_password_is_told_so_and_known_the_next_time(
    htpasswd: Htpasswd, clock: Clock, threads: Threads
) -> None:
    passwords = Passwords(WatchedFile(htpasswd.path, parse_htpasswd), clock, threads)
    impatient = Authenticator([passwords], None, clock=clock, wait=0)
    threads.gate.clear()
    with pytest.raises(TooManyRequests, match=r"try again later, or log in with a token") as told:
        await impatient.authenticate(ALICE, None, HERE)
    assert told.value.headers["Retry-After"] == "5"
    threads.gate.set()
    patient = Authenticator([passwords], None, clock=clock)
    assert await patient.authenticate(ALICE, None, HERE) == Identity("alice")
    assert threads.tried == 1
    await patient.close()


async def test_one_address_has_one_password_tried_at_a_time(
    authenticator: Authenticator, threads: Threads
) -> None:
    """So that a second thread is left for the others."""
    threads.gate.clear()
    flood = asyncio.create_task(guess(authenticator, 50))
    other = asyncio.create_task(authenticator.authenticate(ALICE, None, THERE))
    await threads.until(2)
    for _ in range(100):
        await asyncio.sleep(0)
    assert threads.tried == 2
    threads.gate.set()
    assert await other == Identity("alice")
    assert len(await flood) == 50


async def test_files_are_looked_at_once_a_second_when_somebody_asks(
    authenticator: Authenticator, htpasswd: Htpasswd, clock: Clock
) -> None:
    assert await authenticator.authenticate(ALICE, None, HERE) == Identity("alice")
    htpasswd.remove("alice")
    clock.now += 0.5
    assert await authenticator.authenticate(ALICE, None, HERE) == Identity("alice")
    clock.now += 0.6
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(ALICE, None, HERE)
    htpasswd.set("carol", "new here")
    clock.now += 1.1
    assert await authenticator.authenticate(basic("carol", "new here"), None, HERE)


async def test_a_file_that_cannot_be_used_is_no_start(tmp_path: Path) -> None:
    for way in ("htpasswd_file", "token_file"):
        with pytest.raises(AccessError, match="cannot read"):
            open_authenticator(**{way: tmp_path / "none"})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["htpasswd_file", "token_file"])
def test_a_file_that_names_nobody_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = tmp_path / "file"
    path.write_text("# nobody yet\n")
    path.chmod(0o600)
    open_authenticator(**{kind: path})  # type: ignore[arg-type]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path} names nobody")
