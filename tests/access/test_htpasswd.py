"""Passwords: what a file may hold, what is right, and what it costs."""

from __future__ import annotations

import asyncio
import re

import bcrypt
import pytest

from proxy.access.credentials import Credentials
from proxy.access.files import WatchedFile
from proxy.access.htpasswd import MIN_COST, Passwords, hash_password, parse_htpasswd
from proxy.access.identity import AccessError, Identity
from tests.access.conftest import Threads
from tests.access.files import Htpasswd
from tests.clocks import Clock

HASH = hash_password("wonderland", cost=MIN_COST)
ALICE = Credentials("alice", b"wonderland")


@pytest.fixture
def passwords(htpasswd: Htpasswd, clock: Clock, threads: Threads) -> Passwords:
    return Passwords(WatchedFile(htpasswd.path, parse_htpasswd), clock, threads)


async def test_the_right_password_is_the_user(passwords: Passwords) -> None:
    assert await passwords.verify(ALICE) == Identity("alice")


@pytest.mark.parametrize(
    "credentials",
    [
        Credentials("alice", b"Wonderland"),
        Credentials("alice", b""),
        Credentials("alice", b"wonderland\0"),
        Credentials("alice", b"wonderland\0more"),
        # bcrypt goes round a password and the NUL at its end: to it this one is the same.
        Credentials("alice", b"wonderland\0wonderland"),
        Credentials("Alice", b"wonderland"),
        Credentials("bob", b"wonderland"),
        Credentials("carol", b"wonderland"),
        Credentials("", b"wonderland"),
        Credentials(None, b"wonderland"),
    ],
)
async def test_anything_else_is_nobody(passwords: Passwords, credentials: Credentials) -> None:
    assert await passwords.verify(credentials) is None


@pytest.mark.parametrize("kind", ["$2a$", "$2b$", "$2y$"])
async def test_every_kind_of_bcrypt_is_taken(
    kind: str, htpasswd: Htpasswd, passwords: Passwords
) -> None:
    htpasswd.path.write_text(f"# users\n\n  alice:{kind}{HASH[4:]}  \n")
    await passwords.refresh()
    assert await passwords.verify(ALICE) == Identity("alice")


async def test_a_password_counts_up_to_72_bytes_as_with_apache(
    htpasswd: Htpasswd, passwords: Passwords
) -> None:
    htpasswd.set("alice", "x" * 72)
    await passwords.refresh()
    assert await passwords.verify(Credentials("alice", b"x" * 500)) == Identity("alice")
    assert await passwords.verify(Credentials("alice", b"x" * 71)) is None


async def test_a_right_password_is_tried_again_when_it_was_not_used_for_ten_minutes(
    passwords: Passwords, threads: Threads, clock: Clock
) -> None:
    assert passwords.recall(ALICE) is None
    for _ in range(3):
        await passwords.verify(ALICE)
        clock.now += 599
        assert passwords.recall(ALICE) == Identity("alice")
    assert threads.tried == 1
    clock.now += 601
    assert passwords.recall(ALICE) is None
    await passwords.verify(ALICE)
    assert threads.tried == 2


async def test_a_wrong_password_is_tried_once_in_a_minute(
    passwords: Passwords, threads: Threads, clock: Clock
) -> None:
    wrong = Credentials("alice", b"old password")
    for _ in range(3):
        assert await passwords.verify(wrong) is None
    assert threads.tried == 1
    clock.now += 61
    assert await passwords.verify(wrong) is None
    assert threads.tried == 2


async def test_a_flood_of_wrong_passwords_drives_no_right_one_out(
    passwords: Passwords, threads: Threads
) -> None:
    await passwords.verify(ALICE)
    for n in range(5000):
        passwords._wrong[n.to_bytes(4, "big")] = True
    assert passwords.recall(ALICE) == Identity("alice")
    assert len(passwords._wrong) <= 4096


async def test_an_unknown_user_costs_what_a_wrong_password_does(
    passwords: Passwords, threads: Threads, htpasswd: Htpasswd
) -> None:
    await passwords.verify(Credentials("carol", b"wonderland"))
    assert threads.tried == 1
    lines = [f"u{n}:{hash_password('x', cost=5)}" for n in range(2)] + [f"v:{HASH}"]
    users = parse_htpasswd("\n".join(lines), "file")
    assert bcrypt.checkpw(b"anything", users.stand_in) is False
    assert users.stand_in.startswith(b"$2b$05$"), "the usual cost of the file"


async def test_the_same_password_of_many_is_tried_once(
    passwords: Passwords, threads: Threads
) -> None:
    threads.gate.clear()
    asked = [asyncio.create_task(passwords.verify(ALICE)) for _ in range(20)]
    await asyncio.sleep(0)
    asked[0].cancel()  # who asked first is not who the others depend on
    threads.gate.set()
    assert await asyncio.gather(*asked[1:]) == [Identity("alice")] * 19
    assert threads.tried == 1


