"""parlance tools: what there is, asked for anew, and approved, against the official MCP server."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from server.config import ConfigError, load
from server.config_sections import McpConfig
from server.mcp_servers import SeenTool
from storage.mcp_servers import note_problem, note_tools
from storage.rows import StoreOptions
from storage.store import Store
from tests.server.shell import Shell
from tests.support.tool_server import tool_server


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with tool_server() as port:
        yield port


def settings(port: int, *tools: str, trust: bool = True) -> list[str]:
    server = {
        "name": "peer", "url": f"http://127.0.0.1:{port}/mcp", "allow_private": True,
        "trust_first": trust, "api_key": "sk-geheim",
    }  # fmt: skip
    return ["--set", f"ai.mcp={json.dumps([server])}", "--set", f"ai.tools={','.join(tools)}"]


def row_of(listed: str, *words: str) -> str:
    (found,) = [line for line in listed.splitlines() if all(word in line for word in words)]
    return found.rstrip()


def test_tools_are_listed_with_what_becomes_of_them(shell: Shell, port: int) -> None:
    some = settings(port, "calculate", "peer_add")
    listed = shell.run("tools", "list", *some)
    assert row_of(listed, "calculate").endswith("ready")
    assert "unused" in row_of(listed, "current_time")
    assert "never asked for its tools" in listed
    told = shell.run("tools", "refresh", "peer", *some)
    assert "peer: 7 tools, 0 wait for approval." in told
    listed = shell.run("tools", "list", *some)
    assert row_of(listed, "peer_add").split()[-2:] == ["write", "ready"]
    assert "unused: no list names it (ai.tools)" in row_of(listed, "peer_greet")
    assert "never asked" not in listed
    assert "sk-geheim" not in told + listed


def test_the_name_of_a_server_stands_for_all_of_its_tools(shell: Shell, port: int) -> None:
    every = settings(port, "peer")
    shell.run("tools", "refresh", *every)
    listed = shell.run("tools", "list", *every)
    assert row_of(listed, "peer_greet").split()[-1] == "ready"


def test_waiting_tools_are_shown_approved_one_by_one_and_all_together(
    shell: Shell, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = settings(port, "peer", trust=False)
    assert "7 wait for approval" in shell.run("tools", "refresh", *strict)
    assert "new: needs approval" in row_of(shell.run("tools", "list", *strict), "peer_add")
    shown = shell.run("tools", "approve", "peer", "add", "--yes", *strict)
    assert "add (new, effect: write)" in shown
    assert "Adds two numbers." in shown
    assert '"left"' in shown
    assert "Says hello." not in shown
    listed = shell.run("tools", "list", *strict)
    assert row_of(listed, "peer_add").split()[-1] == "ready"
    assert "needs approval" in row_of(listed, "peer_greet")
    monkeypatch.setattr("typer.confirm", lambda *_args, **_fields: False)
    assert "Approved 6 tools" in shell.run("tools", "approve", "peer", "--yes", *strict)
    assert "needs approval" not in shell.run("tools", "list", *strict)
    assert "nothing of peer waits" in shell.run("tools", "approve", "peer", *strict, code=1)


def test_without_a_yes_nothing_is_approved(
    shell: Shell, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = settings(port, "peer", trust=False)
    shell.run("tools", "refresh", *strict)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    shell.run("tools", "approve", "peer", "add", *strict, code=1)
    assert "new: needs approval" in row_of(shell.run("tools", "list", *strict), "peer_add")


def test_a_server_that_is_away_is_named_with_what_is_wrong(shell: Shell) -> None:
    away = settings(1, "peer")
    said = shell.run("tools", "refresh", *away, code=1)
    assert "peer: The tool's server cannot be reached. (connect)" in said
    assert "not read: peer" in said
    assert "peer cannot be used since" in shell.run("tools", "list", *away)
    assert "there is no MCP server 'other'" in shell.run("tools", "refresh", "other", *away, code=1)
    assert "no MCP servers in the settings" in shell.run("tools", "refresh", code=1)


def keep(folder: Path, seen: list[SeenTool], problem: str = "") -> None:
    """Write what a server said into the store, as if it had been asked."""

    async def work() -> None:
        store = await Store.open(StoreOptions(url=f"sqlite:///{folder}/parlance.db"))
        text = msgspec.json.encode(seen).decode()
        await store.change((), partial(note_tools, name="peer", seen=text, first={}))
        if problem:
            await store.change((), partial(note_problem, name="peer", problem=problem))
        await store.close()

    asyncio.run(work())


def test_a_strangers_words_cannot_move_about_the_terminal(shell: Shell) -> None:
    shell.run("tools", "list", *settings(1))  # makes the database
    evil = SeenTool("x", "d", "peer_x", "write", "\x1b[2Jclean\u202e\r[bold]天气[/bold]", "{}")
    keep(shell.folder, [evil])
    shown = shell.run("tools", "approve", "peer", "--yes", *settings(1, "peer"))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert r"\u001b[2Jclean\u202e\r[bold]天气[/bold]" in shown


def test_markup_in_a_name_is_shown_as_it_is(shell: Shell) -> None:
    shell.run("tools", "list", *settings(1))
    keep(shell.folder, [SeenTool("[red]x[/red]", "d", "peer_x", "write", "", "{}")])
    assert "[red]x[/red]" in shell.run("tools", "list", *settings(1))


def test_a_dropped_tool_says_why_and_where_it_is_not_offered(shell: Shell) -> None:
    shell.run("tools", "list", *settings(1))
    bad = SeenTool("x", "d", "peer_x", "write", "", "{}", dropped="not_an_object")
    partly = SeenTool("y", "e", "peer_y", "read", "", "{}", not_for={"gemini": "bad_property"})
    keep(shell.folder, [bad, partly])
    shown = shell.run("tools", "approve", "peer", "--yes", *settings(1, "peer"))
    assert "It will not be offered even then: not_an_object" in shown
    keep(shell.folder, [bad, partly], "connect")
    listed = shell.run("tools", "list", *settings(1, "peer"))
    assert "dropped: not_an_object" in row_of(listed, "peer_x")
    assert "ready, not for gemini (bad_property), server down" in row_of(listed, "peer_y")
    assert "peer cannot be used since" in listed


# --- settings ------------------------------------------------------------------------------------


def problems(*servers: dict[str, object], **ai: object) -> str:
    given: dict[str, object] = {f"ai.{key}": value for key, value in ai.items()}
    try:
        load(None, {}, {"ai.mcp": list(servers), **given})
    except ConfigError as error:
        return str(error)
    return ""


GOOD: dict[str, object] = {"name": "s", "url": "https://x.example/mcp"}


def test_settings_of_tools_that_fit_together_are_taken() -> None:
    lists = [{"tenant": 1, "tools": ["s_rain"]}, {"tenant": 1, "persona": 5, "tools": []}]
    assert problems(GOOD, tools=["calculate", "s"], tool_lists=lists) == ""


@pytest.mark.parametrize(
    ("server", "ai", "told"),
    [
        ({"url": "http://x.example/mcp"}, {}, "needs https, unless allow_private is set"),
        ({"url": "https://10.0.0.1/mcp"}, {}, "set allow_private to use it"),
        ({"url": "https://me:key@x.example/"}, {}, "put the key of a tool server into its headers"),
        ({"url": "http://[bad"}, {}, "ai.mcp[s]"),
        ({"name": "calculate"}, {}, "two sources of tools are called 'calculate'"),
        ({"name": "a b"}, {}, "ai.mcp"),
        ({"timeout_s": 61}, {}, "ai.mcp"),
        ({"nope": 1}, {}, "no such key 'nope'"),
        ({"api_key": "a", "headers": {"Authorization": "b"}}, {}, "not both"),
        ({}, {"tools": ["nope"]}, "there is no tool 'nope'; there are current_time, calculate, s"),
        ({}, {"tool_lists": [{"tenant": 1, "tools": ["x_y"]}]}, "there is no tool 'x_y'"),
        ({}, {"tool_lists": [{"tenant": 1}, {"tenant": 1}]}, "two lists for the same"),
    ],
)
def test_settings_of_tools_that_cannot_work_are_named(
    server: dict[str, object], ai: dict[str, object], told: str
) -> None:
    said = problems({**GOOD, **server}, **ai)
    assert told in said
    assert "key@" not in said


def test_a_server_that_no_list_names_is_worth_a_warning(shell: Shell) -> None:
    said = shell.run("check-config", *settings(1))
    assert "no list of tools names it" in said


def test_one_name_twice_is_refused() -> None:
    assert "two sources of tools are called 's'" in problems(GOOD, GOOD)


def test_the_defaults_trust_the_server_that_was_named_and_no_private_address() -> None:
    given = McpConfig(name="s", url="https://x.example/mcp")
    assert (given.trust_first, given.allow_private, given.believe_hints) == (True, False, True)
