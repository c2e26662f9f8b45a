"""The client rule of the feeds, case by case."""

from __future__ import annotations

from typing import Any

from clients import events as ev
from clients.feeds import HELD_MAX, HOLD_S, Feeds
from protocol import envelopes as e
from protocol.rows import Conv, ConvDelta, Member, Msg, MyConv


def synced(**changes: Any) -> e.Synced:
    frame = e.Synced(0, 1, 0, [], [], [], False, 1000)
    for name, value in changes.items():
        setattr(frame, name, value)
    return frame


def push(rev: int, seq: int | None = None, text: str = "") -> e.MsgPush:
    return e.MsgPush(5, rev, seq or rev, 0, 2, 0, text or f"r{rev}")


def msg(seq: int, rev: int, text: str = "") -> Msg:
    return Msg(seq, rev, 0, 2, 0, text or f"r{rev}")


def delta(rev: int, msgs: list[Msg], gap: bool = False) -> ConvDelta:
    return ConvDelta(5, rev, gap, msgs, [], [])


def known_to(rev: int) -> Feeds:
    """Feeds that know conversation 5 up to rev, with one message."""
    feeds = Feeds()
    feeds.begin_sync()
    feeds.finish_sync(synced(convs=[delta(rev, [msg(1, rev)])]), 0.0)
    return feeds


def texts(feeds: Feeds) -> list[str]:
    view = feeds.convs[5]
    return [view.messages[seq].text for seq in view.seqs]


def test_next_item_is_applied_seen_ones_are_dropped() -> None:
    feeds = known_to(10)
    assert [type(event) for event in feeds.push(push(11, 2), 0.0)] == [ev.MessageAdded]
    assert feeds.push(push(11, 2, "again"), 0.0) == []
    assert feeds.push(push(3, 1, "old"), 0.0) == []
    assert texts(feeds) == ["r10", "r11"]


def test_early_item_waits_half_a_second_for_the_one_before_it() -> None:
    feeds = known_to(10)
    assert feeds.push(push(12, 3), 1.0) == []
    assert feeds.due() == 1.0 + HOLD_S
    assert len(feeds.push(push(11, 2), 1.1)) == 2
    assert feeds.due() is None
    assert texts(feeds) == ["r10", "r11", "r12"]


def test_gap_that_stays_is_closed_by_a_sync_from_the_known_head() -> None:
    feeds = known_to(10)
    feeds.push(push(12, 3), 1.0)
    sync = feeds.begin_sync()
    assert [(head.conv, head.rev) for head in sync.heads] == [(5, 10)]
    assert feeds.due() is None  # the answer is on its way
    feeds.finish_sync(synced(convs=[delta(12, [msg(2, 11), msg(3, 12)])]), 2.0)
    assert (feeds.known(5), feeds.held, feeds.due()) == (12, 0, None)


def test_too_many_early_items_ask_for_a_sync_at_once() -> None:
    feeds = known_to(10)
    for rev in range(12, 12 + HELD_MAX):
        feeds.push(push(rev), 1.0)
    assert feeds.due() == 1.0 + HOLD_S
    feeds.push(push(12 + HELD_MAX), 1.2)
    assert feeds.due() == 1.2
    assert feeds.held == HELD_MAX


def test_skip_only_advances() -> None:
    feeds = known_to(10)
    assert feeds.push(e.Skip(5, 11), 0.0) == []
    assert feeds.known(5) == 11


def test_newer_row_read_ahead_is_not_undone_by_an_older_push() -> None:
    feeds = known_to(10)
    feeds.add_messages(5, [msg(1, 12, "newest")])
    feeds.push(push(11, 1, "older"), 0.0)
    assert texts(feeds) == ["newest"]
    assert feeds.known(5) == 11


def test_my_conv_with_a_row_starts_an_unknown_feed_there() -> None:
    feeds = known_to(10)
    early = e.MsgPush(6, 4, 2, 0, 2, 0, "early")
    feeds.push(early, 0.0)
    assert feeds.due() == 0.0
    row = Conv(id=6, title="new", rev=3, last_seq=1)
    feeds.push(e.MyConvPush(1, MyConv(conv=6, role=1), row), 0.1)
    assert feeds.known(6) == 4
    assert feeds.convs[6].messages[2].text == "early"
    assert feeds.due() is None


def test_other_unknown_feed_starts_with_a_sync() -> None:
    feeds = known_to(10)
    feeds.push(e.MsgPush(6, 9, 4, 0, 2, 0, "who is this"), 3.0)
    due = feeds.due()
    assert due is not None
    assert due <= 3.0
    assert (6, 0) in [(head.conv, head.rev) for head in feeds.begin_sync().heads]


def test_item_of_a_feed_that_the_server_does_not_answer_for_is_let_go() -> None:
    feeds = known_to(10)
    feeds.push(e.MsgPush(6, 9, 4, 0, 2, 0, "not yours any more"), 0.0)
    feeds.begin_sync()
    feeds.finish_sync(synced(), 1.0)
    assert (feeds.held, feeds.due(), feeds.known(6)) == (0, None, -1)


def test_gap_answer_drops_the_messages_held_and_says_so() -> None:
    feeds = known_to(10)
    feeds.begin_sync()
    events = feeds.finish_sync(synced(convs=[delta(500, [msg(90, 499), msg(91, 500)], True)]), 0.0)
    assert isinstance(events[0], ev.ConvReset)
    assert feeds.convs[5].seqs == [90, 91]


