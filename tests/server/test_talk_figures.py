"""Figures that need a whole server: viewers behind, costs by tenant, answers left by the dead."""

from pathlib import Path
from typing import Any

from protocol.codes import ConvKind
from protocol.envelopes import MsgPush, StreamDelta
from server.app import App
from server.config_sections import Config, PriceConfig, ServerConfig
from server.core import Core
from server.memory_stats import MemoryStats, memory_figures
from server.metrics import Figure, Metrics
from server.talk_figures import talk_figures
from tests.server.harness import serving, watching
from tests.server.model import Model
from tests.support.eventually import eventually


def figures(core: Core) -> dict[str, Any]:
    return {one.name: one.value for one in talk_figures(core) if isinstance(one, Figure)}


async def test_who_has_text_to_come_that_the_line_does_not_take_is_behind(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        ann, bob = await server.person("ann"), await server.person("bob")
        fast = await server.connect(ann)
        persona = await server.persona(ann)
        conv = (await fast.create(ConvKind.GROUP, bob, persona=persona)).row.id or 0
        slow = await server.connect(bob, watch=watching(conv))
        behind = server.core.hub.sessions_of(bob.id)[0]
        await fast.send_text(conv, "@Ada hello")
        call = await model.call()
        call.say("One ")
        await slow.expect(StreamDelta)
        assert figures(server.core)["viewers_behind"] == 0
        behind.outbox.pause(0.0)
        call.say("two ")
        await eventually(lambda: figures(server.core)["viewers_behind"] == 1)
        behind.outbox.resume()
        await slow.expect(StreamDelta)
        assert figures(server.core)["viewers_behind"] == 0
        call.finish("three.")
        await fast.expect(MsgPush, lambda f: f.text == "One two three.")


async def test_costs_are_shown_by_tenant(tmp_path: Path) -> None:
    prices = {"test/m": PriceConfig(output=1_000_000.0)}
    async with Model() as model, serving(tmp_path, ai=model.config(prices=prices)) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.AI, persona=await server.persona(ann))).row.id or 0
        await peer.send_text(conv, "Hello")
        (await model.call()).finish("A dollar a token.")
        await peer.expect(MsgPush, lambda f: f.text == "A dollar a token.")
        spent = server.billing.ledger.spent(1, 0).day
        assert spent >= 1_000_000
        assert figures(server.core)["ai_cost_micro"] == {"1": spent}


async def test_answers_that_a_dead_server_left_are_counted_by_the_next_one(tmp_path: Path) -> None:
    async with Model() as model:
        settings = ServerConfig(
            port=0, data_dir=str(tmp_path), gc_freeze=False, drain_s=0.5, node="test"
        )
        async with serving(tmp_path, ai=model.config()) as server:
            ann = await server.person("ann")
            peer = await server.connect(ann)
            conv = (await peer.create(ConvKind.AI, persona=await server.persona(ann))).row.id or 0
            await peer.send_text(conv, "Hello")
            (await model.call()).say("Half of ")
            # As after kill -9: nobody finishes the turn.
            server.core.turns._finish = _nothing  # type: ignore[method-assign]
        app = App(Config(server=settings, ai=model.config()))
        await app.start()
        try:
            assert app.core is not None
            assert figures(app.core)["ai_orphans"] == 1
        finally:
            await app.stop()


def test_times_of_learning_and_recalling_are_histograms() -> None:
    stats = MemoryStats()
    stats.extract_seconds.note(3.0)
    for seconds in (0.0005, 0.25):
        stats.search_seconds.note(seconds)
    page = Metrics([memory_figures(stats, dict)]).render().decode().splitlines()
    assert {
        'parlance_memory_extract_seconds_bucket{le="2"} 0.0',
        'parlance_memory_extract_seconds_bucket{le="5"} 1.0',
        'parlance_memory_search_seconds_bucket{le="0.001"} 1.0',
        "parlance_memory_search_seconds_count 2.0",
    } <= set(page)


async def _nothing(*_: Any, **__: Any) -> None:
    return None
