"""The terminal client without a terminal: its actions, its screen, and its plain mode."""

from __future__ import annotations

import asyncio
import io
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from clients.client import Client
from clients.terminal.chat import Chat, Refused
from clients.terminal.commands import Commands, completions
from clients.terminal.home import DEMO, Home
from clients.terminal.plain import Plain, read_lines
from clients.terminal.screen import Screen
from clients.terminal.words import Words
from protocol import envelopes as e
from protocol.rows import Persona, Use
from tests.clients.fake_server import FakeServer
from tests.clients.test_client import QUICK, token, until
from tests.support.eventually import WAIT_S

EN = Words("en")
ZH = Words("zh")
NOVA = Persona(id=7, name="Nova", tags=["assistant"], greeting="Hi")
LIN = Persona(id=8, name="林老师", tags=["学习"], greeting="你好")


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        server.personas = [NOVA, LIN]
        yield server


@asynccontextmanager
async def chatting(server: FakeServer, words: Words = EN) -> AsyncIterator[Chat]:
    client = Client(server.url, token, timing=QUICK, rng=random.Random(1))
    async with client:
        await client.wait_online(WAIT_S)
        yield Chat(client, words)


class Terminal:
    """A screen whose keyboard is a pipe and whose clock stands still until told."""

    def __init__(self, screen: Screen, keyboard: PipeInput) -> None:
        self.screen = screen
        self.keyboard = keyboard

    def type(self, keys: str) -> None:
        self.keyboard.send_text(keys)

    @property
    def text(self) -> str:
        lines = (line for block in self.screen.transcript.lines(80) for line in block)
        return "\n".join("".join(text for _, text in line) for line in lines)

    @property
    def status(self) -> str:
        return "".join(part[1] for part in self.screen.status())

    async def shows(self, text: str) -> None:
        await until(lambda: text in self.text)


@asynccontextmanager
async def terminal(chat: Chat, words: Words = EN) -> AsyncIterator[Terminal]:
    with create_pipe_input() as keyboard:
        screen = Screen(chat, words, device_in=keyboard, device_out=DummyOutput())
        running = asyncio.ensure_future(screen.run())
        await until(lambda: screen.app.is_running)
        yield Terminal(screen, keyboard)
        if screen.app.is_running:
            screen.app.exit()
        await running


# actions


@pytest.mark.parametrize(("words", "name"), [(EN, "Nova"), (ZH, "林老师")])
async def test_first_start_opens_a_conversation_with_a_persona_of_ones_language(
    server: FakeServer, words: Words, name: str
) -> None:
    async with chatting(server, words) as chat:
        await chat.begin()
        assert chat.persona_name(chat.persona) == name
        chosen = [f.set.persona for f in server.frames if isinstance(f, e.ProfileSet)]
        assert chosen == [chat.persona]
        watched = [f.w.convs for f in server.frames if isinstance(f, e.WatchRequest)]
        assert watched[-1] == [chat.conv]


async def test_next_start_goes_on_where_the_last_one_was(server: FakeServer) -> None:
    first, second = server.create(), server.create()
    server.say(first, "hello")
    server.say(second, "newer")
    async with chatting(server) as chat:
        await chat.begin(conv=first.id)
        assert chat.conv == first.id
        assert not any(isinstance(f, e.ConvCreate) for f in server.frames)


async def test_server_without_personas_is_explained(server: FakeServer) -> None:
    server.personas = []
    async with chatting(server) as chat:
        with pytest.raises(Refused, match="no personas yet"):
            await chat.begin()


async def test_persona_is_found_by_number_name_and_beginning(server: FakeServer) -> None:
    async with chatting(server) as chat:
        await chat.list_personas()
        assert chat.find_persona("2") is chat.personas[1]
        assert chat.find_persona("nov").name == "Nova"
        with pytest.raises(Refused, match="No persona is called nobody"):
            chat.find_persona("nobody")


async def test_older_messages_are_loaded_page_by_page_to_the_beginning(
    server: FakeServer,
) -> None:
    conv = server.create()
    for number in range(120):
        server.say(conv, f"m{number}")
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        assert len(chat.view.seqs) < 120
        while await chat.load_older():
            pass
        assert chat.at_beginning
        assert len(chat.view.seqs) == 120