def test_answer_older_than_what_came_meanwhile_undoes_nothing() -> None:
    feeds = known_to(10)
    feeds.begin_sync()
    feeds.push(push(11, 2), 0.0)
    feeds.push(push(12, 3), 0.0)
    feeds.finish_sync(synced(convs=[delta(11, [msg(2, 11)], True)]), 0.0)
    assert feeds.known(5) == 12
    assert texts(feeds) == ["r10", "r11", "r12"]


def test_another_epoch_forgets_everything_and_asks_from_nothing() -> None:
    feeds = known_to(10)
    feeds.begin_sync()
    assert feeds.finish_sync(synced(epoch=2), 0.0) == [ev.Forgotten()]
    assert feeds.due() == 0.0
    sync = feeds.begin_sync()
    assert (sync.me_rev, sync.since, sync.heads) == (0, 0, [])


def test_own_feed_that_went_back_means_a_restored_store() -> None:
    feeds = Feeds()
    feeds.begin_sync()
    feeds.finish_sync(synced(me_rev=9), 0.0)
    feeds.begin_sync()
    assert feeds.finish_sync(synced(me_rev=4), 0.0) == [ev.Forgotten()]


def test_conversation_that_went_back_is_taken_as_it_is_now() -> None:
    feeds = known_to(10)
    feeds.begin_sync()
    feeds.finish_sync(synced(convs=[delta(4, [msg(1, 4, "restored")], True)]), 0.0)
    assert feeds.known(5) == 4
    assert texts(feeds) == ["restored"]


def test_parts_of_an_answer_are_asked_for_until_it_is_complete() -> None:
    feeds = Feeds()
    feeds.begin_sync()
    feeds.finish_sync(synced(convs=[delta(3, [msg(1, 3)])], more=True), 0.0)
    assert feeds.due() == 0.0
    assert feeds.begin_sync().since == 1  # the rest of the first visit, not only what is listed
    feeds.finish_sync(synced(now=77), 0.0)
    assert feeds.due() is None
    assert feeds.begin_sync().since == 77


def test_leaving_ends_the_feed_and_coming_back_starts_it_anew() -> None:
    feeds = known_to(10)
    gone = MyConv(conv=5, role=0, left=True)
    assert feeds.push(e.MyConvPush(1, gone), 0.0) == [ev.ConvGone(5)]
    assert feeds.known(5) == -1
    back = MyConv(conv=5, role=1, left=False)
    feeds.push(e.MyConvPush(2, back, Conv(id=5, rev=20, last_seq=7)), 0.0)
    assert feeds.known(5) == 20
    assert feeds.convs[5].seqs == []
    assert feeds.convs[5].begun_seq == 7


def test_members_of_an_earlier_stay_are_not_taken_for_present() -> None:
    """Somebody who left while the user was away stayed in the list for ever."""
    feeds = known_to(10)
    feeds.push(e.MemberPush(5, 11, Member(user=3, role=1)), 0.0)
    feeds.push(e.MyConvPush(1, MyConv(conv=5, role=0, left=True)), 0.0)
    back = MyConv(conv=5, role=1, left=False)
    feeds.push(e.MyConvPush(2, back, Conv(id=5, rev=20, last_seq=7)), 0.0)
    assert feeds.convs[5].present() == []
    assert not feeds.convs[5].members_whole


def test_members_come_and_go_by_the_newest_revision() -> None:
    feeds = known_to(10)
    feeds.push(e.MemberPush(5, 11, Member(user=3, role=1)), 0.0)
    feeds.push(e.MemberPush(5, 12, Member(user=3, role=0)), 0.0)
    assert feeds.convs[5].present() == []


def test_own_messages_count_as_read() -> None:
    feeds = known_to(10)
    feeds.user = 2
    feeds.push(push(11, 2), 0.0)
    feeds.push(e.MsgPush(5, 12, 3, 0, 3, 0, "from another"), 0.0)
    assert (feeds.convs[5].read, feeds.convs[5].unread) == (2, 1)
    feeds.push(push(13, 4), 0.0)
    assert (feeds.convs[5].read, feeds.convs[5].unread) == (4, 0)


def test_what_is_not_set_any_more_in_an_own_view_is_taken_out_of_it() -> None:
    feeds = Feeds()

    def tell(rev: int, **my: Any) -> None:
        feeds.push(e.MyConvPush(rev, MyConv(conv=1, **my)), 0.0)

    tell(1, role=1, pinned=True, mute_until=9, remark="x")
    tell(2, role=1, read=3)
    view = feeds.convs[1]
    assert view.my == MyConv(conv=1, role=1, read=3)
    # A list read apart from the feed may be older than what the feed told.
    feeds.add_list(e.ConvPage(0, [], [MyConv(conv=1, role=1, pinned=True)], ""), 0.0)
    assert view.my.pinned is None
    tell(3, role=0, left=True)
    assert view.left
    tell(4, role=1)
    assert not view.left


def test_trimmed_messages_come_back_with_their_history() -> None:
    feeds = known_to(10)
    for rev in (11, 12):
        feeds.push(push(rev, rev - 9), 0.0)
    feeds.trim(5, 2)
    feeds.trim(6, 2)  # of an unknown conversation: nothing
    assert feeds.convs[5].seqs == [2, 3]
    assert feeds.convs[5].whole_from() == 2
    assert feeds.add_messages(5, [msg(1, 10)]) == [ev.MessageAdded(5, msg(1, 10))]
    assert texts(feeds) == ["r10", "r11", "r12"]
