"""Tools that come with the bridge. They read nothing but the clock and their arguments."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ai_bridge.partner.arithmetic import MAX_EXPRESSION_CHARS, Unsolvable, evaluate
from ai_bridge.tools.registry import ToolContext, ToolError, ToolSpec

BUILTIN_NAMES = ("current_time", "calculate")

_OFFSET = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?\Z", re.I)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def builtin_tools(now: Callable[[], datetime] = _utc_now) -> list[ToolSpec]:
    """Return the tools of `BUILTIN_NAMES`; `now` gives an aware time."""

    async def current_time(args: dict[str, Any], _context: ToolContext) -> str:
        zone = await _zone(args.get("timezone") or "UTC")
        return now().astimezone(zone).strftime("%A %Y-%m-%d %H:%M:%S %Z (UTC%z)")

    return [
        ToolSpec(
            name="current_time",
            description="Tells the current date, weekday and time in a time zone.",
            schema={
                "type": "object",
                "properties": {
                    "timezone": {
                        "type": "string",
                        "description": "IANA name such as Asia/Shanghai, or an offset such as "
                        "+08:00. UTC if left out.",
                        "maxLength": 64,
                    }
                },
                "additionalProperties": False,
            },
            handler=current_time,
            trusted=True,
            source="builtin",
        ),
        ToolSpec(
            name="calculate",
            description="Works out an arithmetic expression exactly: + - * / ^ and brackets.",
            schema={
                "type": "object",
                "properties": {
                    "expression": {
                        "type": "string",
                        "description": "For example (17.5 + 4) * 3 ^ 2",
                        "maxLength": MAX_EXPRESSION_CHARS,
                    }
                },
                "required": ["expression"],
                "additionalProperties": False,
            },
            handler=_calculate,
            trusted=True,
            source="builtin",
        ),
    ]


async def _calculate(args: dict[str, Any], _context: ToolContext) -> str:
    try:
        return evaluate(args["expression"])
    except ZeroDivisionError:
        raise ToolError("This divides by zero.", "bad_value") from None
    except Unsolvable:
        text = "Not an expression of numbers with + - * / ^ and brackets, or its value is too big."
        raise ToolError(text, "bad_value") from None


async def _zone(name: str) -> tzinfo:
    if name.upper() in ("UTC", "GMT", "Z"):
        return UTC
    offset = _OFFSET.match(name)
    if offset is not None:
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        if minutes < 24 * 60:
            return timezone(timedelta(minutes=minutes if offset[1] == "+" else -minutes))
    try:
        return await asyncio.to_thread(ZoneInfo, name)  # its first use reads a file
    except (ZoneInfoNotFoundError, ValueError, OSError):
        text = "Unknown time zone. Use an IANA name such as Europe/Berlin, or an offset as +02:00."
        raise ToolError(text, "bad_value") from None