async def test_commands_say_what_they_did_or_why_not(server: FakeServer) -> None:
    conv = server.create()
    said: list[str] = []
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        commands = Commands(chat, EN, said.append)
        assert await commands.run("/nonsense")
        assert "no command /nonsense" in said[-1]
        assert await commands.run("/edit new text")
        assert said[-1] == EN("nothing to change")
        await chat.client.send(conv.id, "old text")
        assert await commands.run("/edit new text")
        await until(lambda: conv.messages[1].text == "new text")
        assert await commands.run("/stop")
        assert said[-1] == EN("nothing to stop")
        assert await commands.run("/personas stud")
        assert await commands.run("/help")
        assert "/conversations" in said[-1]
        assert not await commands.run("/quit")


async def test_tab_completes_commands_and_names(server: FakeServer) -> None:
    async with chatting(server) as chat:
        await chat.list_personas()
        assert ("/personas", 4) in list(completions(chat, "/per"))
        assert list(completions(chat, "/persona n")) == [("Nova", 1)]
        assert list(completions(chat, "hello /per")) == []


# the screen


async def test_answer_is_drawn_as_it_comes_and_stays_as_a_message(server: FakeServer) -> None:
    conv = server.create()
    server.answers = [["Hel", None]]
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with terminal(chat) as term:
            term.type("hi\r")
            await term.shows("Hel▍")
            assert "Esc stops" in term.status
            stream = next(iter(server.streams.values()))
            server.stream_text(stream, "lo")
            await term.shows("Hello▍")
            server.end_stream(stream)
            await until(lambda: not chat.running)
            assert "#2" in term.text
            assert "▍" not in term.text


@pytest.mark.parametrize(
    ("words", "third", "next_one"),
    [(EN, "3rd in line", "next in line"), (ZH, "排在第 3 位", "下一个就是你")],
)
async def test_place_in_the_queue_is_one_line_that_is_replaced(
    server: FakeServer, words: Words, third: str, next_one: str
) -> None:
    conv = server.create()
    async with chatting(server, words) as chat:
        await chat.begin(conv=conv.id)
        async with terminal(chat, words) as term:
            stream = server.begin_stream(conv.id)
            server.publish([e.StreamQueued(stream.sid, conv.id, 3)])
            await term.shows(third)
            server.publish([e.StreamQueued(stream.sid, conv.id, 1)])
            await term.shows(next_one)
            assert third not in term.text
            server.publish([e.StreamQueued(stream.sid, conv.id, 0)])
            await term.shows(words("thinking"))
            assert next_one not in term.text
            server.stream_text(stream, "Hello")
            await term.shows("Hello▍")


@pytest.mark.parametrize(
    ("number", "said"),
    [(2, "2nd in line"), (4, "4th in line"), (11, "11th in line"), (13, "13th in line"),
     (21, "21st in line"), (112, "112th in line"), (203, "203rd in line")],
)  # fmt: skip
def test_places_are_said_as_people_say_them(number: int, said: str) -> None:
    assert EN.place(number) == said


@pytest.mark.parametrize(("words", "command", "yes"), [(EN, "/yes", True), (ZH, "/no", False)])
async def test_question_about_a_tool_is_shown_and_answered(
    server: FakeServer, words: Words, command: str, yes: bool
) -> None:
    conv = server.create()
    server.personas = [NOVA]
    async with chatting(server, words) as chat:
        await chat.begin(conv=conv.id)
        async with terminal(chat, words) as term:
            stream = server.begin_stream(conv.id)
            server.publish([e.StreamDelta(stream.sid, 2, 0, "running look\ndone look\n")])
            server.publish([e.StreamDelta(stream.sid, 2, 23, "confirm send_mail\n")])
            args = '{"to": "\x1b[31mbob\\n"}'
            server.publish([e.ToolAsk(stream.sid, conv.id, 4, "send_mail", args, 17, 0)])
            await term.shows(words("tool asks", who="Nova", name="send_mail"))
            assert '{"to": "�[31mbob' in term.text, "nothing steers the terminal"
            assert words("tool asks more", left=17) in term.text
            assert words("tool confirm", name="send_mail") in term.text
            term.type(f"{command}\r")
            await until(lambda: any(isinstance(f, e.Confirm) for f in server.frames))
            (said,) = [f for f in server.frames if isinstance(f, e.Confirm)]
            assert (said.sid, said.call, said.yes) == (stream.sid, 4, yes)
            server.publish([e.ToolSettled(stream.sid, 4, int(yes))])
            await term.shows(words("tool yes" if yes else "tool no", name="send_mail"))
            assert words("tool asks", who="Nova", name="send_mail") not in term.text
            term.type(f"{command}\r")
            await term.shows(words("nothing asked"))


