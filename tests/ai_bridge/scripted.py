"""Asks the scripted provider over a real socket, in each dialect's own way."""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
from yarl import URL

from bench.provider.server import ScriptedProvider

DIALECTS = ("chat", "responses", "anthropic", "gemini")
HELLO = "How are you? 你好吗"


class Told(NamedTuple):
    """An answer as it came: raw bytes, and what a reader of its dialect finds in them."""

    status: int
    headers: dict[str, str]
    raw: bytes
    cut: bool

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Return (name, data) of each event; data is not decoded where it is no JSON."""
        text = self.raw.decode("utf-8", "replace").replace("\r\n", "\n")
        found = []
        for block in text.split("\n\n"):
            fields = dict(
                line.split(":", 1) for line in block.split("\n") if line and line[0] != ":"
            )
            if "data" in fields:
                found.append((fields.get("event", "").strip(), _decoded(fields["data"].strip())))
        return found

    @property
    def data(self) -> list[Any]:
        return [data for _, data in self.events if isinstance(data, dict)]


def _decoded(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data


def request(
    dialect: str, model: str, *, stream: bool = True, result: bool = False, offer: bool = False
) -> tuple[str, dict[str, Any]]:
    """Return path and body: a question, perhaps followed by a tool call and its result."""
    schema = {"type": "object", "properties": {"query": {"type": "string"}}}
    if dialect == "gemini":
        contents: list[dict[str, Any]] = [{"role": "user", "parts": [{"text": HELLO}]}]
        if result:
            call = {"functionCall": {"name": "weather", "args": {}}}
            back = {"functionResponse": {"name": "weather", "response": {"output": "fog"}}}
            contents += [{"role": "model", "parts": [call]}, {"role": "user", "parts": [back]}]
        body: dict[str, Any] = {"contents": contents}
        if offer:
            body["tools"] = [{"functionDeclarations": [{"name": "weather", "parameters": schema}]}]
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"/v1beta/models/{quote(model)}:{verb}", body
    asked = [{"role": "user", "content": HELLO}]
    body = {"model": model, "stream": stream}
    if dialect == "responses":
        if result:
            asked += [
                {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "fog"},
            ]
        tools = [{"type": "function", "name": "weather", "parameters": schema}]
        return "/v1/responses", {**body, "input": asked, **({"tools": tools} if offer else {})}
    if dialect == "anthropic":
        if result:
            use: Any = [{"type": "tool_use", "id": "c", "name": "weather", "input": {}}]
            back_: Any = [{"type": "tool_result", "tool_use_id": "c", "content": "fog"}]
            asked += [{"role": "assistant", "content": use}, {"role": "user", "content": back_}]
        offered: Any = [{"name": "weather", "input_schema": schema}]
        more = {"tools": offered} if offer else {}
        return "/v1/messages", {**body, "max_tokens": 100, "messages": asked, **more}
    if result:
        function = {"name": "weather", "arguments": "{}"}
        calls: Any = [{"id": "c", "type": "function", "function": function}]
        asked += [
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c", "content": "fog"},
        ]
    functions = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    more = {"tools": functions} if offer else {}
    return "/v1/chat/completions", {**body, "messages": asked, **more}


async def ask(provider: ScriptedProvider, dialect: str, model: str, **wishes: bool) -> Told:
    """Ask and read all that comes."""
    path, body = request(dialect, model, **wishes)
    return await post(provider, path, json=body)


async def post(provider: ScriptedProvider, path: str, **how: Any) -> Told:
    url = URL(f"{provider.root_url}{path}", encoded=True)
    async with aiohttp.ClientSession() as session, session.post(url, **how) as response:
        raw = bytearray()
        cut = False
        try:
            async for piece in response.content.iter_any():
                raw += piece
        except aiohttp.ClientError:
            cut = True
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Told(response.status, headers, bytes(raw), cut)


def text_in(dialect: str, told: Told) -> str:
    """Return the text of a stream's deltas."""
    return "".join(_texts(dialect, told))


def _texts(dialect: str, told: Told) -> list[str]:
    if dialect == "chat":
        return [
            choice["delta"].get("content") or ""
            for data in told.data
            for choice in data.get("choices") or []
        ]
    if dialect == "responses":
        return [one["delta"] for one in told.data if one["type"] == "response.output_text.delta"]
    if dialect == "anthropic":
        deltas = [one["delta"] for one in told.data if one["type"] == "content_block_delta"]
        return [delta["text"] for delta in deltas if delta["type"] == "text_delta"]
    return [part["text"] for part in parts_in(told) if "text" in part and not part.get("thought")]


def parts_in(told: Told) -> list[dict[str, Any]]:
    """Return the parts of all candidates of a Gemini stream."""
    return [
        part
        for data in told.data
        for candidate in data.get("candidates", [])
        for part in candidate["content"]["parts"]
    ]
