"""Passwords: cleaned alike, hashed elsewhere, bounded."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher

from protocol.codes import Code
from server.errors import ServiceError
from server.passwords import Passwords, clean_password, clean_user_name


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(1, memory_kib=64)
    yield made
    made.close()


async def test_the_right_password_fits_and_others_do_not(passwords: Passwords) -> None:
    hashed = await passwords.hash("right password")
    assert hashed.startswith("$argon2id$")
    assert (await passwords.check(hashed, "right password")).ok
    assert not (await passwords.check(hashed, "wrong password")).ok
    assert not (await passwords.check("no hash at all", "x")).ok
    assert not (await passwords.check(None, "nobody has this password")).ok


async def test_a_hash_of_old_settings_is_made_anew(passwords: Passwords) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("right password")
    verdict = await passwords.check(old, "right password")
    assert verdict.ok
    assert verdict.new_hash is not None
    assert (await passwords.check(verdict.new_hash, "right password")).new_hash is None


async def test_too_many_at_once_are_refused_with_a_wait(passwords: Passwords) -> None:
    tasks = [asyncio.ensure_future(passwords.hash("right password")) for _ in range(40)]
    done = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [error for error in done if isinstance(error, ServiceError)]
    assert len(refused) == passwords.refused == 24
    assert refused[0].code == Code.OVERLOADED
    assert refused[0].retry_ms > 0
    assert await passwords.hash("again, there is room")


async def test_a_caller_that_goes_away_frees_its_place(passwords: Passwords) -> None:
    tasks = [asyncio.ensure_future(passwords.hash("right password")) for _ in range(16)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    while True:
        # Each thread still has to come to what was given up.
        again = [asyncio.ensure_future(passwords.hash("right password")) for _ in range(16)]
        done = await asyncio.gather(*again, return_exceptions=True)
        if not any(isinstance(result, ServiceError) for result in done):
            break
    assert all(isinstance(result, str) for result in done)


@pytest.mark.parametrize("name", ["", "a", " ", "a\u200b", "x" * 33, "a\x00b", "\u202eab\n\x07"])
def test_bad_names_are_refused_with_advice(name: str) -> None:
    with pytest.raises(ServiceError) as caught:
        clean_user_name(name)
    assert caught.value.code == Code.INVALID
    assert "2 to 32" in (caught.value.detail or "")


@pytest.mark.parametrize(
    ("given", "kept"),
    [("  Anna  B ", "Anna B"), ("小明", "小明"), ("a\u200bbc", "abc"), ("\uff21nna", "Anna")],
)
def test_names_are_cleaned(given: str, kept: str) -> None:
    assert clean_user_name(given) == kept


def test_a_password_is_the_same_from_every_keyboard() -> None:
    assert clean_password("pa\u0308sswort") == clean_password("p\u00e4sswort")


@pytest.mark.parametrize("password", ["", "seven77", "x" * 257, "\ud800" * 8])
def test_bad_passwords_are_refused(password: str) -> None:
    with pytest.raises(ServiceError):
        clean_password(password)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
async def test_hashing_gives_way_to_the_loop(passwords: Passwords) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    await passwords.hash("right password")
    loop = asyncio.get_running_loop()
    there = await loop.run_in_executor(
        passwords._pool, lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    )
    assert there == min(own + 10, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