async def test_question_of_another_conversation_says_of_which(server: FakeServer) -> None:
    conv, other = server.create(), server.create()
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with terminal(chat) as term:
            title = chat.title_of(other.id)
            server.publish([e.ToolAsk(77, other.id, 1, "send_mail", "{}", 0, 0)])
            await term.shows(f"({title}) wants to run the tool send_mail")
            server.publish([e.ToolSettled(77, 1, 2)])
            await term.shows("Nobody answered in time: send_mail does not run.")


@pytest.mark.parametrize(
    ("words", "today", "month"),
    [
        (EN, "Today: 1,200 tokens read, 34 written", "$0.0123 of $2.0000 spent"),
        (ZH, "今天：读入 1,200 个 token，写出 34 个", "花费 $0.0123，上限 $2.0000"),
    ],
)
async def test_usage_is_told_in_the_users_language(
    server: FakeServer, words: Words, today: str, month: str
) -> None:
    conv = server.create()
    server.used = (Use(1200, 34, 0, 0, 0), Use(5000, 60, 12_345, 2_000_000, 0))
    said: list[str] = []
    async with chatting(server, words) as chat:
        await chat.begin(conv=conv.id)
        assert await Commands(chat, words, said.append).run("/usage")
    first, second = said[-1].split("\n")
    assert first == today
    assert second.endswith(month)


async def test_alt_enter_begins_a_new_line(server: FakeServer) -> None:
    conv = server.create()
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with terminal(chat) as term:
            term.type("one\x1b\rtwo\r")
            await until(lambda: 1 in conv.messages)
            assert conv.messages[1].text == "one\ntwo"


@pytest.mark.parametrize("key", ["\x03", "\x1b"])
async def test_stop_key_stops_the_answer_first_and_leaves_on_a_second_press(
    server: FakeServer, key: str
) -> None:
    conv = server.create()
    server.answers = [["endless", None]]
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with terminal(chat) as term:
            term.type("hi\r")
            await term.shows("endless")
            term.type(key)
            await until(lambda: not server.streams)
            await term.shows("stopped")
            await asyncio.sleep(0)
            assert term.screen.app.is_running
            term.type(key)
            await until(lambda: "again" in term.status)
            assert term.screen.app.is_running
            term.type(key)
            await until(lambda: not term.screen.app.is_running)


async def test_killed_server_leaves_the_partial_answer_marked_and_the_session_working(
    server: FakeServer,
) -> None:
    conv = server.create()
    server.answers = [["half an ", None]]
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with terminal(chat) as term:
            term.type("hi\r")
            await term.shows("half an ")
            await server.stop()
            await until(lambda: "offline" in term.status)
            assert "waiting for the rest" in term.text
            term.type("are you there?\r")
            await term.shows("will be sent when the server is back")
            server.end_stream(next(iter(server.streams.values())), reason=5)
            await server.start()
            await until(lambda: "connected" in term.status)
            await term.shows("interrupted")
            await until(lambda: not chat.unsent)
            assert conv.messages[3].text == "are you there?"


async def test_unstored_end_of_an_answer_keeps_what_was_read(server: FakeServer) -> None:
    conv = server.create()
    server.answers = [["lost words", None]]
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with terminal(chat) as term:
            term.type("hi\r")
            await term.shows("lost words")
            server.streams.clear()
            server.cut()
            await until(lambda: chat.client.connects == 2 and not chat.running)
            assert "lost words" in term.text
            assert "interrupted" in term.text


