"""What a conversation looks like from top to bottom, and which part of it is shown. No server."""

from __future__ import annotations

from typing import Any, Final

import pytest
import pytest_asyncio

from tests.browser.conftest import Ground

pytestmark = pytest.mark.asyncio(loop_scope="session")

ME: Final = 7
OTHER: Final = 8
PERSONA: Final = 9
MINUTE: Final = 60_000
# Times count from noon of a day where the browser is.
RUN: Final = """async ([messages, given]) => {
  const { timeline } = await import("/app/timeline.js");
  const noon = new Date(2026, 4, 5, 12).getTime();
  const held = new Map(messages.map((one) => [one.seq, { ...one, ts: noon + one.ts }]));
  const gone = given.gone ?? [];
  const seqs = [...held.keys()];
  const { rows, wanted } = timeline({
    find: (seq) => (gone.includes(seq) ? null : held.get(seq)),
    span: seqs.length ? { from: Math.min(...seqs), to: Math.max(...seqs) } : null,
    floor: 1, lastSeq: Math.max(0, ...seqs), me: 7, line: 0,
    streams: [], waiting: [], failed: [], ended: [], ...given,
    again: new Map(given.again ?? []),
  });
  const told = rows.map((row) => {
    const what = row.msg?.text ?? row.stream?.sid ?? row.sent?.unsent.text ?? row.failed?.text
      ?? row.ended?.sid ?? "";
    const branch = row.branch ? ` ${row.branch.at + 1}/${row.branch.seqs.length}` : "";
    const quoted = row.quote?.msg === null ? "gone" : row.quote?.msg?.text ?? "?";
    const quote = row.quote ? ` > ${quoted}` : "";
    const first = row.first === false ? "  " : "";
    return `${first}${row.kind} ${what}${branch}${quote}`.trimEnd();
  });
  const keys = rows.map((row) => row.key);
  if (new Set(keys).size !== keys.length) throw new Error(`keys twice: ${keys}`);
  return { told, keys, wanted, own: rows.map((row) => row.own === true) };
}"""


def msg(seq: int, sender: int = OTHER, at_min: float = 0, kind: int = 0, **x: Any) -> Any:
    """Return a message, `at_min` minutes after noon, whose text is its number."""
    when = int(at_min * MINUTE)
    return {"seq": seq, "ts": when, "sender": sender, "kind": kind, "text": f"m{seq}", "x": x}


def answer(seq: int, at_min: float = 0, **x: Any) -> Any:
    return msg(seq, PERSONA, at_min, kind=6, **x)


def stream(sid: int, ask: int = 0) -> Any:
    return {"sid": sid, "persona": PERSONA, "ask": ask}


def ended(sid: int, after: int, seq: int = 0) -> Any:
    return {"sid": sid, "after": after, "seq": seq}


@pytest_asyncio.fixture(loop_scope="session")
async def page(ground: Ground) -> Any:
    return ground.page


async def rows(page: Any, messages: list[Any], **given: Any) -> Any:
    return await page.evaluate(RUN, [messages, given])


async def told(page: Any, messages: list[Any], **given: Any) -> list[str]:
    found: list[str] = (await rows(page, messages, **given))["told"]
    return found


async def test_messages_of_one_sender_within_minutes_stand_together(page: Any) -> None:
    talk = [msg(1), msg(2, at_min=2), msg(3, at_min=9), msg(4, ME, 9), msg(5, at_min=9)]
    found = await rows(page, talk)
    assert found["told"] == [
        *("day", "message m1", "  message m2", "message m3", "message m4", "message m5"),
    ]
    assert found["own"] == [False, False, False, False, True, False]


async def test_each_day_has_a_line_and_begins_anew(page: Any) -> None:
    talk = [msg(1), msg(2, at_min=1), msg(3, at_min=14 * 60), msg(4, at_min=14 * 60)]
    assert await told(page, talk) == [
        *("day", "message m1", "  message m2", "day", "message m3", "  message m4"),
    ]


async def test_what_was_not_read_at_the_opening_has_a_line_above_it(page: Any) -> None:
    talk = [msg(1), msg(2), msg(3, ME), msg(4), msg(5)]
    found = await told(page, talk, line=2)
    assert found == [
        *("day", "message m1", "  message m2", "message m3", "new", "message m4", "  message m5"),
    ]


async def test_what_is_not_held_on_a_side_is_said_there(page: Any) -> None:
    found = await rows(page, [msg(40), msg(41)], lastSeq=50, streams=[stream(900)])
    assert found["told"] == ["older", "day", "message m40", "  message m41", "newer"]
    assert (found["keys"][0], found["keys"][-1]) == ("older:40", "newer:41")
    assert (await told(page, [msg(1)]))[0] == "day"
    assert (await told(page, [msg(4)], floor=4))[0] == "day"


