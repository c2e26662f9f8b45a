"""What the page follows: the union of what its parts show, as the server is told of it."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.browser.conftest import Ground

pytestmark = pytest.mark.asyncio(loop_scope="session")

WATCHED: Final = """async (steps) => {
  const { ClientError } = await import("/sdk/client.js");
  const { Model } = await import("/app/model.js");
  const asked = [];
  const failures = { refused: () => new ClientError("no"), broken: () => new TypeError("broken") };
  const client = Object.assign(new EventTarget(), {
    link: "offline", unsent: [], feeds: { profile: null, convs: new Map() },
    async watch(convs, users) {
      asked.push([convs, users]);
      if (client.failure) throw failures[client.failure]();
    },
  });
  const model = new Model(client, { me: 1 });
  const thrown = [];
  for (const { failure = "", follow } of steps) {
    client.failure = failure;
    await Promise.all(follow.map((part) => model.follow(...part)))
      .catch((error) => thrown.push(error.name));
  }
  model.close();
  return { asked, thrown };
}"""


async def watched(ground: Ground, *steps: dict[str, Any]) -> Any:
    """Let parts of the page follow something; return what was asked for, and what was thrown."""
    return await ground.page.evaluate(WATCHED, list(steps))


async def test_what_several_parts_show_is_asked_for_once(ground: Ground) -> None:
    seen = await watched(
        ground,
        {"follow": [["list", [5, 6], [1, 2]], ["head", [6, 7], [3]]]},
        {"follow": [["head", [7], [3]], ["panel", [6], [2]]]},
        {"follow": [["list", [], []]]},
    )
    assert seen["asked"] == [[[5, 6, 7], [2, 3]], [[7, 6], [3, 2]]]
    assert seen["thrown"] == []


async def test_a_refusal_is_no_failure_and_the_same_is_asked_again(ground: Ground) -> None:
    seen = await watched(
        ground,
        {"failure": "refused", "follow": [["head", [5], []]]},
        {"follow": [["head", [5], []]]},
    )
    assert seen == {"asked": [[[5], []], [[5], []]], "thrown": []}


async def test_what_is_no_refusal_is_thrown(ground: Ground) -> None:
    seen = await watched(ground, {"failure": "broken", "follow": [["head", [5], []]]})
    assert seen["thrown"] == ["TypeError"]
