"""Engines by command: listed, asked, switched and reset, with or without a running server."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import pytest

from bench.provider.mem0 import FakeMem0
from protocol.rows import Persona
from server.commands import engines
from storage.accounts import create_user
from storage.engines import ChoiceState, EngineChoice, ask_engine, engine_choices, settle_engine
from storage.people import create_tenant
from storage.personas import save_persona, upsert_builtin
from storage.rows import StoreOptions
from storage.store import Store
from tests.conftest import sqlite_url
from tests.server.shell import Shell


@pytest.fixture(scope="module")
def mem0_url() -> Iterator[str]:
    """Address of a mem0 server in a thread of its own: commands block this one."""
    loop, mem0 = asyncio.new_event_loop(), FakeMem0()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(mem0.start(), loop).result()
    yield mem0.base_url
    asyncio.run_coroutine_threadsafe(mem0.aclose(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


class EngineShell(Shell):
    """Runs commands with a mem0 server; what they say comes without line ends."""

    mem0_url = ""

    def run(self, *words: str, code: int = 0) -> str:
        settings = ["--set", "ai.detect=false"]
        settings += ["--set", f"ai.mem0_url={self.mem0_url}"] if self.mem0_url else []
        return " ".join(super().run(*words, *settings, code=code).split())

    async def choices(self) -> list[EngineChoice]:
        async with self.store() as store:
            return await store.read(engine_choices())

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        store = await Store.open(StoreOptions(url=sqlite_url(self.folder)))
        try:
            yield store
        finally:
            await store.close(5)

    def asked(self) -> list[tuple[int, int, str]]:
        return [(one.tenant, one.persona, one.asked) for one in asyncio.run(self.choices())]


@pytest.fixture
def shell(shell: Shell, capsys: pytest.CaptureFixture[str], mem0_url: str) -> EngineShell:
    engines = EngineShell(shell.folder, capsys)
    engines.mem0_url = mem0_url
    return engines


def test_engines_are_listed_told_of_and_asked(shell: EngineShell) -> None:
    listed = shell.run("engine", "list")
    assert "chat_engine memory, tools, personality everybody" in listed
    assert "mem0_proxy mem0, tools, personality" in listed
    told = shell.run("engine", "info", "chat_engine")
    assert "answers everybody settings ai.engine" in told
    assert "nobody at present" in shell.run("engine", "info", "mem0_proxy")
    assert "chat_engine ok mem0_proxy ok" in shell.run("engine", "health")


def test_a_switch_is_written_down_for_whom_it_is_meant(shell: EngineShell) -> None:
    shell.run("tenant", "add", "acme")
    assert "Written down" in shell.run("engine", "switch", "mem0_proxy", "--tenant", "acme")
    shell.run("engine", "switch", "mem0_proxy")
    shell.run("engine", "reset", "--tenant", "acme")
    acme = shell.asked()[1][0]
    assert shell.asked() == [(0, 0, "mem0_proxy"), (acme, 0, "")]
    listed = shell.run("engine", "list")
    assert "everybody mem0_proxy" in listed
    assert "the tenant acme (reset)" in listed
    assert "waits for a server" in listed


def test_a_persona_is_chosen_for_by_name_where_its_tenant_may_see_it(shell: EngineShell) -> None:
    async def fill() -> int:
        async with shell.store() as store:
            acme = await store.change([], lambda tx: create_tenant(tx, "acme", "Acme"))
            user = await store.change((), partial(create_user, tenant=acme.id, name="ann"))
            owner = user.id or 0
            for number, name in enumerate(("[小雅]", "Bob")):
                save = partial(
                    save_persona, tenant=acme.id, owner=owner, id=None, cid=bytes([number]) * 16,
                    given=Persona(name=name, prompt="p"),
                )  # fmt: skip
                await store.change((owner,), save)
            nova = Persona(name="Nova", prompt="p")
            await store.change([], lambda tx: upsert_builtin(tx, "nova", nova))
            return acme.id

    acme = asyncio.run(fill())
    shell.run("engine", "switch", "mem0_proxy", "--persona", "[小雅]")
    shell.run("engine", "switch", "mem0_proxy", "--persona", "Bob", "--tenant", "acme")
    for tenant in ("default", "acme"):
        shell.run("engine", "switch", "mem0_proxy", "--persona", "Nova", "--tenant", tenant)
    said = shell.run(
        "engine", "switch", "mem0_proxy", "--persona", "Bob", "--tenant", "default", code=1
    )
    assert "no persona 'Bob' in the tenant 'default'" in said
    assert [tenant for tenant, _, _ in shell.asked()] == [0, 1, acme, acme]
    listed = shell.run("engine", "list")
    assert "the persona [小雅] (" in listed
    assert "in the tenant acme" in listed


def test_what_does_not_exist_is_refused_with_the_way_to_see_what_does(shell: EngineShell) -> None:
    assert "parlance engine list" in shell.run("engine", "switch", "nobody", code=1)
    assert "no tenant" in shell.run("engine", "switch", "chat_engine", "--tenant", "x", code=1)
    assert "no persona" in shell.run("engine", "switch", "chat_engine", "--persona", "x", code=1)
    shell.mem0_url = ""
    assert "ai.mem0_url" in shell.run("engine", "switch", "mem0_proxy", code=1)
    assert shell.asked() == []


def test_an_engine_that_is_ill_is_not_chosen_and_the_command_says_why(shell: EngineShell) -> None:
    shell.mem0_url = "http://127.0.0.1:1"
    said = shell.run("engine", "switch", "mem0_proxy", code=1)
    assert "mem0_proxy was not chosen. The mem0 server does not answer." in said
    assert "127.0.0.1" not in said
    assert "does not answer" in shell.run("engine", "health", code=1)
    assert "ok" in shell.run("engine", "health", "chat_engine")
    said = shell.run("engine", "reset", "--set", "ai.engine=mem0_proxy", code=1)
    assert "does not answer" in said
    assert shell.asked() == []


@pytest.mark.parametrize(
    ("state", "reason", "code", "said"),
    [
        (ChoiceState.TAKEN, "", 0, "mem0_proxy answers everybody from now on"),
        (ChoiceState.REFUSED, "Its lamp is out.", 1, "server refused. Its lamp is out."),
        (ChoiceState.ASKED, "", 0, "has not taken it yet"),
    ],
)
def test_where_a_server_runs_the_command_tells_what_came_of_it(
    shell: EngineShell,
    monkeypatch: pytest.MonkeyPatch,
    state: ChoiceState,
    reason: str,
    code: int,
    said: str,
) -> None:
    answering(shell, monkeypatch, lambda asked: replaced(asked, state, reason))
    assert said in shell.run("engine", "switch", "mem0_proxy", code=code)
    if state is ChoiceState.TAKEN:
        assert "Nothing is chosen for everybody" in shell.run("engine", "reset")
    else:
        assert reason in shell.run("engine", "list")


def test_somebody_who_asks_again_meanwhile_is_told_to_look(
    shell: EngineShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(shell, monkeypatch, lambda asked: None)
    assert "somebody else" in shell.run("engine", "switch", "mem0_proxy", code=1)


def replaced(asked: EngineChoice, state: ChoiceState, reason: str) -> EngineChoice:
    engine = asked.asked if state is ChoiceState.TAKEN else asked.engine
    return EngineChoice(
        asked.tenant, asked.persona, engine, asked.asked, state, reason, asked.updated
    )


def answering(
    shell: EngineShell,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[EngineChoice], EngineChoice | None],
) -> None:
    """Have a server answer as told, while the command sleeps; None: somebody asks again."""

    async def wait(_seconds: float) -> None:
        async with shell.store() as store:
            (asked,) = await store.read(engine_choices())
            settled = answer(asked)
            if settled is None:
                again = partial(ask_engine, tenant=0, persona=0, engine="chat_engine")
                await store.change((), again)
            else:
                await store.change((), partial(settle_engine, choice=settled))

    monkeypatch.setattr(engines, "is_serving", lambda config: True)
    monkeypatch.setattr(engines, "sleep", wait)
