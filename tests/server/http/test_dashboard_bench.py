"""The bench of the dashboard: its viewers are real ones, and its comparison is sound."""

from __future__ import annotations

import asyncio

import pytest

from bench.dashboard import Viewers, compare
from server.http.dashboard import DASHBOARD
from tests.server.http.conftest import Site
from tests.server.http.openai_site import new_key
from tests.support.eventually import eventually


async def test_its_viewers_get_every_frame_and_leave(site: Site) -> None:
    assert site.app._http is not None
    app = site.app._http._runner.app
    assert app is not None
    board = app[DASHBOARD]
    board.sampler.close()
    board.sampler.look()
    viewers = Viewers(site.port, await new_key(site, "dashboard"))
    try:
        await asyncio.to_thread(viewers.open, 3)
        assert (len(board.viewers), viewers.frames) == (3, 3)
        board.sampler.look()
        await eventually(lambda: viewers.frames == 6)
        await asyncio.to_thread(viewers.close)
        await eventually(lambda: not board.viewers)
    finally:
        await asyncio.to_thread(viewers.stop)


def test_medians_are_compared_and_neighbours_tell_the_spread() -> None:
    change = compare([10.0, 20.0, 30.0, 40.0], [11.0, 22.0, 33.0, 4000.0])
    assert (change.before_ms, change.after_ms) == (25.0, 27.5)
    assert change.ratio == pytest.approx(1.1)
    assert change.ratios == pytest.approx((1.1, 1.1, 1.1, 100.0))
    assert change.quartiles[0] == pytest.approx(1.1)
    assert change.noise == pytest.approx(15.0 / 25.0)


def test_a_quiet_machine_has_no_noise_and_one_pair_is_enough() -> None:
    assert compare([5.0, 5.0, 5.0], [5.0, 5.0, 5.0]).noise == 0
    assert compare([5.0], [6.0]).quartiles == pytest.approx((1.2, 1.2))
