"""Who may use which tool, what is left out and why, and the tools that come with the bridge."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ai_bridge.errors import BridgeError
from ai_bridge.tools import registry as registry_module
from ai_bridge.tools.arguments import read_arguments
from ai_bridge.tools.builtin import BUILTIN_NAMES, builtin_tools
from ai_bridge.tools.registry import (
    NAME,
    Effect,
    ToolContext,
    ToolError,
    ToolRegistry,
    ToolSpec,
    safe_name,
)
from ai_bridge.tools.schema import Dialect
from protocol.codes import Code

CONTEXT = ToolContext(turn_id=1, tenant=1, user=1, conv=1, persona=1)
NOW = datetime(2026, 2, 28, 20, 30, 5, tzinfo=UTC)


async def _nothing(_args: dict[str, Any], _context: ToolContext) -> str:
    return ""


def spec(name: str, **fields: Any) -> ToolSpec:
    return ToolSpec(name=name, description="Does it.", handler=_nothing, **fields)


def test_a_turn_gets_the_default_tools_until_a_list_says_otherwise() -> None:
    registry = ToolRegistry(defaults=("a",))
    for name in "abc":
        assert registry.add(spec(name))
    assert registry.tools_for(1, 5).names == ["a"]
    registry.allow(1, ["a", "b"])
    assert registry.tools_for(1, 5).names == ["a", "b"]
    assert registry.tools_for(2, 5).names == ["a"]
    registry.allow(1, ["b", "c"], persona=5)  # never more than the tenant may
    assert registry.tools_for(1, 5).names == ["b"]
    assert registry.tools_for(1, 6).names == ["a", "b"]
    registry.allow(1, [], persona=5)
    assert not registry.tools_for(1, 5)
    registry.allow(1, None, persona=5)
    registry.allow(1, None)
    assert registry.tools_for(1, 5).names == ["a"]


def test_a_bad_tool_is_left_out_with_its_reason_and_the_others_stay() -> None:
    registry = ToolRegistry(defaults=("good", "list"))
    assert registry.add(spec("good"))
    assert registry.add(spec("list", schema={"type": "array"}))
    assert not registry.add(spec("good"))
    assert not registry.add(spec("a b"))
    tools = registry.tools_for(1, 1)
    for _ in range(3):  # judged once
        assert [tool.name for tool in tools.defs(Dialect.OPENAI)] == ["good"]
    assert registry.stats.dropped == {"name_taken": 1, "bad_name": 1, "not_an_object": 1}


def test_tools_of_a_source_are_replaced_together() -> None:
    registry = ToolRegistry(defaults=("a", "b", "own"))
    registry.add(spec("own"))
    assert registry.replace_source("s", [spec("a"), spec("b")]) == 2
    before = registry.tools_for(1, 1)
    schema = {"properties": {"x": {"type": "string"}}}
    assert before.defs(Dialect.OPENAI)[1].schema["properties"] == {}
    assert registry.replace_source("s", [spec("b", schema=schema), spec("own")]) == 1
    after = registry.tools_for(1, 1)
    assert after.names == ["own", "b"]
    assert after.defs(Dialect.OPENAI)[1].schema["properties"] == {"x": {"type": "string"}}
    # A running turn keeps what it began with.
    assert [tool.name for tool in before.defs(Dialect.OPENAI)] == ["own", "a", "b"]


def test_lists_and_tools_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "MAX_ALLOW_LISTS", 1)
    monkeypatch.setattr(registry_module, "MAX_TOOLS", 3)
    monkeypatch.setattr(registry_module, "MAX_OFFERED", 2)
    registry = ToolRegistry()
    assert [registry.add(spec(name)) for name in "abcd"] == [True, True, True, False]
    registry.allow(1, "abcd")
    registry.allow(1, "abc")
    with pytest.raises(BridgeError) as refusal:
        registry.allow(2, "a")
    assert refusal.value.code is Code.SIZE_LIMIT
    assert registry.tools_for(1, 1).names == ["a", "b"]
    assert registry.stats.dropped == {"too_many": 1, "too_many_offered": 1}


def test_any_name_becomes_one_that_all_dialects_take() -> None:
    names = ["plain", "with.dot", "with-dot", "with/dot", "9lives", "-x", "天气", "x" * 80, "", "é"]
    safe = [safe_name(name) for name in names]
    assert all(NAME.match(name) for name in safe)
    assert len(set(safe)) == len(names)
    assert safe[0] == "plain"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({}, "Saturday 2026-02-28 20:30:05 UTC (UTC+0000)"),
        ({"timezone": "Asia/Shanghai"}, "Sunday 2026-03-01 04:30:05 CST (UTC+0800)"),
        ({"timezone": "UTC-3:30"}, "Saturday 2026-02-28 17:00:05 UTC-03:30 (UTC-0330)"),
    ],
)
async def test_the_time_is_told_in_the_zone_that_was_asked_for(
    args: dict[str, Any], told: str
) -> None:
    tool = builtin_tools(lambda: NOW)[0]
    assert await tool.handler(args, CONTEXT) == told


@pytest.mark.parametrize("zone", ["Mars/Base", "../../etc/passwd", "/etc/passwd", "+99:00", "\0"])
async def test_an_unknown_zone_is_explained(zone: str) -> None:
    with pytest.raises(ToolError, match="IANA"):
        await builtin_tools(lambda: NOW)[0].handler({"timezone": zone}, CONTEXT)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("(17.5 + 4) * 3 ^ 2", "193.5"),
        ("-3^2", "-9"),
        ("2**10", "1024"),
        ("（1＋2）×3÷4", "2.25"),
        ("1,000,000 * 3", "3000000"),
        ("1/3", "0.333333333333333"),
        ("0.1 + 0.2", "0.3"),
    ],
)
async def test_sums_are_exact(expression: str, value: str) -> None:
    assert await builtin_tools()[1].handler({"expression": expression}, CONTEXT) == value


@pytest.mark.parametrize(
    "expression",
    ["", "1/0", "two apples", "2 apples + 3", "__import__('os')", "9^9^9^9", "9^64^64", "((1)",
     "9^64*9^64*9^64*9^64*9^64*9^64+0.5", "1 2"],
)  # fmt: skip
async def test_what_is_no_sum_is_explained(expression: str) -> None:
    with pytest.raises(ToolError):
        await builtin_tools()[1].handler({"expression": expression}, CONTEXT)


def test_the_tools_of_the_bridge_only_read_and_fit_every_dialect() -> None:
    registry = ToolRegistry(BUILTIN_NAMES)
    for tool in builtin_tools():
        assert registry.add(tool)
        assert tool.effect is Effect.READ
        assert tool.trusted
    for dialect in Dialect:
        told = registry.tools_for(1, 1).defs(dialect)
        assert [tool.name for tool in told] == list(BUILTIN_NAMES)
    assert read_arguments("", builtin_tools()[0].schema) == {}