async def test_answer_that_is_taken_back_leaves_the_screen(server: FakeServer) -> None:
    conv = server.create()
    server.answers = [["awful words", None]]
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with terminal(chat) as term:
            term.type("hi\r")
            await term.shows("awful words")
            server.take_back(next(iter(server.streams.values())), "It was taken back.")
            await term.shows("It was taken back.")
            assert "awful words" not in term.text
            assert not chat.running
            assert not chat.ghosts


async def test_page_up_scrolls_and_loads_to_the_beginning_mark(server: FakeServer) -> None:
    conv = server.create()
    for number in range(80):
        server.say(conv, f"m{number}")
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with terminal(chat) as term:
            await until(lambda: term.screen.history.height > 1)
            assert "older messages" in term.text

            def scrolled_to_the_beginning() -> bool:
                term.type("\x1b[5~")
                return "beginning of the conversation" in term.text

            await until(scrolled_to_the_beginning)
            assert "new messages" in term.status


async def test_scrolled_screen_stays_where_it_is_when_messages_come(server: FakeServer) -> None:
    conv = server.create()
    for number in range(30):
        server.say(conv, f"m{number}")
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        await chat.load_older()
        async with terminal(chat) as term:
            history = term.screen.history
            history.create_content(80, 20)
            history.scroll(30)
            seen = history.create_content(80, 20)
            before = [seen.get_line(at) for at in range(seen.line_count)]
            server.say(conv, "new below")
            await term.shows("new below")
            seen = history.create_content(80, 20)
            assert [seen.get_line(at) for at in range(seen.line_count)] == before


# plain mode