async def test_siblings_are_shown_in_the_place_of_the_first(page: Any) -> None:
    alts = [2, 4, 5]
    talk = [
        msg(1, ME),
        answer(2, sid=200, alts=alts, off=True),
        msg(3, ME),
        answer(4, 20, sid=400, alts=alts),
        answer(5, 21, sid=500, alts=alts, off=True),
    ]
    found = await rows(page, talk)
    assert found["told"] == ["day", "message m1", "message m4 2/3", "message m3"]
    # The place keeps its key, whichever of the answers is chosen.
    assert found["keys"][2] == "s:200"


async def test_a_recalled_sibling_does_not_count(page: Any) -> None:
    alts = [2, 3, 4]
    talk = [
        msg(1, ME),
        answer(2, recalled=ME),
        answer(3, alts=alts, off=True),
        answer(4, alts=alts),
    ]
    assert await told(page, talk) == ["day", "message m1", "message m4 2/2"]
    # The chosen one was taken back: there is none, so that another can be picked.
    talk = [msg(1, ME), answer(2, alts=[2, 3], off=True), answer(3, recalled=ME)]
    assert await told(page, talk) == ["day", "message m1", "message m2"]


async def test_a_chosen_sibling_that_is_not_held_is_wanted(page: Any) -> None:
    talk = [msg(1, ME), answer(2, alts=[2, 90], off=True), msg(3, ME)]
    found = await rows(page, talk, lastSeq=95)
    assert found["told"] == ["day", "message m1", "message m2 1/2", "message m3", "newer"]
    assert found["wanted"] == [90]


async def test_siblings_whose_first_is_further_up_are_not_shown_here(page: Any) -> None:
    talk = [msg(50, ME), answer(51, alts=[20, 51]), msg(52, ME)]
    assert await told(page, talk) == ["older", "day", "message m50", "  message m52"]


async def test_a_running_answer_stands_at_the_end_and_keeps_its_key(page: Any) -> None:
    found = await rows(page, [msg(1, ME)], streams=[stream(300, ask=1)])
    assert found["told"] == ["day", "message m1", "stream 300"]
    later = await rows(page, [msg(1, ME), answer(2, sid=300)])
    assert later["keys"] == found["keys"]


async def test_an_answer_made_again_runs_in_the_place_of_its_sibling(page: Any) -> None:
    talk = [msg(1, ME), answer(2, sid=200), msg(3, ME), answer(4, sid=400)]
    again = {"streams": [stream(500, ask=2)], "again": [[500, 2]]}
    running = await rows(page, talk, **again)
    assert running["told"] == [
        *("day", "message m1", "stream 500 2/2", "message m3", "message m4"),
    ]
    # Stored, and not yet told that it has a sibling.
    stored = await rows(page, [*talk, answer(5, sid=500, ask=2)], again=[[500, 2]])
    assert stored["told"] == ["day", "message m1", "message m5 2/2", "message m3", "message m4"]
    # As it is told at last.
    talk[1] = answer(2, sid=200, alts=[2, 5], off=True)
    whole = await rows(page, [*talk, answer(5, sid=500, ask=2, alts=[2, 5])])
    assert whole["told"] == stored["told"]
    assert running["keys"] == stored["keys"] == whole["keys"]


async def test_a_second_new_answer_counts_from_those_that_exist(page: Any) -> None:
    talk = [msg(1, ME), answer(2, alts=[2, 3], off=True), answer(3, alts=[2, 3])]
    found = await told(page, talk, streams=[stream(500, ask=3)], again=[[500, 3]])
    assert found == ["day", "message m1", "stream 500 3/3"]


async def test_a_stored_answer_is_not_shown_as_running_as_well(page: Any) -> None:
    found = await told(page, [msg(1, ME), answer(2, sid=300)], streams=[stream(300)])
    assert found == ["day", "message m1", "message m2"]


async def test_own_messages_wait_at_the_end_after_refused_ones(page: Any) -> None:
    def sent(number: int, **x: Any) -> Any:
        return {"unsent": {"cid": [number], "text": f"w{number}", "x": x}}

    failed = [{"cid": [9], "text": "refused", "x": None}]
    found = await told(
        page,
        [msg(1), msg(2, ME)],
        streams=[stream(300)],
        waiting=[sent(1), sent(2, quote=1)],
        failed=failed,
    )
    assert found == [
        "day",
        "message m1",
        "message m2",
        "stream 300",
        "failed refused",
        "waiting w1",
        "  waiting w2 > m1",
    ]


