"""AI services, budgets and usage by command: kept sealed, and taken by a running server."""

import io
from functools import partial
from pathlib import Path

import msgspec
import pytest

from ai_bridge.account import Limits
from ai_bridge.secrets import Secret
from protocol.codes import ConvKind
from protocol.envelopes import MsgPush
from server.ai_providers import (
    AiRefresh,
    added_providers,
    make_row,
    read_row,
    reload_providers,
    reseal,
)
from server.ai_setup import load_budgets
from server.config_sections import AiConfig, ProviderConfig
from server.errors import ServiceError
from server.vault import Vault, VaultError
from storage.providers import ProviderRow, providers, save_provider
from storage.revisions import BUDGETS, PROVIDERS, note_revision, revisions
from storage.usage import BudgetRow, set_budget, usage_page
from tests.server.harness import Server, serving
from tests.server.model import Model
from tests.server.shell import Shell

KEY = "sk-geheim-密钥"
SERVICE = ProviderConfig(
    name="mine", base_url="http://127.0.0.1:1/v1", api_key=Secret(KEY), models=["m"], tier=2
)


def vault(seed: int = 1) -> Vault:
    return Vault([bytes([seed]) * 32])


def test_a_stored_service_comes_back_whole_and_its_row_tells_no_key() -> None:
    row = make_row(SERVICE, vault())
    assert KEY not in row.config
    assert KEY.encode() not in row.sealed
    assert read_row(row, vault()) == SERVICE


def test_a_service_without_a_key_needs_no_master_key() -> None:
    plain = msgspec.structs.replace(SERVICE, api_key=Secret())
    assert read_row(make_row(plain, vault()), vault(2)) == plain


def test_secrets_beyond_one_key_belong_into_the_file() -> None:
    for more in ({"api_keys": [Secret("a")]}, {"headers": {"x": Secret("a")}}):
        with pytest.raises(ServiceError):
            make_row(msgspec.structs.replace(SERVICE, **more), vault())


@pytest.mark.parametrize("config", ["", "[]", '{"name":"x","nope":1}', '{"name":"x","tier":"a"}'])
def test_a_row_that_cannot_be_read_is_refused(config: str) -> None:
    with pytest.raises(ServiceError):
        read_row(ProviderRow("x", config, b""), vault())


async def test_one_unusable_service_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as server:
        for row in (make_row(SERVICE, vault(2)), ProviderRow("bad", "{", b"")):
            await save(server, row)
        good = msgspec.structs.replace(SERVICE, name="good")
        await save(server, make_row(good, vault()))
        found = await added_providers(server.store, vault())
        assert [provider.name for provider in found] == ["good"]
        assert found[0].api_key.reveal() == KEY
        assert KEY not in caplog.text


async def save(server: Server, row: ProviderRow) -> None:
    await server.store.change((), partial(save_provider, row=row))


async def test_rekeying_seals_everything_with_the_new_master_key(tmp_path: Path) -> None:
    old, new = bytes([1]) * 32, bytes([2]) * 32
    async with serving(tmp_path) as server:
        await save(server, make_row(SERVICE, Vault([old])))
        assert await reseal(server.store, Vault([new, old])) == 1
        assert await reseal(server.store, Vault([new, old])) == 0
        (row,) = await server.store.read(providers())
        assert read_row(row, Vault([new])) == SERVICE
        with pytest.raises(VaultError):
            read_row(row, Vault([old]))


async def test_a_running_server_takes_services_and_budgets_of_commands(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path) as server:
        ai = AiConfig(detect=False, demo_words_per_s=0)
        ledger = server.billing.ledger
        store, bridge = server.store, server.core.bridge
        refresh = AiRefresh(store, await store.read(revisions()))
        refresh.add(BUDGETS, partial(load_budgets, ledger, store))
        refresh.add(PROVIDERS, partial(reload_providers, ai, store, bridge, vault()))
        assert await refresh.run() == []
        address = model.config().providers[0].base_url
        await save(server, make_row(msgspec.structs.replace(SERVICE, base_url=address), vault()))
        assert await refresh.run() == [PROVIDERS]
        await store.change((), partial(set_budget, budget=BudgetRow(1, 0, 7, 9)))
        assert await refresh.run() == [BUDGETS]
        assert ledger.limits(1, 0) == Limits(7, 9)
        await store.change((), partial(set_budget, budget=BudgetRow(1, 0, 0, 0)))
        assert await refresh.run() == [BUDGETS]
        assert await refresh.run() == []
        assert ledger.limits(1, 0) == Limits()
        ann = await server.person("ann")
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.AI, persona=await server.persona(ann))).row.id or 0
        await peer.send_text(conv, "Who answers?")
        (await model.call()).finish("The new one.")
        await peer.expect(MsgPush, lambda f: f.text == "The new one.")


