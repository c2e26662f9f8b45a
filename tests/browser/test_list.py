"""The virtual list in a real browser: few rows in the document, and what is read stays in place."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from tests.browser.conftest import Ground

pytestmark = pytest.mark.asyncio(loop_scope="session")

MAKE = """async (count) => {
  const { VirtualList } = await import("/app/list.js");
  const root = document.getElementById("root");
  root.replaceChildren();
  Object.assign(root.style, { height: "500px", overflowY: "auto", width: "400px" });
  globalThis.item = (id) => ({ id, height: 20 + ((id * 7919) % 280 + 280) % 280 });
  globalThis.range = (from, to) => Array.from({ length: to - from }, (_, i) => item(from + i));
  globalThis.dropped = 0;
  globalThis.asked = [];
  globalThis.root = root;
  globalThis.list = new VirtualList(root, {
    keyOf: (each) => each.id,
    render: (each) => {
      const row = document.createElement("p");
      row.id = `row${each.id}`;
      row.textContent = each.id;
      row.style.height = `${each.height}px`;
      return row;
    },
    onDrop: () => dropped++,
    onStart: () => asked.push("start"),
    onEnd: () => asked.push("end"),
  });
  globalThis.frames2 = () => new Promise((resolve) =>
    requestAnimationFrame(() => requestAnimationFrame(resolve)));
  globalThis.inView = () => {
    const box = root.getBoundingClientRect();
    const rows = [...root.querySelectorAll("p")].map((row) => [row, row.getBoundingClientRect()]);
    return rows.filter(([, r]) => r.bottom > box.top && r.top < box.bottom)
      .map(([row, r]) => [Number(row.textContent), Math.round(r.top - box.top)]);
  };
  if (count) list.setItems(range(0, count));
  await frames2();
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def page(ground: Ground) -> Any:
    """A page with a list of 10,000 rows between 20 and 300 pixels high."""
    await ground.page.evaluate(MAKE, 10_000)
    return ground.page


async def test_it_begins_at_the_end_with_few_rows_in_the_document(page: Any) -> None:
    seen = await page.evaluate(
        "() => [inView().at(-1)[0], list.atEnd, root.querySelectorAll('*').length]"
    )
    assert seen[:2] == [9999, True]
    assert seen[2] < 120


async def test_the_document_stays_small_wherever_one_scrolls(page: Any) -> None:
    seen = await page.evaluate("""async () => {
      let most = 0, emptiest = Infinity;
      for (let step = 0; step <= 30; step++) {
        root.scrollTop = (root.scrollHeight - 500) * ((step * 19) % 31) / 30;
        await frames2();
        most = Math.max(most, root.querySelectorAll("*").length);
        const rows = inView();
        const last = root.querySelector(`#row${rows.at(-1)[0]}`).getBoundingClientRect().bottom;
        // Between two paragraphs are their margins, 32 pixels.
        const covered = rows[0][1] <= 32 && last - root.getBoundingClientRect().top >= 500 - 32;
        emptiest = Math.min(emptiest, covered ? rows.length : 0);
      }
      return [most, emptiest, dropped > 100];
    }""")
    assert seen[0] < 200
    assert seen[1] >= 1
    assert seen[2]


async def test_what_is_read_stays_when_rows_come_above(page: Any) -> None:
    before, after, grown = await page.evaluate("""async () => {
      list.scrollToKey(5000, { margin: 30 });
      await frames2();
      const before = inView(), height = root.scrollHeight;
      list.setItems([...range(-500, 0), ...list.items]);
      const at_once = JSON.stringify(inView()) === JSON.stringify(before);
      await frames2();
      return [before, inView(), at_once && root.scrollHeight > height];
    }""")
    assert [5000, 46] in before  # 30 pixels and the row's own margin
    assert after == before
    assert grown


async def test_rows_that_come_above_the_first_leave_it_in_place(page: Any) -> None:
    before, after = await page.evaluate("""async () => {
      root.scrollTop = 0;
      await frames2();
      const before = inView();
      list.setItems([...range(-50, 0), ...list.items]);
      await frames2();
      return [before, inView()];
    }""")
    assert before[0][0] == 0
    assert after == before


@pytest.mark.parametrize(("height", "step"), [(500, 90), (1500, 1400)])
async def test_scrolling_up_into_the_unknown_does_not_jump(
    page: Any, height: int, step: int
) -> None:
    compared, worst = await page.evaluate(
        """async ([height, step]) => {
      root.style.height = `${height}px`;
      list.scrollToKey(7000);
      await frames2();
      let compared = 0, worst = 0;
      for (let times = 0; times < 20; times++) {
        const before = new Map(inView());
        root.scrollTop -= step;
        await frames2();
        const after = new Map(inView());
        for (const [id, top] of before) {
          if (top + step >= height) continue;
          compared++;
          worst = Math.max(worst, Math.abs((after.get(id) ?? height) - top - step));
        }
      }
      return [compared, worst];
    }""",
        [height, step],
    )
    assert compared >= 10
    assert worst <= 2


async def test_rows_that_grow_or_leave_above_do_not_move_what_is_read(page: Any) -> None:
    before, grown, gone = await page.evaluate("""async () => {
      list.scrollToKey(3000);
      await frames2();
      const before = inView();
      const above = root.querySelector("#row2998");
      above.style.height = "777px";
      await frames2();
      const grown = inView();
      list.setItems(list.items.filter((each) => each.id < 2000 || each.id >= 3000));
      await frames2();
      return [before, grown, inView()];
    }""")
    assert before == grown == gone


async def test_when_the_row_that_is_read_leaves_the_next_ones_stay(page: Any) -> None:
    before, after = await page.evaluate("""async () => {
      list.scrollToKey(3000);
      await frames2();
      const before = inView();
      list.setItems(list.items.filter((each) => each.id !== 3000));
      await frames2();
      return [before, inView()];
    }""")
    assert before[0][0] == 3000
    assert before[1][0] == 3001
    assert [row for row in after if row[0] > 3000] == before[1:]


async def test_who_is_at_the_end_follows_and_who_reads_above_does_not(page: Any) -> None:
    seen = await page.evaluate("""async () => {
      list.setItems([...list.items, item(10000)]);
      await frames2();
      const followed = inView().at(-1)[0];
      root.querySelector("#row10000").style.height = "900px";
      await frames2();
      const stillAtEnd = root.scrollHeight - root.scrollTop - root.clientHeight <= 1;
      root.scrollTop -= 2000;
      await frames2();
      const before = JSON.stringify(inView());
      list.setItems([...list.items, item(10001)]);
      await frames2();
      const stayed = JSON.stringify(inView()) === before;
      list.scrollToEnd();
      await frames2();
      return [followed, stillAtEnd, stayed, list.atEnd, inView().at(-1)[0]];
    }""")
    assert seen == [10000, True, True, True, 10001]


async def test_an_end_that_is_not_the_last_is_not_followed(page: Any) -> None:
    before, after, again = await page.evaluate("""async () => {
      list.follows = false;
      list.scrollToEnd();
      await frames2();
      const before = inView();
      list.setItems(range(0, 10_050));
      await frames2();
      const after = inView();
      list.follows = true;
      list.scrollToEnd();
      list.setItems(range(0, 10_060));
      await frames2();
      return [before, after, inView().at(-1)[0]];
    }""")
    assert before == after
    assert before[-1][0] == 9_999
    assert again == 10_059


async def test_a_jump_near_the_end_does_not_move_when_more_comes(page: Any) -> None:
    before, after = await page.evaluate("""async () => {
      list.scrollToKey(9999);
      await frames2();
      const before = inView();
      list.setItems([...list.items, item(10000), item(10001), item(10002)]);
      await frames2();
      return [before, inView()];
    }""")
    assert before == after


async def test_more_is_asked_for_once_at_each_end(page: Any) -> None:
    seen = await page.evaluate("""async () => {
      const first = [...asked];
      root.scrollTop = 0;
      await frames2();
      root.scrollTop = 40;
      await frames2();
      const then = [...asked];
      list.setItems([...range(-3, 0), ...list.items]);
      await frames2();
      return [first, then, asked];
    }""")
    assert seen == [["end"], ["end", "start"], ["end", "start", "start"]]


async def test_a_width_that_changes_keeps_the_place(page: Any) -> None:
    before, after = await page.evaluate("""async () => {
      list.scrollToKey(4000);
      await frames2();
      const before = inView()[0];
      root.style.height = "300px";
      await frames2();
      const hidden = root.style;
      hidden.display = "none";
      list.setItems([...range(-9, 0), ...list.items]);
      await frames2();
      hidden.display = "";
      await frames2();
      await frames2();
      return [before, inView()[0]];
    }""")
    assert before == after


async def test_a_row_is_rendered_anew_and_focus_is_not_lost_with_it(page: Any) -> None:
    seen = await page.evaluate("""async () => {
      const old = root.querySelector("#row9999");
      list.refresh(9999);
      list.refresh(1);
      const anew = root.querySelector("#row9999");
      anew.tabIndex = 0;
      anew.focus();
      const focused = document.activeElement === anew;
      root.scrollTop = 0;
      await frames2();
      return [old !== anew, focused, document.activeElement === root];
    }""")
    assert seen == [True, True, True]


async def test_few_items_none_and_twice_the_same(ground: Ground) -> None:
    await ground.page.evaluate(MAKE, 0)
    seen = await ground.page.evaluate("""async () => {
      const seen = [inView().length];
      list.setItems(range(0, 2));
      seen.push(inView().length, root.scrollTop);
      try { list.setItems([item(1), item(1)]); } catch (error) { seen.push(error.message); }
      seen.push(inView().length, list.scrollToKey(77));
      list.setItems([]);
      seen.push(inView().length);
      list.setItems(range(0, 3));
      list.destroy();
      seen.push(root.children.length, dropped);
      return seen;
    }""")
    assert seen == [0, 2, 0, "two items have the same key", 2, False, 0, 0, 5]
    assert ground.trouble == []