class Pipe:
    """A pair of text files: what the program reads, and its writing end."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.reader = os.fdopen(reading, encoding="utf-8")
        self.writer = os.fdopen(writing, "w", encoding="utf-8")

    def close(self) -> None:
        self.writer.close()
        if not self.reader.closed:
            self.reader.close()


@asynccontextmanager
async def plain(chat: Chat) -> AsyncIterator[tuple[Pipe, io.StringIO, io.StringIO, Any]]:
    pipe, out, err = Pipe(), io.StringIO(), io.StringIO()
    running = asyncio.ensure_future(Plain(chat, EN, pipe.reader, out, err).run())
    try:
        yield pipe, out, err, running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        pipe.close()


async def test_plain_mode_prints_answers_only_and_returns_0(server: FakeServer) -> None:
    conv = server.create()
    server.answers = [["Hello ", "你好"], ["second"]]
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with plain(chat) as (pipe, out, err, running):
            pipe.writer.write("one\n\ntwo\n")
            pipe.writer.close()
            assert await running == 0
            assert out.getvalue() == "Hello 你好\nsecond\n"
            assert err.getvalue() == ""


async def test_plain_mode_goes_on_printing_after_a_lost_connection(server: FakeServer) -> None:
    conv = server.create()
    server.answers = [["first ", None]]
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with plain(chat) as (pipe, out, _, running):
            pipe.writer.write("hi\n")
            pipe.writer.close()
            await until(lambda: out.getvalue() == "first ")
            stream = next(iter(server.streams.values()))
            server.silent = True
            server.stream_text(stream, "second ")
            server.cut()
            server.silent = False
            server.stream_text(stream, "third")
            server.end_stream(stream)
            assert await running == 0
            assert out.getvalue() == "first second third\n"


async def test_plain_mode_fails_when_an_answer_was_interrupted(server: FakeServer) -> None:
    conv = server.create()
    server.answers = [["part", None]]
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with plain(chat) as (pipe, out, err, running):
            pipe.writer.write("hi\n")
            pipe.writer.close()
            await until(lambda: out.getvalue() == "part")
            server.end_stream(next(iter(server.streams.values())), reason=5)
            assert await running == 1
            assert "interrupted" in err.getvalue()


async def test_plain_mode_says_that_what_it_printed_was_taken_back(server: FakeServer) -> None:
    conv = server.create()
    server.answers = [["awful words", None]]
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with plain(chat) as (pipe, out, err, running):
            pipe.writer.write("hi\n")
            pipe.writer.close()
            await until(lambda: out.getvalue() == "awful words")
            server.take_back(next(iter(server.streams.values())), "It was taken back.")
            assert await running == 1
            assert out.getvalue() == "awful words\n"
            assert "It was taken back." in err.getvalue()


async def test_plain_mode_finds_the_answer_when_the_acknowledgement_was_lost(
    server: FakeServer,
) -> None:
    conv = server.create()
    async with chatting(server) as chat:
        await chat.begin(conv=conv.id)
        async with plain(chat) as (pipe, out, _, running):
            server.lose_acks = 1
            pipe.writer.write("hi\n")
            pipe.writer.close()
            await until(lambda: chat.client.connects == 2 and not chat.unsent)
            stream = server.begin_stream(conv.id, 1)
            server.stream_text(stream, "late")
            server.end_stream(stream)
            assert await running == 0
            assert out.getvalue() == "late\n"


async def test_lines_come_from_plain_files_too(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("a\nb\n", encoding="utf-8")
    with path.open(encoding="utf-8") as source:
        assert [line async for line in read_lines(source)] == ["a\n", "b\n"]


# the program


def guest() -> dict[str, Any]:
    return {
        "user": {"id": 1, "name": "guest"},
        "tenant": 1,
        "token": "token",
        "expires": 4_000_000_000_000,
        "refresh_token": "refresh",
    }


async def run_program(home: Path, *arguments: str, typed: str = "") -> tuple[int, str, str]:
    program = "import sys; from clients.terminal import main; sys.exit(main(sys.argv[1:]))"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(home), "LANG": "en_US.UTF-8", "PYTHONUTF8": "1"},
        cwd=Path(__file__).parents[2],
    )
    out, err = await process.communicate(typed.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_demo_user_is_the_same_at_the_next_start(server: FakeServer, tmp_path: Path) -> None:
    server.http_answers["/api/v1/auth/guest"] = (201, guest())
    server.answers = [["Welcome!"], ["Again!"]]
    flags = ("--demo", "--plain", "--url", server.url)
    first = await run_program(tmp_path, *flags, typed="hello\n")
    assert first == (0, "Welcome!\n", "")
    second = await run_program(tmp_path, *flags, typed="hello\n")
    assert second == (0, "Again!\n", "")
    assert [path for path, _ in server.http_requests] == ["/api/v1/auth/guest"]
    assert len({hello.device for hello in server.hellos}) == 1
    assert sum(isinstance(f, e.ConvCreate) for f in server.frames) == 1
    kept = tmp_path / ".config" / "parlance" / "accounts.json"
    assert kept.stat().st_mode & 0o077 == 0


async def test_server_that_is_not_running_is_said_with_the_next_step(tmp_path: Path) -> None:
    server = FakeServer()
    await server.start()
    await server.stop()
    code, out, err = await run_program(tmp_path, "--demo", "--plain", "--url", server.url)
    assert (code, out) == (1, "")
    assert "make run" in err
    assert "Traceback" not in err


async def test_script_without_an_account_is_told_how_to_get_one(tmp_path: Path) -> None:
    code, _, err = await run_program(tmp_path, "--plain")
    assert code == 1
    assert "--demo" in err


def test_guest_of_another_store_does_not_keep_the_old_conversation(tmp_path: Path) -> None:
    from clients.auth import Tokens
    from protocol.rows import User

    home = Home({"HOME": str(tmp_path)})
    home.keep_tokens("url", DEMO, Tokens(User(id=1), 1, "a", 0))
    home.keep_conv("url", DEMO, 5)
    home.keep_tokens("url", DEMO, Tokens(User(id=1), 1, "b", 0))
    kept = home.account("url", DEMO)
    assert kept is not None
    assert (kept.conv, kept.tokens.access_token) == (5, "b")
    home.keep_tokens("url", DEMO, Tokens(User(id=2), 1, "c", 0))
    fresh = home.account("url", DEMO)
    assert fresh is not None
    assert fresh.conv == 0
