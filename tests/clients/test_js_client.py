"""The JavaScript client: its own tests, and a real one in Node against a real server."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from bench.provider.server import ScriptedProvider
from tests.e2e.harness import Process, expected, free_port
from tests.server.test_tls import make_certificate
from tests.support.eventually import WAIT_S, eventually
from tests.support.proxy import FaultProxy

SDK: Final = Path(__file__).parents[2] / "clients" / "web" / "sdk"
NODE: Final = shutil.which("node")
SUITE_S: Final = 300.0
"""For the SDK's own tests, which take seconds on an idle machine."""
DOORS: Final = ("tcp", "ws")

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed (apt: nodejs)")


class Script:
    """A client in a process of its own (js/client_process.mjs)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, action: str, **fields: Any) -> Any:
        """Return what an action came to."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": action, **fields}).encode() + b"\n")
        line = await asyncio.wait_for(self._process.stdout.readline(), WAIT_S)
        assert line, f"the client ended during {action!r}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    async def start(
        self, url: str, http: str, state: Path | None = None, tokens: Any = None
    ) -> Any:
        """Sign in, as a new guest without tokens; return the tokens."""
        kept = None if state is None else str(state)
        return await self.do("start", url=url, http=http, state=kept, tokens=tokens)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process.returncode is None:
            self._process.kill()


@asynccontextmanager
async def script(trusted: Path | None = None) -> AsyncIterator[Script]:
    """A client process; it is killed at the end.

    Args:
        trusted: a certificate to believe.
    """
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        NODE,
        "--experimental-websocket",
        "--no-warnings",
        str(Path(__file__).parent / "js" / "client_process.mjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | ({} if trusted is None else {"NODE_EXTRA_CA_CERTS": str(trusted)}),
    )
    client = Script(process)
    try:
        yield client
    finally:
        client.kill()
        await process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server for this file; its AI service lives in the tests' own loops."""
    process = Process(tmp_path_factory.mktemp("js"), provider_port=free_port())
    process.start()
    yield process
    process.kill()


@pytest.fixture
async def provider(server: Process) -> AsyncIterator[ScriptedProvider]:
    """The AI service of the server."""
    provider = ScriptedProvider()
    await provider.start(server.provider_port)
    yield provider
    await provider.aclose()


@pytest.mark.timeout(SUITE_S + 60)
def test_the_command_of_the_readme_runs_all_its_own_tests() -> None:
    readme = (SDK / "README.md").read_text(encoding="utf-8")
    (command,) = [line for line in readme.splitlines() if line.startswith("node --test ")]
    silent, held = os.pipe()  # open and silent, as a terminal is: no test may wait for it
    try:
        done = subprocess.run(
            command.replace("--test", "--test --test-reporter=tap"),
            shell=True,
            cwd=SDK.parents[2],
            stdin=silent,
            capture_output=True,
            text=True,
            timeout=SUITE_S,
            check=False,
        )
    finally:
        os.close(silent)
        os.close(held)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    counts = dict(re.findall(r"^# (pass|fail|skipped) (\d+)$", done.stdout, re.MULTILINE))
    assert int(counts["pass"]) > 90
    assert (counts["fail"], counts["skipped"]) == ("0", "0")


@pytest.mark.parametrize("door", DOORS)
async def test_requests_come_back_and_views_follow(server: Process, door: str) -> None:
    async with script() as client:
        await client.start(server.url(door), server.url())
        await client.do("online")
        found = await client.do("everything")
        user = (await client.do("online"))["user"]
        assert await client.do("close") == 0
    assert found["own"] == [f"Cat {user}"]
    assert found["edited"] == "你好, edited"
    assert found["unread"] == 0, "own messages are read"
    assert found["listed"]
    assert found["used"] == 0
    assert found["nick"] == "Ada"
    assert found["devices"] == 1
    assert found["refused"] == 300


@pytest.mark.parametrize("door", DOORS)
async def test_cut_connections_lose_no_message_and_repeat_none(server: Process, door: str) -> None:
    texts = [f"number {number} 号" for number in range(40)]
    async with FaultProxy("127.0.0.1", server.port) as proxy, script() as client:
        await client.start(server.url(door, proxy.port), server.url())
        await client.do("online")
        conv = await client.do("group")
        # In the middle of a request, of an acknowledgement, and of a whole burst.
        proxy.to_server.cut_after(100)
        await client.do("post", conv=conv, texts=texts[:20])
        await client.do("flush")
        proxy.to_client.cut_after(60)
        await client.do("post", conv=conv, texts=texts[20:])
        proxy.cut_all()
        assert await client.do("flush") == list(range(1, 41))
        rows = await client.do("rows", conv=conv)
        online = await client.do("online")
    assert [text for _, _, text in rows] == texts
    assert online["connects"] >= 3
    async with script() as reader:
        await reader.start(server.url(door), server.url())
        assert (await reader.do("online"))["user"] != online["user"]