async def test_a_reload_that_fails_is_repeated_and_holds_up_no_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        refresh = AiRefresh(server.store, {})
        failing, calls = [True], []

        async def reload(subject: str) -> None:
            calls.append(subject)
            if subject == BUDGETS and failing:
                raise OSError(failing.pop())

        for subject in (BUDGETS, PROVIDERS):
            refresh.add(subject, partial(reload, subject))
            await server.store.change((), partial(note_revision, subject=subject))
        assert await refresh.run() == [PROVIDERS]
        assert await refresh.run() == [BUDGETS]
        assert await refresh.run() == []
        assert calls == [BUDGETS, PROVIDERS, BUDGETS]


async def test_what_an_answer_used_is_in_the_sums(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        persona = await server.persona(ann)
        conv = (await peer.create(ConvKind.AI, persona=persona)).row.id or 0
        await peer.send_text(conv, "Hello there")
        (await model.call()).finish("Hello to you.")
        await peer.expect(MsgPush, lambda f: f.text == "Hello to you.")
        (row,) = await server.store.read(usage_page(1, 0, 1 << 30, None, 10))
        assert (row.user, row.persona, row.model, row.turns) == (ann.id, persona, "m", 1)
        assert row.tokens_in > 0
        assert row.tokens_out > 0


# commands


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key on standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{KEY}\n"))


@pytest.mark.usefixtures("key")
def test_services_are_added_listed_and_removed_and_never_show_their_key(shell: Shell) -> None:
    said = shell.run(
        "provider", "add", "deep", "--base-url", "https://x.example/v1", "--model", "deep-chat",
        "--key-stdin",
    )  # fmt: skip
    assert "Added deep" in said
    listed = shell.run("provider", "list")
    assert "deep-chat" in listed
    assert KEY not in said + listed
    assert KEY.encode() not in (shell.folder / "parlance.db").read_bytes()
    shell.run("provider", "remove", "deep")
    assert "deep-chat" not in shell.run("provider", "list")
    assert "no service deep" in shell.run("provider", "remove", "deep", code=1)
    assert "Sealed 0 keys" in shell.run("provider", "rekey")


def test_a_service_can_be_asked_whether_it_answers(shell: Shell) -> None:
    shell.run("provider", "add", "here", "--kind", "demo")
    assert "here answers" in shell.run("provider", "test", "here")
    shell.run("provider", "add", "gone", "--base-url", "http://127.0.0.1:1/v1")
    assert "Check its address" in shell.run("provider", "test", "gone", code=1)
    shell.run("provider", "test", "nobody", code=1)


def test_a_service_that_cannot_work_is_refused_at_once(shell: Shell) -> None:
    assert "name a host" in shell.run("provider", "add", "x", "--base-url", "http://", code=1)
    assert "--base-url is missing" in shell.run("provider", "add", "x", code=1)
    assert "kind" in shell.run("provider", "add", "x", "--kind", "nope", code=1)


def test_budgets_are_set_listed_and_lifted(shell: Shell) -> None:
    assert "$5.00 a day, any a month" in shell.run("budget", "set", "--day", "5")
    assert "$5.00" in shell.run("budget", "list")
    shell.run("budget", "set")
    assert "$5.00" not in shell.run("budget", "list")
    shell.run("budget", "set", "--user", "nobody", "--day", "1", code=1)


def test_usage_is_written_as_csv(shell: Shell) -> None:
    header = "day,user,persona,model,answers,tokens_in,tokens_out,usd\n"
    assert shell.run("usage", "export") == header
    assert "is not a day" in shell.run("usage", "export", "--since", "yesterday", code=1)
