"""The judge of bench.smoke finds what it looks for, and clients in Node go before it as others."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import uvloop

from bench.fixture import Setup, place, serving
from bench.seed import seed
from bench.smoke import Party, make_crowd
from bench.smoke_check import Ack, Seen, Shown, Stored, Verdict, View, check_seen, read_store
from bench.smoke_js import find_node

CONV = 5
ME = 7
CIDS = {(ME, b"one"): 1, (ME, b"two"): 2}


def row(seq: int, rev: int, text: str) -> Shown:
    return Shown(seq, rev, 0, ME, 0, text, 0, 0)


def rows() -> list[Shown]:
    return [row(seq, seq, f"m{seq}") for seq in (1, 2, 3)]


def stored() -> dict[int, Stored]:
    return {CONV: Stored(rows(), 3, 3, CIDS)}


def seen() -> Seen:
    """What a client saw that missed nothing."""
    messages = {one.seq: one for one in rows()}
    acks = [Ack(CONV, b"one", 1), Ack(CONV, b"two", 2)]
    return Seen(ME, acks, Counter(sent=2), 1, {CONV: View(3, [1, 2, 3], messages)})


def found(one: Seen) -> set[str]:
    verdict = Verdict()
    check_seen("client", one, stored(), verdict)
    return set(verdict.counts)


def test_who_missed_nothing_is_not_blamed() -> None:
    assert found(seen()) == set()
    refused = seen()
    refused.counts.update({"sent": 1, "refused 601": 1})
    assert found(refused) == set()


def test_holes_repeats_disorder_and_stale_rows_are_found() -> None:
    whole = seen().views[CONV]
    hole = {seq: msg for seq, msg in whole.messages.items() if seq != 2}
    stale = {**whole.messages, 2: row(2, 1, "old")}
    cases = {
        "holes": View(3, [1, 3], hole),
        "order": View(3, [1, 3, 2], whole.messages),
        "revisions missed": whole._replace(rev=2),
        "rows differ": whole._replace(messages=stale),
        "not stored": View(3, [1, 2, 3, 4], {**whole.messages, 4: row(4, 4, "x")}),
    }
    for kind, view in cases.items():
        one = seen()
        one.views[CONV] = view
        assert found(one) == {kind}
    twice = seen()
    twice.views[CONV] = whole._replace(seqs=[1, 2, 2, 3])
    assert found(twice) == {"order"}


def test_messages_that_were_lost_or_are_elsewhere_are_found() -> None:
    lost = seen()
    lost.acks[0] = Ack(CONV, b"none", 1)
    assert found(lost) == {"acknowledged but lost"}
    elsewhere = seen()
    elsewhere.acks[0] = Ack(CONV, b"one", 3)
    assert found(elsewhere) == {"acknowledged elsewhere"}
    forgotten = seen()
    forgotten.counts["sent"] = 3
    assert found(forgotten) == {"neither stored nor refused"}


@pytest.mark.skipif(find_node() is None, reason="node is not installed (apt: nodejs)")
def test_clients_of_both_sdks_see_what_is_stored_on_a_network_that_cuts() -> None:
    crowd = make_crowd(10, random.Random(3))

    async def scene(party: Party) -> list[tuple[str, Seen]]:
        try:
            await party.open(2, 2, js=6)
            await party.talk(2.0, 4.0, 10.0)
            assert await party.quiet()
            await party.load_all()
            return await party.seen()
        finally:
            await party.close()

    settings = {"ai": {"demo_words_per_s": 200.0}}
    with place(Setup("sqlite", settings)) as where:
        seeded = seed(where.url, crowd.users, crowd.groups)
        with serving(where, seeded.users[-1]) as server:
            seen = uvloop.run(scene(Party(server, seeded, crowd, 3)))
            server.stop()
            stored, _ = uvloop.run(read_store(where.url, seeded.convs))
    verdict = Verdict()
    for who, one in seen:
        check_seen(who, one, stored, verdict)
        assert not one.counts["out of order"]
        assert not one.counts["answers with holes"]
    assert verdict.counts == {}, verdict.examples
    in_node = [one for who, one in seen if who.startswith("JavaScript")]
    assert len(in_node) == 6
    assert sum(len(one.acks) for one in in_node) > 10
    assert sum(one.connects for one in in_node) > 6, "none of them was cut"