async def test_the_loop_goes_on_while_passwords_are_tried(
    passwords: Passwords, threads: Threads
) -> None:
    threads.gate.clear()
    flood = [
        asyncio.create_task(passwords.verify(Credentials("alice", b"%d" % n))) for n in range(50)
    ]
    # Neither the loop nor the threads that read the disk wait for them.
    assert await asyncio.to_thread(lambda: "read") == "read"
    assert not any(task.done() for task in flood)
    threads.gate.set()
    assert await asyncio.gather(*flood) == [None] * 50


async def test_who_is_removed_is_out_at_once(htpasswd: Htpasswd, passwords: Passwords) -> None:
    await passwords.verify(ALICE)
    htpasswd.remove("alice")
    await passwords.refresh()
    assert passwords.recall(ALICE) is None
    assert await passwords.verify(ALICE) is None


async def test_who_is_removed_while_the_password_is_tried_is_not_let_in(
    htpasswd: Htpasswd, passwords: Passwords, threads: Threads
) -> None:
    threads.gate.clear()
    asked = asyncio.create_task(passwords.verify(ALICE))
    await asyncio.sleep(0)
    htpasswd.remove("alice")
    await passwords.refresh()
    threads.gate.set()
    assert await asked is None


async def test_a_changed_password_counts_at_once(htpasswd: Htpasswd, passwords: Passwords) -> None:
    new = Credentials("alice", b"looking glass")
    assert await passwords.verify(new) is None
    await passwords.verify(ALICE)
    htpasswd.set("alice", "looking glass")
    await passwords.refresh()
    assert passwords.recall(ALICE) is None
    assert await passwords.verify(ALICE) is None
    assert await passwords.verify(new) == Identity("alice")


async def test_no_password_is_kept_in_memory(passwords: Passwords) -> None:
    await passwords.verify(ALICE)
    await passwords.verify(Credentials("alice", b"wrong one"))
    kept = repr([*passwords._right, *passwords._wrong, ALICE])
    assert "wonderland" not in kept
    assert "wrong one" not in kept


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("alice:$apr1$x$y", "this is Apache's MD5, and only bcrypt is taken"),
        ("alice:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=", "this is SHA-1"),
        ("alice:rqXexS6ZhobKA", "this is another kind"),
        ("alice:wonderland", "this is another kind"),
        ("alice:", "this is another kind"),
        ("alice:$6$salt$hash", "this is SHA-512 crypt"),
        (f"alice:{HASH[:-1]}", "this is a damaged bcrypt hash"),
        (f"alice:{HASH[:28]}f{HASH[29:]}", "this is a damaged bcrypt hash"),
        (f"alice:{HASH} trailing", "this is a damaged bcrypt hash"),
        ("alice:$2y$16$" + HASH[7:], "a bcrypt cost of 16, and 4 to 15 are taken"),
        ("alice:$2y$31$" + HASH[7:], "a bcrypt cost of 31"),
        ("alice:$2y$03$" + HASH[7:], "a bcrypt cost of 3"),
        ("alice", "there is no USER:HASH"),
    ],
)
def test_a_line_that_is_of_no_use_is_refused_with_its_number_and_the_remedy(
    line: str, told: str
) -> None:
    with pytest.raises(AccessError) as refused:
        parse_htpasswd(f"# users\nbob:{HASH}\n{line}\n", "/etc/users")
    message = str(refused.value)
    assert message.startswith("/etc/users, line 3: ")
    assert told in message
    assert "htpasswd -B" in message
    assert "wonderland" not in message
    assert "\n" not in message


@pytest.mark.parametrize("user", ["", "#", "a\tb", "a\u202eb", "x" * 256])
def test_a_name_that_can_be_no_users_is_refused(user: str) -> None:
    if user == "#":  # a comment
        assert not parse_htpasswd(f"{user}:{HASH}", "file").hashes
        return
    with pytest.raises(AccessError, match=r"file, line 1: a user's name"):
        parse_htpasswd(f"{user}:{HASH}", "file")


def test_a_user_who_is_there_twice_is_refused() -> None:
    with pytest.raises(AccessError, match=r"file, line 2: the user alice is there twice"):
        parse_htpasswd(f"alice:{HASH}\nalice:{HASH}\n", "file")


def test_what_a_password_may_be() -> None:
    assert re.fullmatch(r"\$2b\$12\$.{53}", hash_password("right"))
    for wrong in ("", "x" * 73, "é" * 37, "a\0b"):
        with pytest.raises(ValueError, match=r"password|bcrypt"):
            hash_password(wrong)