@pytest.mark.parametrize("door", DOORS)
async def test_an_answer_is_whole_after_cuts_in_its_middle(
    server: Process, provider: ScriptedProvider, door: str
) -> None:
    model = "tokens=60,rate=60"
    async with FaultProxy("127.0.0.1", server.port) as proxy, script() as client:
        await client.start(server.url(door, proxy.port), server.url())
        await client.do("online")
        conv = await client.do("talk")
        sid = await client.do("ask", conv=conv, text="讲个故事", model=model)
        await client.do("began", sid=sid)
        proxy.cut_all()
        await client.do("online")
        proxy.to_client.cut_after(40)
        answer = await client.do("answer", conv=conv, sid=sid)
        online = await client.do("online")
    assert answer["stored"] == [expected(model)], "once and whole"
    assert expected(model).startswith(answer["streamed"])
    assert answer["faults"] == []
    assert online["connects"] >= 2


async def test_the_ten_lines_of_the_readme_chat_with_a_persona(
    server: Process, provider: ScriptedProvider
) -> None:
    assert NODE is not None
    readme = (SDK / "README.md").read_text(encoding="utf-8")
    code = readme.split("```js\n")[1].split("```")[0]
    assert "parlance://127.0.0.1:8420" in code
    code = code.replace("parlance://127.0.0.1:8420", server.url())
    code = code.replace('"./client.js"', json.dumps((SDK / "client.js").as_uri()))
    process = await asyncio.create_subprocess_exec(
        NODE,
        "--input-type=module",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(code.encode()), WAIT_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()
    assert "".join(out.decode().split("\n")) == expected("tokens=20")


async def test_an_answer_is_stopped_and_made_again(
    server: Process, provider: ScriptedProvider
) -> None:
    async with script() as client:
        await client.start(server.url(), server.url())
        await client.do("online")
        conv = await client.do("talk")
        sid = await client.do("ask", conv=conv, text="talk", model="tokens=10000,rate=50")
        await client.do("began", sid=sid)
        await client.do("cancel", sid=sid)
        cut = await client.do("answer", conv=conv, sid=sid)
        again = await client.do("regenerate", conv=conv, model="tokens=5")
        whole = await client.do("answer", conv=conv, sid=again)
    assert cut["stored"] == [cut["streamed"]]
    assert whole["stored"] == [expected("tokens=5")] == [whole["streamed"]]


async def test_both_doors_open_over_tls_to_those_who_trust_the_certificate(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    server = Process(tmp_path)
    settings = f'[server]\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
    server.template = server.template.replace("[server]\n", settings)
    await asyncio.to_thread(server.start)
    tcp = f"parlances://127.0.0.1:{server.port}"
    ws = f"wss://127.0.0.1:{server.port}/ws"
    try:
        async with script(cert) as client, script(cert) as other, script() as stranger:
            tokens = await client.start(tcp, ws)
            await other.start(ws, tcp, tokens=tokens)
            await client.do("online")
            await other.do("online")
            conv = await client.do("group")
            await client.do("post", conv=conv, texts=["界" * 4000])
            await client.do("flush")
            (row,) = await other.do("rows", conv=conv)
            assert row[2] == "界" * 4000
            with pytest.raises(AssertionError, match="Unreachable"):
                await stranger.start(tcp, ws)
    finally:
        await asyncio.to_thread(server.kill)


async def test_a_server_that_dies_in_an_answer_ends_it_once_when_it_is_back(
    tmp_path: Path,
) -> None:
    model = "tokens=40,rate=40"
    server = Process(tmp_path, provider_port=free_port())
    provider = ScriptedProvider()
    # The second is the default: a question that is asked again does not know what was wished for.
    provider.models = [model, "tokens=20"]
    await provider.start(server.provider_port)
    try:
        await asyncio.to_thread(server.start)
        async with script() as client:
            await client.start(server.url("ws"), server.url())
            await client.do("online")
            conv = await client.do("talk")
            sid = await client.do("ask", conv=conv, text="讲个故事", model=model)
            await client.do("began", sid=sid)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await client.do("online")
            (text,) = await client.do("answers", conv=conv)
            rows = await client.do("rows", conv=conv)
        assert text
        assert expected(model).startswith(text)
        assert [row[2] for row in rows].count(text) == 1
    finally:
        await asyncio.to_thread(server.kill)
        await provider.aclose()


async def test_what_a_dead_process_left_unsent_is_sent_once_by_the_next(tmp_path: Path) -> None:
    server = Process(tmp_path / "server")
    server.folder.mkdir()
    await asyncio.to_thread(server.start)
    state = tmp_path / "client.json"
    try:
        async with script() as client:
            tokens = await client.start(server.url(), server.url(), state)
            await client.do("online")
            conv = await client.do("group")
            await client.do("post", conv=conv, texts=["before"])
            await client.do("flush")
            await asyncio.to_thread(server.kill)
            await client.do("post", conv=conv, texts=["first 一", "second 二"])
            # Both are on disk before the client would send them; then it dies.
            await eventually(lambda: "second" in state.read_text())
        await asyncio.to_thread(server.start)
        async with script() as client:
            await client.start(server.url("ws"), server.url(), state, tokens)
            await client.do("online")
            await client.do("emptied")
            rows = await client.do("rows", conv=conv)
            assert [text for _, _, text in rows] == ["before", "first 一", "second 二"]
            assert await client.do("close") == 0
        assert not (tmp_path / "client.json.lock").exists()
    finally:
        await asyncio.to_thread(server.kill)