async def test_an_answer_that_came_to_nothing_stays_where_it_was_asked_for(page: Any) -> None:
    talk = [msg(1, ME), msg(2, ME), answer(3)]
    found = await told(page, talk, ended=[ended(600, after=1), ended(601, after=0, seq=3)])
    assert found == ["day", "message m1", "ended 600", "message m2", "message m3"]
    beside = await told(page, talk, ended=[ended(700, after=3)], again=[[700, 1]])
    assert beside == ["day", "message m1", "ended 700", "message m2", "message m3"]
    assert await told(page, [], ended=[ended(800, after=0)]) == ["ended 800"]


async def test_a_quote_shows_what_it_answers_or_asks_for_it(page: Any) -> None:
    talk = [msg(20), msg(21, quote=20), msg(22, quote=3), msg(23, quote=4)]
    found = await rows(page, talk, gone=[4])
    assert found["told"][2:] == [
        *("message m20", "message m21 > m20", "message m22 > ?", "message m23 > gone"),
    ]
    assert found["wanted"] == [3]


async def test_a_message_of_the_system_stands_alone(page: Any) -> None:
    talk = [msg(1), msg(2, 0, kind=5), msg(3)]
    assert await told(page, talk) == ["day", "message m1", "message m2", "message m3"]


async def test_nothing_at_all_has_no_rows(page: Any) -> None:
    assert await told(page, []) == []


async def test_rows_that_look_the_same_are_the_same(page: Any) -> None:
    found = await page.evaluate("""async () => {
      const { sameRow } = await import("/app/timeline.js");
      const msg = { seq: 2 };
      const row = (more) => ({ kind: "message", msg, first: true, quote: null,
        branch: { at: 0, seqs: [1, 2] }, ...more });
      const quoting = (of) => row({ quote: { seq: 1, msg: of } });
      return [
        sameRow(row(), row()),
        sameRow(row(), row({ msg: { seq: 2 } })),
        sameRow(row(), row({ branch: { at: 1, seqs: [1, 2] } })),
        sameRow(row(), row({ branch: null })),
        sameRow(quoting(msg), quoting(msg)),
        sameRow(quoting(msg), quoting(undefined)),
        sameRow(quoting(null), quoting(undefined)),
      ];
    }""")
    assert found == [True, False, False, False, True, False, False]


async def test_the_steps_of_tools_are_put_together_by_call(page: Any) -> None:
    found = await page.evaluate("""async () => {
      const { toolSteps } = await import("/app/stream_parts.js");
      const text = "running search\\nconfirm write\\ndone search\\nrunning write\\n"
        + "failed write timeout\\nrunning search\\nnonsense\\nrunning se";
      return toolSteps(text).map(({ name, state }) => `${name} ${state}`);
    }""")
    assert found == ["search done", "write failed", "search running"]


SPANS: Final = """async ([name, ...given]) => {
  const spans = await import("/app/span.js");
  const has = (seqs) => (seq) => seqs.includes(seq);
  if (name === "grown") return spans.grown(given[0], has(given[1]), given[2], given[3]);
  return spans[name](...given);
}"""


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("spanAround", [[1, 2, 5, 6, 7, 9], 6], {"from": 5, "to": 7}),
        ("spanAround", [[1, 2, 5], 4], None),
        ("spanAround", [list(range(1, 40)), 20, 10], {"from": 15, "to": 24}),
        ("spanAround", [list(range(1, 40)), 38, 10], {"from": 33, "to": 39}),
        ("newestSpan", [[1, 2, 5, 6], 6], {"from": 5, "to": 6}),
        ("newestSpan", [[1, 2, 5, 6], 7], None),
        ("newestSpan", [list(range(1, 40)), 39, 10], {"from": 30, "to": 39}),
        ("newestSpan", [[], 0], None),
        ("grown", [{"from": 4, "to": 5}, [1, 3, 4, 5, 6, 8], "end"], {"from": 3, "to": 6}),
        ("grown", [{"from": 4, "to": 5}, list(range(1, 9)), "end", 4], {"from": 1, "to": 4}),
        ("grown", [{"from": 4, "to": 5}, list(range(1, 9)), "start", 4], {"from": 5, "to": 8}),
        ("nearest", [[1, 9, 30], 21], 30),
        ("nearest", [[], 21], 0),
    ],
)
async def test_the_part_that_is_shown_has_no_hole_and_a_bound(
    page: Any, name: str, given: list[Any], expected: Any
) -> None:
    assert await page.evaluate(SPANS, [name, *given]) == expected
