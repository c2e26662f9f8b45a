"""What people type: the terminal client in its plain mode, and commands beside the server."""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.auth import Account
from protocol.codes import ConvKind, MsgKind, Scope
from storage.dead_letters import append_to_file
from storage.ids import new_id
from storage.rows import DeadLetter
from tests.e2e.harness import Process, answers, command, group, rows, talk
from tests.support.eventually import eventually


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server without an AI service: the built-in demo answers."""
    process = Process(tmp_path_factory.mktemp("demo"))
    process.start()
    yield process
    assert process.stop() == 0


def chat(
    server: Process, home: Path, given: str, *words: str
) -> "subprocess.CompletedProcess[str]":
    """Run `parlance chat --plain` with these lines as its input."""
    line = ["chat", "--plain", "--demo", "--url", server.url(), *words]
    return command(
        *line, env={"HOME": str(home), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""}, given=given
    )


@pytest.mark.parametrize(
    ("lang", "persona", "lines", "speaks"),
    [
        ("en", "Nova", ["hello", "what is 12 * 12?"], r"[A-Za-z]{3}"),
        ("zh", "小言", ["你好", "12 乘以 12 等于多少？"], r"[\u4e00-\u9fff]{2}"),
    ],
)
def test_the_terminal_client_talks_through_pipes(
    demo: Process, tmp_path: Path, lang: str, persona: str, lines: list[str], speaks: str
) -> None:
    done = chat(demo, tmp_path, "\n".join(lines) + "\n", "--lang", lang)
    assert done.returncode == 0, done.stderr
    assert re.search(speaks, done.stdout), done.stdout
    assert "144" in done.stdout
    assert "Traceback" not in done.stderr
    again = chat(demo, tmp_path, "/help\n", "--lang", lang)
    assert again.returncode == 0
    assert "/persona" in again.stdout


def test_the_terminal_client_says_when_nobody_answers(tmp_path: Path) -> None:
    nobody = Process(tmp_path)
    nobody.port = 1
    done = chat(nobody, tmp_path, "hello\n", "--lang", "en")
    assert done.returncode == 1
    assert not done.stdout
    assert done.stderr.startswith("No server answers at 127.0.0.1:1: Connection refused.\n")
    assert "--url" in done.stderr


async def test_personas_move_from_one_server_to_another(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = Process(tmp_path / "one"), Process(tmp_path / "two")
    folder = tmp_path / "personas"
    texts = {"Captain": "You command a ship.", "船长": "你指挥一艘船。\n说话简短。"}
    for name, prompt in texts.items():
        words = ["persona", "add", name, "--prompt", prompt, "--greeting", f"{name}!"]
        words += ["--temperature", "0.4", "--max-tokens", "300", "--tag", "sea"]
        done = await asyncio.to_thread(command, *words, config=one.write_config())
        assert done.returncode == 0, done.stderr
    done = await asyncio.to_thread(command, "persona", "export", str(folder), config=one.config)
    assert done.returncode == 0, done.stderr
    files = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    assert {file["name"]: file["prompt"] for file in files} == texts

    done = await asyncio.to_thread(
        command, "persona", "import", str(folder), config=two.write_config()
    )
    assert done.returncode == 0, done.stderr
    assert "2 taken in, 0 left out" in done.stdout
    second = tmp_path / "again"
    done = await asyncio.to_thread(command, "persona", "export", str(second), config=two.config)
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in second.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }

    await asyncio.to_thread(two.start)
    try:
        async with two.online() as client:
            page = await client.persona_page(Scope.PUBLIC)
            taken = {one.name: one for one in page.items if one.tags == ["sea"]}
            assert set(taken) == set(texts)
            info = await client.create_conversation(ConvKind.AI, persona=taken["船长"].id)
            conv = info.row.id or 0
            await eventually(lambda: rows(client, conv))
            assert rows(client, conv)[0].text == "船长!"
    finally:
        assert await asyncio.to_thread(two.stop) == 0


async def test_dead_letters_are_listed_and_sent_again_once(tmp_path: Path) -> None:
    server = Process(tmp_path)
    await asyncio.to_thread(server.start)
    account = await server.newcomer()
    try:
        async with server.online(account) as client:
            conv, sender = await group(client), client.user
            await client.send(conv, "stored")
        assert await asyncio.to_thread(server.stop) == 0
        payload = {
            "conv": conv,
            "sender": sender,
            "cid": "0b" * 16,
            "kind": int(MsgKind.TEXT),
            "text": "nearly lost",
            "x": None,
            "new_turn": None,
            "end_turn": None,
        }
        letter = DeadLetter(
            new_id(), 1_700_000_000_000, "append", "store closed", json.dumps(payload)
        )
        append_to_file(server.data, [letter])

        listed = await asyncio.to_thread(command, "dead-letters", "list", config=server.config)
        assert listed.returncode == 0, listed.stderr
        assert str(letter.id) in listed.stdout
        assert "store closed" in listed.stdout
        assert "nearly lost" not in listed.stdout
        for expected in ("1 stored, 0 failed again.", "0 stored, 0 failed again."):
            done = await asyncio.to_thread(command, "dead-letters", "replay", config=server.config)
            assert done.returncode == 0, done.stderr
            assert expected in done.stdout
        await asyncio.to_thread(server.start)
        async with server.online(account) as client:
            page = await client.history(conv)
            assert [row.text for row in page.msgs] == ["stored", "nearly lost"]
    finally:
        server.kill()


async def test_an_account_made_by_command_signs_in_to_the_running_server(demo: Process) -> None:
    words = ["user", "add", "operator", "--nick", "Op", "--password-stdin"]
    done = await asyncio.to_thread(command, *words, config=demo.config, given="a long password\n")
    assert done.returncode == 0, done.stderr
    account = Account(demo.url())
    assert (await account.login("operator", "a long password")).user.nick == "Op"
    async with demo.online(account, "ws") as client:
        conv = await talk(client)
        await client.send(conv, "hello")
        await eventually(lambda: answers(client, conv))
        assert answers(client, conv)[0].text
