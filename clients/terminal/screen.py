"""The full-screen terminal client."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import (
    Dimension,
    Float,
    FloatContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    UIContent,
    UIControl,
    Window,
)
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.mouse_events import MouseEvent, MouseEventType
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth
from prompt_toolkit.widgets import TextArea

from clients import events as ev
from clients.terminal.chat import Chat, Refused
from clients.terminal.commands import Commands, completions
from clients.terminal.transcript import Transcript, is_moving
from clients.terminal.words import Words
from clients.terminal.wrapping import Line, clipped
from protocol.codes import Settled

LEAVE_S: Final = 2.0
TYPING_EVERY_S: Final = 4.0
TYPING_SHOWN_S: Final = 6.0
FRAME_S: Final = 0.1
OLDER_AGAIN_S: Final = 5.0

STYLE: Final = Style.from_dict(
    {
        "dim": "#808080",
        "note": "#8787af",
        "mine": "bold #5faf5f",
        "other": "bold #5f87d7",
        "code": "#d7875f",
        "cursor": "#5f87d7",
        "status": "reverse",
        "status.bad": "reverse #d75f5f",
        "prompt": "bold #5faf5f",
    }
)
_SETTLED: Final = {
    Settled.YES: "tool yes",
    Settled.NO: "tool no",
    Settled.EXPIRED: "tool expired",
}


class HistoryControl(UIControl):
    """The transcript; scrolls by lines from the bottom and stays where it is when text is added.

    Attributes:
        offset: lines between the bottom of the transcript and the bottom of the screen.
    """

    def __init__(self, transcript: Transcript, reached_top: Callable[[], None]) -> None:
        self._transcript = transcript
        self._reached_top = reached_top
        self.offset = 0
        self.height = 1
        self._below: tuple[int, int] = (0, 0)

    def create_content(self, width: int, height: int) -> UIContent:
        """Return the visible lines."""
        blocks = self._transcript.lines(width)
        lines: list[Line] = [line for block in blocks for line in block]
        self._hold_place(len(lines))
        self.height = height
        most = max(0, len(lines) - height)
        if self.offset and self.offset >= most:
            self._reached_top()
        self.offset = min(self.offset, most)
        end = len(lines) - self.offset
        visible = lines[max(0, end - height) : end]

        def get_line(number: int) -> StyleAndTextTuples:
            return list(visible[number])

        return UIContent(get_line=get_line, line_count=len(visible), show_cursor=False)

    def _hold_place(self, total: int) -> None:
        """Keep the same lines in sight when others came below; older ones above do not matter."""
        first = self._transcript.chat.view.whole_from()
        before_first, before_total = self._below
        if self.offset and first == before_first and total > before_total:
            self.offset += total - before_total
        self._below = (first, total)

    def scroll(self, lines: int) -> None:
        """Scroll up by so many lines, or down when negative."""
        self.offset = max(0, self.offset + lines)

    def mouse_handler(self, mouse_event: MouseEvent) -> Any:
        """The wheel scrolls."""
        if mouse_event.event_type == MouseEventType.SCROLL_UP:
            self.scroll(3)
        elif mouse_event.event_type == MouseEventType.SCROLL_DOWN:
            self.scroll(-3)
        else:
            return NotImplemented
        return None


class _CommandCompleter(Completer):
    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        for text, replaced in completions(self._chat, document.text_before_cursor):
            yield Completion(text, start_position=-replaced)


class Screen:
    """The full-screen application around one chat.

    Args:
        typed: file that keeps what was typed; None keeps nothing.
        device_in, device_out: terminal to use, for tests.
    """

    def __init__(
        self,
        chat: Chat,
        words: Words,
        *,
        typed: Path | None = None,
        device_in: Input | None = None,
        device_out: Output | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.chat = chat
        self.words = words
        self._clock = clock
        self.transcript = Transcript(chat, words, clock)
        self.commands = Commands(chat, words, self.transcript.note)
        self.history = HistoryControl(self.transcript, self._want_older)
        self._leave_until = 0.0
        self._typing_at = 0.0
        self._older_at = 0.0
        self._retry_at = 0.0
        self._link: ev.LinkChanged | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        history: History = FileHistory(str(typed)) if typed else InMemoryHistory()
        self.input = TextArea(
            multiline=True,
            wrap_lines=True,
            prompt=[("class:prompt", "> ")],
            history=history,
            completer=_CommandCompleter(chat),
            complete_while_typing=True,
            height=Dimension(min=1, max=8),
            dont_extend_height=True,
        )
        self.input.buffer.on_text_changed += self._on_typed
        self.app: Application[None] = Application(
            layout=self._layout(),
            key_bindings=self._keys(),
            style=STYLE,
            full_screen=True,
            mouse_support=True,
            input=device_in,
            output=device_out,
        )
        # A lone Esc is a key here: wait only shortly for the rest of a longer sequence.
        self.app.ttimeoutlen = 0.05
        self.app.timeoutlen = 0.2

    async def run(self) -> None:
        """Show the screen until the user leaves or the client stops."""
        self.chat.client.add_listener(self._on_event)
        try:
            await self.app.run_async(pre_run=lambda: self._spawn(self._animate()))
        finally:
            self.chat.client.remove_listener(self._on_event)
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # layout

    def _layout(self) -> Layout:
        body = HSplit(
            [
                Window(self.history, wrap_lines=False),
                Window(FormattedTextControl(self.status), height=1),
                self.input,
            ]
        )
        menu = Float(xcursor=True, ycursor=True, content=CompletionsMenu(max_height=8))
        return Layout(FloatContainer(body, floats=[menu]), focused_element=self.input)

    def status(self) -> StyleAndTextTuples:
        """Return the status bar."""
        width = self.app.output.get_size().columns
        good = self.chat.client.link is ev.Link.ONLINE
        title = self.chat.title_of(self.chat.conv)
        name = self.chat.persona_name(self.chat.persona)
        left = f" {self.link_words()} │ {clipped(name, 20)}"
        if title != name:
            left += f" │ {title}"
        right = f"{self._hint()} "
        room = max(0, width - get_cwidth(right) - 1)
        left = clipped(left, room)
        gap = " " * max(1, width - get_cwidth(left) - get_cwidth(right))
        style = "class:status" if good else "class:status.bad"
        return [(style, left + gap + right)]

    def link_words(self) -> str:
        """Return the state of the connection in plain words."""
        link = self.chat.client.link
        if link is ev.Link.OFFLINE:
            left_s = int(self._retry_at - self._clock() + 0.99)
            if left_s > 0:
                return self.words("offline", seconds=left_s)
            return self.words("offline now")
        if link is ev.Link.STOPPED:
            reason = self._link.reason if self._link is not None else ""
            return self.words("stopped", reason=clipped(reason, 60))
        return self.words(link.value)

    def _hint(self) -> str:
        if self._clock() < self._leave_until:
            return self.words("again to leave")
        if self.history.offset:
            return self.words("new below")
        if self.chat.running:
            return self.words("status stop")
        return self.words("status help")

    # keys

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        keys.add("enter")(self._on_enter)
        keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
        keys.add("c-c")(self._on_stop_key)
        keys.add("escape")(self._on_stop_key)
        keys.add("c-d")(self._on_end_of_input)
        keys.add("pageup")(lambda event: self.history.scroll(max(1, self.history.height - 2)))
        keys.add("pagedown")(lambda event: self.history.scroll(-max(1, self.history.height - 2)))
        keys.add("c-end")(self._on_bottom)
        keys.add("end", filter=_scrolled(self.history))(self._on_bottom)
        return keys

    def _on_enter(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion:
            buffer.complete_state = None
            return
        text = buffer.text.strip()
        if not text:
            return
        buffer.append_to_history()
        buffer.reset()
        self.history.offset = 0
        self._spawn(self._take(text))

    async def _take(self, text: str) -> None:
        try:
            if not text.startswith("/"):
                self.chat.say(text)
            elif not await self.commands.run(text):
                self.app.exit()
        except Refused as exc:
            self.transcript.note(str(exc))
        self.app.invalidate()

    def _on_stop_key(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None:
            buffer.cancel_completion()
        elif self.chat.running:
            self._spawn(self._stop())
        elif self._clock() < self._leave_until:
            self.app.exit()
        else:
            if buffer.text:
                buffer.reset()
            self._leave_until = self._clock() + LEAVE_S

    async def _stop(self) -> None:
        with contextlib.suppress(Refused):
            await self.chat.stop()
        # A second press must not be taken for leaving while the answer is still ending.
        self._leave_until = 0.0

    def _on_end_of_input(self, event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.delete()
        else:
            self.app.exit()

    def _on_bottom(self, event: KeyPressEvent) -> None:
        self.history.offset = 0

    def _on_typed(self, buffer: Buffer) -> None:
        now = self._clock()
        if buffer.text and not buffer.text.startswith("/") and now > self._typing_at:
            self._typing_at = now + TYPING_EVERY_S
            self.chat.client.typing(self.chat.conv)

    # what happens

    def _on_event(self, event: ev.Event) -> None:
        if isinstance(event, ev.LinkChanged):
            self._link = event
            self._retry_at = self._clock() + event.retry_s
            if event.link is ev.Link.STOPPED:
                self.transcript.note(self.words("stopped", reason=event.reason))
        elif isinstance(event, ev.MessageAdded) and event.conv == self.chat.conv:
            self.transcript.typing.pop(event.msg.sender, None)
            if self.history.offset == 0:
                self.chat.mark_read()
        elif isinstance(event, ev.TypingSeen) and event.conv == self.chat.conv:
            shown_s = TYPING_SHOWN_S if event.state else 0.0
            self.transcript.typing[event.user] = self._clock() + shown_s
        elif isinstance(event, ev.SendFailed):
            self.transcript.note(self.words("not sent", reason=event.reason))
        elif isinstance(event, ev.StreamEnded) and event.code:
            reason = event.detail or f"error {event.code}"
            self.transcript.note(self.words("answer failed", reason=reason))
        elif isinstance(event, ev.ToolSettled) and event.outcome in _SETTLED:
            self.transcript.note(self.words(_SETTLED[event.outcome], name=event.name))
        elif isinstance(event, ev.ConvReset) and event.conv == self.chat.conv:
            self.history.offset = 0
        self.app.invalidate()

    def _want_older(self) -> None:
        online = self.chat.client.link is ev.Link.ONLINE
        calm = self._clock() >= self._older_at and not self.transcript.loading
        if online and calm and not self.chat.at_beginning:
            self.transcript.loading = True
            self._spawn(self._load_older())

    async def _load_older(self) -> None:
        try:
            await self.chat.load_older()
        except Refused as exc:
            self._older_at = self._clock() + OLDER_AGAIN_S
            self.transcript.note(str(exc))
        finally:
            self.transcript.loading = False
        self.app.invalidate()

    async def _animate(self) -> None:
        """Redraw while something moves by itself: spinners, seconds, hints that end."""
        while True:
            await asyncio.sleep(FRAME_S)
            offline = self.chat.client.link is ev.Link.OFFLINE
            hinting = self._clock() - FRAME_S * 2 < self._leave_until
            typing = bool(self.transcript.typing)
            self.transcript.forget_typing()
            if is_moving(self.chat) or offline or hinting or typing:
                self.app.invalidate()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _scrolled(history: HistoryControl) -> Condition:
    return Condition(lambda: history.offset > 0)
