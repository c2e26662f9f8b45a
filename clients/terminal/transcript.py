"""The open conversation as lines on a screen."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from clients.events import Link, ToolAsked
from clients.outbox import Outgoing
from clients.streams import Stream
from clients.terminal.chat import Chat, Ghost
from clients.terminal.words import Words
from clients.terminal.wrapping import Line, clipped, harmless, styled, wrapped
from protocol.codes import EndReason, StreamPart, StreamState
from protocol.rows import Msg

INDENT = 2
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Note(NamedTuple):
    """Something the client itself said, shown behind message `after` of a conversation."""

    conv: int
    after: int
    number: int
    text: str


class Block(NamedTuple):
    """A piece of the transcript; drawn again only when its version differs."""

    key: tuple[object, ...]
    version: object
    draw: Callable[[int], list[Line]]


class Transcript:
    """Turns the state of a chat into lines. Keeps drawn lines of what did not change."""

    def __init__(self, chat: Chat, words: Words, clock: Callable[[], float] = time.monotonic):
        self.chat = chat
        self.words = words
        self._clock = clock
        self._notes: list[Note] = []
        self._drawn: dict[tuple[object, ...], tuple[object, list[Line]]] = {}
        self._width = 0
        self.typing: dict[int, float] = {}
        self.loading = False

    def note(self, text: str) -> None:
        """Show a remark at the end of the open conversation."""
        view = self.chat.view
        number = self._notes[-1].number + 1 if self._notes else 0
        self._notes = [*self._notes[-199:], Note(self.chat.conv, view.last_seq, number, text)]

    def forget_typing(self) -> None:
        """Let go of those who have not typed for a while."""
        now = self._clock()
        self.typing = {user: until for user, until in self.typing.items() if until > now}

    def lines(self, width: int) -> list[list[Line]]:
        """Return the lines of every block, top to bottom, for a screen of this width."""
        if width != self._width:
            self._drawn.clear()
            self._width = width
        drawn: dict[tuple[object, ...], tuple[object, list[Line]]] = {}
        out = []
        for block in self._blocks():
            held = self._drawn.get(block.key)
            if held is None or held[0] != block.version or block.version is None:
                held = (block.version, block.draw(width))
            drawn[block.key] = held
            out.append(held[1])
        self._drawn = drawn
        return out

    def _blocks(self) -> Iterator[Block]:
        chat = self.chat
        view = chat.view
        yield Block(("top",), None, self._draw_top)
        first = view.whole_from()
        notes = [note for note in self._notes if note.conv == chat.conv]
        at = 0
        for seq in view.seqs if first else ():
            if seq < first:
                continue
            while at < len(notes) and notes[at].after < seq:
                yield self._note_block(notes[at])
                at += 1
            yield self._message_block(view.messages[seq])
        for note in notes[at:]:
            yield self._note_block(note)
        for ghost in list(chat.ghosts.values()):
            if ghost.conv == chat.conv:
                yield self._ghost_block(ghost)
        for entry in chat.unsent:
            yield self._unsent_block(entry)
        for stream in chat.running:
            yield self._stream_block(stream)
        for asked in chat.questions:
            yield self._question_block(asked)
        for user in self.typing:
            yield self._typing_block(user)

    # pieces

    def _typing_block(self, user: int) -> Block:
        text = self.words("typing", name=self.chat.user_name(user))
        return Block(("t", user), text, lambda width: [[("class:dim", clipped(text, width))]])

    def _draw_top(self, width: int) -> list[Line]:
        if self.loading:
            text = self.words("loading")
        else:
            text = self.words("beginning" if self.chat.at_beginning else "more above")
        return [[("class:dim", clipped(f"── {text} ──", width))], [("", "")]]

    def _message_block(self, msg: Msg) -> Block:
        name = self.chat.sender_name(msg)

        def draw(width: int) -> list[Line]:
            return self._draw(msg.sender, name, self._marks(msg), self._body(msg), width, msg.ts)

        return Block(("m", msg.seq), (msg.rev, name), draw)

    def _marks(self, msg: Msg) -> list[str]:
        marks = [f"#{msg.seq}"]
        if msg.x is None:
            return marks
        if msg.x.quote:
            marks.append(self.words("quoting", seq=msg.x.quote))
        if msg.x.edited and not msg.x.recalled:
            marks.append(self.words("edited"))
        if msg.x.finish and msg.x.finish in set(EndReason):
            marks.append(self.words(f"finish {msg.x.finish}"))
        return marks

    def _body(self, msg: Msg) -> list[Line]:
        if msg.x is not None and msg.x.recalled:
            return [[("class:dim", self.words("recalled"))]]
        return list(styled(msg.text))

    def _note_block(self, note: Note) -> Block:
        def draw(width: int) -> list[Line]:
            lines: list[Line] = [[("class:note", raw)] for raw in note.text.split("\n")]
            return [*wrapped(lines, width), [("", "")]]

        return Block(("n", note.number), 0, draw)

    def _ghost_block(self, ghost: Ghost) -> Block:
        name = self.chat.persona_name(ghost.persona or self.chat.persona)
        marks = [self.words(ghost.why)]

        def draw(width: int) -> list[Line]:
            return self._draw(-1, name, marks, list(styled(ghost.text)), width)

        return Block(("g", ghost.sid), (ghost.text, ghost.why), draw)

    def _unsent_block(self, entry: Outgoing) -> Block:
        online = self.chat.client.link is Link.ONLINE
        marks = [self.words("sending" if online else "waiting to send")]
        name = self.words("you")

        def draw(width: int) -> list[Line]:
            body = list(styled(entry.unsent.text))
            return self._draw(self.chat.client.user, name, marks, body, width)

        return Block(("u", entry.unsent.cid), online, draw)

    def _stream_block(self, stream: Stream) -> Block:
        name = self.chat.persona_name(stream.persona)
        link = self.chat.client.link
        text = stream.text()
        spin = SPINNER[int(self._clock() * 10) % len(SPINNER)]
        if link is not Link.ONLINE:
            marks = [self.words("broken off")]
        elif stream.state == StreamState.QUEUED:
            waits = self.words.place(stream.place) if stream.place else self.words("queued")
            marks = [f"{spin} {waits}"]
        else:
            doing = self._tool_words(stream) or ("" if text else self.words("thinking"))
            marks = [f"{spin} {doing}".rstrip()]

        def draw(width: int) -> list[Line]:
            body = list(styled(text)) if text else []
            if body and link is Link.ONLINE:
                body[-1] = [*body[-1], ("class:cursor", "▍")]
            return self._draw(-1, name, marks, body, width)

        return Block(("s", stream.sid), (stream.size(), marks[0], link), draw)

    def _tool_words(self, stream: Stream) -> str:
        """Return what the tool that runs or asks now is doing, "" if none does."""
        last = stream.text(StreamPart.TOOLS).rpartition("\n")[0].rpartition("\n")[2]
        state, _, name = last.partition(" ")
        if state not in ("running", "confirm"):
            return ""
        return self.words(f"tool {state}", name=clipped(name, 40))

    def _question_block(self, asked: ToolAsked) -> Block:
        running = self.chat.client.streams.running.get(asked.sid)
        who = self.chat.persona_name(running.persona) if running else self.words("assistant")
        if asked.conv != self.chat.conv:
            who = f"{who} ({clipped(self.chat.title_of(asked.conv), 30)})"
        lines = [self.words("tool asks", who=who, name=clipped(asked.name, 40)), asked.args]
        if asked.left:
            lines.append(self.words("tool asks more", left=asked.left))
        lines.append(self.words("tool answer"))

        def draw(width: int) -> list[Line]:
            shown: list[Line] = [
                [("class:note", harmless(line).replace("\n", " "))] for line in lines
            ]
            return [*wrapped(shown, width), [("", "")]]

        return Block(("q", asked.sid, asked.call), who, draw)

    def _draw(
        self, sender: int, name: str, marks: list[str], body: list[Line], width: int, ts: int = 0
    ) -> list[Line]:
        mine = sender == self.chat.client.user
        clock = time.strftime("%H:%M", time.localtime(ts / 1000)) if ts else ""
        details = "  ".join(part for part in (clock, *marks) if part)
        style = "class:mine" if mine else "class:other"
        shown = clipped(name, max(4, width - 20))
        head: Line = [(style, shown), ("class:dim", clipped(f"  {details}", width))]
        return [head, *wrapped(body, width, INDENT), [("", "")]]


def is_moving(chat: Chat) -> bool:
    """Return True while something on the screen moves by itself."""
    return bool(chat.running) and chat.client.link is Link.ONLINE
