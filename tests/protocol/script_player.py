"""A client in miniature that plays the scripts: the rules of docs/protocol.md §4, §5, §8, no I/O.

It shows that the scripts can be met and agree with each other; the real clients play them too.
"""

from collections import deque
from typing import Any
from zlib import crc32

Json = dict[str, Any]
MAX_HELD = 64
HOLD_MS = 500


class ScriptPlayer:
    """One client: feeds with their revisions, rows, held items, running streams, an outbox."""

    def __init__(self, me: int) -> None:
        self.me = me
        self.now_ms = 0
        self.feeds: dict[int, int] = {}
        self.rows: dict[int, dict[int, Json]] = {}
        self.streams: dict[int, dict[int, bytes]] = {}
        self.outbox: dict[str, Json] = {}
        self.out: deque[Json] = deque()
        self._held: dict[int, dict[int, Json]] = {}
        self._timers: dict[int, int] = {}
        self._requests: dict[int, Json] = {}
        self._rid = 0
        self._epoch = 0
        self._since = 0
        self._syncing = False

    def step(self, step: Json, rids: dict[int, int]) -> None:
        """Take one step; `rids` maps the script's request ids to ours."""
        match step:
            case {"in": frame}:
                rid = frame.get("rid")
                self._receive({**frame, "rid": rids[rid]} if rid else frame)
            case {"out": frame}:
                sent = self.out.popleft()
                assert_holds(sent, {key: value for key, value in frame.items() if key != "rid"})
                if "rid" in frame:
                    rids[frame["rid"]] = sent["rid"]
            case {"wait_ms": ms}:
                self._pass_time(ms)
            case {"say": message}:
                self.outbox[message["cid"]] = message
                self._send_outbox()
            case {"page": page}:
                self._ask("history", **page, back=True, limit=50)
            case {"cut": True}:
                self._reconnect()
            case _:
                raise AssertionError(f"no such step: {step}")

    # connection

    def _ask(self, name: str, **fields: Any) -> None:
        self._rid += 1
        self._requests[self._rid] = {"t": name, "rid": self._rid, **fields}
        self.out.append(self._requests[self._rid])

    def _sync_body(self) -> Json:
        heads = [{"conv": feed, "rev": rev} for feed, rev in self.feeds.items() if feed]
        streams = [
            {"sid": sid, "part": part, "off": len(text)}
            for sid, parts in self.streams.items()
            for part, text in parts.items()
        ]
        me_rev = self.feeds.get(0, 0)
        return {"me_rev": me_rev, "since": self._since, "heads": heads, "streams": streams}

    def _sync(self) -> None:
        if not self._syncing:
            self._syncing = True
            self._timers.clear()
            self._ask("sync", q=self._sync_body())

    def _reconnect(self) -> None:
        self._requests.clear()
        self._held.clear()
        self._timers.clear()
        self._syncing = True
        self.out.append({"t": "hello", "sync": self._sync_body()})

    def _send_outbox(self) -> None:
        for message in self.outbox.values():
            self._ask("send", **message)
            return

    def _pass_time(self, ms: int) -> None:
        self.now_ms += ms
        if any(due <= self.now_ms for due in self._timers.values()):
            self._sync()

    def _receive(self, frame: Json) -> None:
        handler = getattr(self, "_on_" + frame["t"], None)
        if handler is not None:
            handler(frame)
        else:
            feed = frame["feed"] if frame["t"] == "skip" else frame.get("conv", 0)
            self._item(feed, frame)

    # feeds

    def _item(self, feed: int, item: Json) -> None:
        rev, known = item["rev"], self.feeds.get(feed)
        if known is None:
            row = item.get("row")
            self.feeds[feed] = known = 0 if row is None else rev - 1
            if row is None:
                self._held.setdefault(feed, {})[rev] = item
                self._sync()
                return
        if rev <= known:
            return
        self._held.setdefault(feed, {})[rev] = item
        self._drain(feed)
        if not self._held[feed] or self._syncing:
            return
        if len(self._held[feed]) > MAX_HELD:
            self._sync()
        else:
            self._timers.setdefault(feed, self.now_ms + HOLD_MS)

    def _drain(self, feed: int) -> None:
        held = self._held.setdefault(feed, {})
        while (item := held.pop(self.feeds[feed] + 1, None)) is not None:
            self.feeds[feed] += 1
            self._apply(feed, item)
        for rev in [rev for rev in held if rev <= self.feeds[feed]]:
            del held[rev]
        if not held:
            self._timers.pop(feed, None)

    def _apply(self, feed: int, item: Json) -> None:
        if item["t"] == "msg":
            self._store(feed, item)
        elif item["t"] == "my_conv" and "row" in item:
            self.feeds.setdefault(item["row"]["id"], item["row"]["rev"])
        elif item["t"] == "s_end":
            self._finish(item)

    def _store(self, conv: int, row: Json) -> None:
        rows = self.rows.setdefault(conv, {})
        if row["rev"] > rows.get(row["seq"], {"rev": 0})["rev"]:
            rows[row["seq"]] = row
        sid = row.get("x", {}).get("sid")
        self.streams.pop(sid, None)

    # replies

    def _on_sent(self, frame: Json) -> None:
        request = self._requests.pop(frame["rid"])
        message = self.outbox.pop(request["cid"])
        if not frame["dup"]:
            row = {**frame, "t": "msg", "sender": self.me, "kind": 0, "text": message["text"]}
            self._item(frame["conv"], row)
        self._send_outbox()

    def _on_err(self, frame: Json) -> None:
        request = self._requests.pop(frame["rid"])
        if not 400 <= frame["code"] < 600:
            self.outbox.pop(request["cid"])
        self._send_outbox()

    def _on_page(self, frame: Json) -> None:
        for row in frame["msgs"]:
            self._store(frame["conv"], row)

    def _on_resync(self, frame: Json) -> None:
        self._sync()

    def _on_synced(self, frame: Json) -> None:
        self._syncing = False
        if self._epoch not in (0, frame["epoch"]):
            self._forget(frame["epoch"])
            return
        self._epoch = frame["epoch"]
        self.feeds[0] = frame["me_rev"]
        for delta in frame["convs"]:
            if delta["gap"]:
                self.rows.pop(delta["conv"], None)
            for row in delta["msgs"]:
                self._store(delta["conv"], row)
            self.feeds[delta["conv"]] = delta["rev"]
        if frame["more"]:
            self._sync()
            return
        self._since = frame["now"]
        for feed in self.feeds:
            self._drain(feed)
        self._follow_streams(frame["streams"])
        if frame["rid"] == 0:
            self._send_outbox()

    def _forget(self, epoch: int) -> None:
        self._epoch, self._since = epoch, 0
        self.feeds.clear()
        self.rows.clear()
        self._held.clear()
        self._sync()

    # streams

    def _follow_streams(self, running: list[Json]) -> None:
        for position in running:
            self.streams.setdefault(position["sid"], {position["part"]: b""})

    def _on_s_start(self, frame: Json) -> None:
        self.streams[frame["sid"]] = {0: b""}

    def _on_s_delta(self, frame: Json) -> None:
        parts = self.streams[frame["sid"]]
        have = parts.setdefault(frame["part"], b"")
        skip = len(have) - frame["off"]
        if skip < 0:
            self._ask("open", sid=frame["sid"], part=frame["part"], off=len(have))
        else:
            parts[frame["part"]] = have + frame["text"].encode()[skip:]

    def _on_opened(self, frame: Json) -> None:
        self._on_s_delta(frame)

    def _on_s_end(self, frame: Json) -> None:
        if frame["rev"]:
            self._item(frame["conv"], frame)
        else:
            self.streams.pop(frame["sid"], None)

    def _finish(self, end: Json) -> None:
        text = self.streams.pop(end["sid"], {}).get(0, b"")
        if len(text) == end["total"] and crc32(text) == end["crc"]:
            row = {key: end[key] for key in ("seq", "rev", "ts")}
            self._store(end["conv"], {**row, "kind": 6, "text": text.decode()})
        else:
            self._ask("get", conv=end["conv"], seqs=[end["seq"]])


def assert_holds(actual: Any, wanted: Any) -> None:
    """Check that everything named in wanted stands in actual, at any depth."""
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            assert key in actual, f"{key} is missing in {actual}"
            assert_holds(actual[key], value)
    elif isinstance(wanted, list):
        assert len(actual) == len(wanted), f"{actual} is not {wanted}"
        for one, other in zip(actual, wanted, strict=True):
            assert_holds(one, other)
    else:
        assert actual == wanted
