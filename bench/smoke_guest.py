"""A guest of bench.smoke whose client is of the Python SDK."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import clients.events as ev
from bench.smoke_check import Ack, Seen, View, shown
from clients.client import Client
from clients.errors import ServerError
from clients.outbox import Outgoing
from clients.timing import Timing
from protocol.codes import StreamPart

TIMING: Final = Timing(backoff_s=0.3, backoff_max_s=3.0, first_retry_s=0.5)
SAYINGS: Final = ("hello", "how are you?", "今天怎么样？", "what do you think about tea", "🙂 ok")


@dataclass
class Guest:
    """One client, and what it saw and did."""

    client: Client
    user: int
    convs: list[int]
    rng: random.Random
    acks: list[Ack] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    newest: dict[int, int] = field(default_factory=dict)
    streamed: dict[tuple[int, int], int] = field(default_factory=dict)
    loading_history: bool = False

    async def watch(self) -> None:
        """Check the order in which messages appear and answers grow; count what happens."""
        with self.client.events() as events:
            async for event in events:
                if isinstance(event, ev.MessageAdded):
                    self._note(event)
                elif isinstance(event, ev.ConvReset):
                    self.newest.pop(event.conv, None)
                    self.counts["resets"] += 1
                elif isinstance(event, ev.StreamText):
                    self._follow(event)
                elif isinstance(event, ev.StreamEnded):
                    self.counts["answers seen"] += 1
                    for part in StreamPart:
                        self.streamed.pop((event.sid, part), None)
                elif isinstance(event, ev.Lagged):
                    self.counts["lagged"] += 1

    def _note(self, event: ev.MessageAdded) -> None:
        self.counts["messages seen"] += 1
        seq = event.msg.seq
        if not self.loading_history and seq <= self.newest.get(event.conv, 0):
            self.counts["out of order"] += 1
        self.newest[event.conv] = max(seq, self.newest.get(event.conv, 0))

    def _follow(self, event: ev.StreamText) -> None:
        key = (event.sid, event.part)
        if event.off != self.streamed.get(key, 0):
            self.counts["answers with holes"] += 1
        self.streamed[key] = event.off + len(event.text.encode())

    async def talk(self, until_s: float, rate: float) -> None:
        """Send, edit and take back until the time is over."""
        await asyncio.sleep(self.rng.random() / rate)
        while time.monotonic() < until_s:
            choice = self.rng.random()
            if choice < 0.85 or not self.acks:
                self._post()
            else:
                await self._change(recall=choice > 0.95)
            await asyncio.sleep(self.rng.expovariate(rate))

    def _post(self) -> None:
        conv = self.rng.choice(self.convs)
        text = f"{self.rng.choice(SAYINGS)} #{self.rng.getrandbits(32):08x}"
        outgoing = self.client.post(conv, text)
        outgoing.acknowledged.add_done_callback(lambda _: self._settled(outgoing))
        self.counts["sent"] += 1

    def _settled(self, outgoing: Outgoing) -> None:
        future = outgoing.acknowledged
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            sent = future.result()
            self.acks.append(Ack(sent.conv, outgoing.unsent.cid, sent.seq))
            self.counts["repeats recognised"] += sent.dup
        elif isinstance(error, ServerError):
            self.counts[f"refused {error.code}"] += 1

    async def _change(self, recall: bool) -> None:
        ack = self.rng.choice(self.acks)
        try:
            if recall:
                await self.client.recall(ack.conv, ack.seq)
            else:
                await self.client.edit(ack.conv, ack.seq, f"edited {self.rng.getrandbits(32):x}")
            self.counts["recalls" if recall else "edits"] += 1
        except ServerError as error:
            self.counts[f"change refused {error.code}"] += 1

    def state(self) -> dict[int, int] | None:
        """Return the revision known of each conversation, None while something is under way."""
        client = self.client
        if client.unsent or client.feeds.syncing or client.link is not ev.Link.ONLINE:
            return None
        return {conv: client.feeds.known(conv) for conv in self.convs}

    async def load_all(self) -> None:
        """Page back to the first message of every conversation."""
        self.loading_history = True
        for conv in self.convs:
            while True:
                view = self.client.feeds.convs.get(conv)
                anchor = view.whole_from() if view else 0
                if anchor == 1:
                    break
                page = await self.client.history(conv, anchor, limit=100)
                if not page.more:
                    break

    def seen(self) -> Seen:
        """What it saw and did."""
        views = {}
        for conv in self.convs:
            view = self.client.feeds.convs.get(conv)
            seqs, messages = (view.seqs, view.messages) if view is not None else ([], {})
            rows = {seq: shown(msg) for seq, msg in messages.items()}
            views[conv] = View(self.client.feeds.known(conv), seqs, rows)
        return Seen(self.user, self.acks, self.counts, self.client.connects, views)
