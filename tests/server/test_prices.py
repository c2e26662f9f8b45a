"""Prices by command: set, listed, imported, removed, and taken by a running server."""

import json
from functools import partial
from pathlib import Path

from ai_bridge.account import Limits
from ai_bridge.prices import Price
from protocol.codes import ConvKind
from protocol.envelopes import MsgPush
from server.ai_providers import AiRefresh
from server.ai_setup import make_prices, reload_prices
from server.app import App
from server.config_sections import AiConfig, Config, PriceConfig, ServerConfig
from storage.prices import PRICES, PriceRow, import_prices, remove_price, set_price
from storage.revisions import revisions
from storage.usage import usage_page
from tests.server.harness import serving
from tests.server.model import Model
from tests.server.shell import Shell
from tests.support.eventually import eventually

DOLLAR_A_TOKEN = '{"out":1000000}'


async def test_a_running_server_takes_prices_of_commands_for_answers_that_begin(
    tmp_path: Path,
) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        store, billing = server.store, server.billing
        refresh = AiRefresh(store, await store.read(revisions()))
        refresh.add(PRICES, partial(reload_prices, model.config(), store, billing))
        ann = await server.person("ann")
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.AI, persona=await server.persona(ann))).row.id or 0
        await peer.send_text(conv, "Is it free?")
        call = await model.call()
        await store.change((), partial(set_price, model="test/m", price=DOLLAR_A_TOKEN))
        assert await refresh.run() == [PRICES]
        assert await refresh.run() == []
        call.finish("It was when you asked.")
        await peer.expect(MsgPush, lambda f: f.text == "It was when you asked.")
        (row,) = await store.read(usage_page(1, 0, 1 << 30, None, 10))
        assert row.cost_micro == 0
        await peer.send_text(conv, "And now?")
        (await model.call(1)).finish("A dollar a token.")
        await peer.expect(MsgPush, lambda f: f.text == "A dollar a token.")
        (row,) = await store.read(usage_page(1, 0, 1 << 30, None, 10))
        assert row.cost_micro >= 1_000_000
        assert billing.ledger.spent(1, ann.id).day == row.cost_micro
        # What an answer can cost is set aside at the new price: nothing fits any more.
        billing.ledger.set_limits(1, 0, Limits(day_micro=row.cost_micro + 1))
        await peer.send_text(conv, "Once more?")
        await eventually(lambda: billing.ledger.refused == 1)
        assert len(model.calls) == 2


async def test_a_server_starts_with_the_prices_of_the_store(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.store.change((), partial(set_price, model="m", price='{"in":7}'))
    async with serving(tmp_path) as server:
        assert server.billing.prices.find("m") == Price(7.0)
        await server.store.change((), partial(import_prices, version="2", prices={"m": '{"in":8}'}))
        await server.store.change((), partial(remove_price, model="m"))
        await reload_prices(AiConfig(), server.store, server.billing)
        assert server.billing.prices.find("m") == Price(8.0)


async def test_a_whole_server_looks_for_prices(tmp_path: Path) -> None:
    settings = ServerConfig(port=0, data_dir=str(tmp_path), gc_freeze=False, drain_s=0.5)
    app = App(Config(server=settings, ai=AiConfig(detect=False)))
    await app.start()
    try:
        assert app.core is not None
        assert app._refresh is not None
        await app.core.store.change((), partial(set_price, model="m", price='{"in":7}'))
        assert await app._refresh.run() == [PRICES]
        assert app.core.bridge.billing is not None
        assert app.core.bridge.billing.prices.find("m") == Price(7.0)
    finally:
        await app.stop()


def test_a_price_that_cannot_be_read_leaves_the_next_one_in_force() -> None:
    ai = AiConfig(prices={"m": PriceConfig(input=2.0)})
    rows = [PriceRow("m", "{", ""), PriceRow("m", '{"in":-1}', "1"), PriceRow("n", '{"in":3}', "")]
    table = make_prices(ai, rows)
    assert table.find("m") == Price(2.0)
    assert table.find("n") == Price(3.0)


# commands


def test_prices_are_set_listed_and_removed_and_it_is_told_what_counts(shell: Shell) -> None:
    said = shell.run("price", "set", "GPT-4o", "--input", "1.5", "--output", "3")
    assert "gpt-4o: $1.5 in and $3 out" in said
    assert "within 5 seconds" in said
    counts = shell.run("price", "list", "openai/gpt-4o-2024-11-20")
    assert "command" in counts
    assert "1.5" in counts
    settings = ("--set", 'ai.prices={"gpt-4o":{"input":9.0},"o3":{"input":8.0}}')
    whole = " ".join(shell.run("price", "list", *settings).split())
    assert "gpt-4o 1.5 3 1.5 0 command" in whole
    assert "o3 8 0 8 0 settings" in whole
    assert "whisper-1 0 0 0 0.006 file 20" in whole
    said = shell.run("price", "remove", "gpt-4o", *settings)
    assert "now gpt-4o (settings) counts" in said
    assert "set by command" in shell.run("price", "remove", "gpt-4o", code=1)
    shell.run("price", "set", "mine", "--minute", "0.5")
    assert "counts as free now" in shell.run("price", "remove", "mine")
    assert "counts as free" in shell.run("price", "list", "mine", code=1)


def test_half_a_price_and_a_price_that_is_none_are_refused(shell: Shell) -> None:
    for words, why in (
        ([], "--input and --output"),
        (["--input", "1"], "--input and --output"),
        (["--minute", "1", "--cached", "1"], "--cached needs"),
        (["--input", "nan", "--output", "1"], "number of dollars"),
        (["--input", "1", "--output", "-1"], "number of dollars"),
    ):
        assert why in shell.run("price", "set", "m", *words, code=1)
    assert "characters" in shell.run("price", "set", " ", "--input", "1", "--output", "1", code=1)


def test_a_file_of_prices_is_imported_as_a_whole_with_its_version(
    shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "prices.json"

    def take(version: str, models: object, code: int = 0) -> str:
        file.write_text(json.dumps({"version": version, "models": models}))
        return shell.run("price", "import", str(file), code=code)

    first = {"gpt-4o": {"in": 1, "out": 2}, "新模型": {"in": 3, "out": 4}}
    assert "Imported 2 prices of version 2027-01" in take("2027-01", first)
    assert "imported file 2027-01" in shell.run("price", "list", "shop/新模型")
    assert "per" in take("2027-02", {"gpt-4o": {"in": 5, "out": 6, "per": 1}}, code=1)
    assert "imported file 2027-01" in shell.run("price", "list", "gpt-4o")
    take("2027-02", {"gpt-4o": {"in": 5, "out": 6}})
    assert "imported file 2027-02" in shell.run("price", "list", "gpt-4o")
    assert "free" in shell.run("price", "list", "新模型", code=1)
    take("2027-03", {})
    assert "imported" not in shell.run("price", "list")
    assert "cannot be read" in shell.run("price", "import", str(tmp_path / "none"), code=1)
