"""OpenAI responses: https://platform.openai.com/docs/api-reference/responses-streaming."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from bench.provider.dialect import Failure, dicts, text_of
from bench.provider.dialects.chat import Chat
from bench.provider.reply import PACED, PLAIN, TOKEN, Call, Piece, Reply, Talk, compact, literal

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Responses:
    name = "responses"

    def read(self, body: dict[str, Any]) -> Talk:
        asked = body.get("input")
        if isinstance(asked, str):
            return Talk(question=asked, tools=_tools(body))
        results = 0
        question = ""
        answered = False
        for item in reversed(dicts(asked)):
            if item.get("role") == "user":
                question = text_of(item.get("content"))
                break
            output = item.get("type") == "function_call_output"
            results += output and not answered
            answered = output
        return Talk(question=question, results=results, tools=_tools(body))

    def stream(self, reply: Reply) -> Iterator[Piece]:
        return _Stream(reply).pieces()

    def whole(self, reply: Reply) -> dict[str, Any]:
        output: list[dict[str, Any]] = []
        if reply.thoughts:
            output.append(_reasoning(reply, "".join(reply.thoughts)))
        if reply.text or not reply.calls:
            output.append(_message(reply, [_part(reply.text)]))
        output += [_function(reply, call, call.args) for call in reply.calls]
        return _response(reply, *_ending(reply), output)

    def error(self, failure: Failure) -> dict[str, Any]:
        return Chat().error(failure)

    def error_event(self, failure: Failure) -> bytes:
        code = failure.code or "server_error"
        text = failure.text("An error occurred while processing your request.")
        fields = {"code": code, "message": text, "param": None}
        return _event("error", {"sequence_number": 0, **fields})

    def ping(self) -> bytes:
        return _event("keepalive", {"sequence_number": 0})


class _Stream:
    """Numbers the events of one answer and keeps what the last one repeats."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._numbers = itertools.count()
        self._output: list[dict[str, Any]] = []

    def pieces(self) -> Iterator[Piece]:
        reply = self._reply
        started = _response(reply, "in_progress", {}, [])
        yield self._plain("response.created", {"response": started})
        yield self._plain("response.in_progress", {"response": started})
        if reply.thoughts:
            yield from self._thoughts()
        if reply.positions == 0 or reply.text or not reply.calls:
            yield from self._text()
        for call in reply.calls:
            yield from self._call(call)
        if not reply.behaviour.no_finish:
            status, details = _ending(reply)
            ended = _response(reply, status, details, self._output)
            yield self._plain(f"response.{status}", {"response": ended})

    def _thoughts(self) -> Iterator[Piece]:
        """Yield a summary, or the raw thoughts that open models show."""
        reply = self._reply
        raw = bool(reply.behaviour.think_field)
        place = {"item_id": f"rs_{reply.id}", "output_index": 0}
        place["content_index" if raw else "summary_index"] = 0
        name = "reasoning_text" if raw else "reasoning_summary_text"
        part = "content_part" if raw else "reasoning_summary_part"
        kind = "reasoning_text" if raw else "summary_text"
        text = "".join(reply.thoughts)
        yield self._added(_reasoning(reply, ""))
        yield self._plain(f"response.{part}.added", {**place, "part": {"type": kind, "text": ""}})
        head, tail = _delta_frame(f"response.{name}.delta", place)
        for thought in reply.thoughts:
            yield PACED, self._delta(head, literal(thought), tail)
        yield self._plain(f"response.{name}.done", {**place, "text": text})
        yield self._plain(f"response.{part}.done", {**place, "part": {"type": kind, "text": text}})
        yield self._done(_reasoning(reply, text))

    def _text(self) -> Iterator[Piece]:
        reply = self._reply
        place = {"item_id": f"msg_{reply.id}", "output_index": len(self._output)}
        place["content_index"] = 0
        yield self._added({**_message(reply, []), "status": "in_progress"})
        yield self._plain("response.content_part.added", {**place, "part": _part("")})
        head, tail = _delta_frame("response.output_text.delta", {**place, "logprobs": []})
        for kind, text in reply.spoken():
            yield kind, self._delta(head, text, tail)
        whole = reply.text
        done = {**place, "text": whole, "logprobs": []}
        yield self._plain("response.output_text.done", done)
        yield self._plain("response.content_part.done", {**place, "part": _part(whole)})
        yield self._done(_message(reply, [_part(whole)]))

    def _call(self, call: Call) -> Iterator[Piece]:
        reply = self._reply
        place = {"item_id": f"fc_{call.id}", "output_index": len(self._output)}
        yield self._added({**_function(reply, call, ""), "status": "in_progress"})
        name = "response.function_call_arguments"
        head, tail = _delta_frame(f"{name}.delta", place)
        for piece in reply.argument_pieces(call):
            yield TOKEN, self._delta(head, literal(piece), tail)
        yield self._plain(f"{name}.done", {**place, "name": call.name, "arguments": call.args})
        yield self._done(_function(reply, call, call.args))

    def _added(self, item: dict[str, Any]) -> Piece:
        fields = {"output_index": len(self._output), "item": item}
        return self._plain("response.output_item.added", fields)

    def _done(self, item: dict[str, Any]) -> Piece:
        fields = {"output_index": len(self._output), "item": item}
        self._output.append(item)
        return self._plain("response.output_item.done", fields)

    def _plain(self, name: str, fields: dict[str, Any]) -> Piece:
        return PLAIN, _event(name, {"sequence_number": next(self._numbers), **fields})

    def _delta(self, head: bytes, text: bytes, tail: bytes) -> bytes:
        return b"%b%d%b%b%b" % (head, next(self._numbers), b',"delta":', text, tail)


def _delta_frame(name: str, fields: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return what stands before the number and after the text; encoded once."""
    head = f'event: {name}\ndata: {{"type":"{name}","sequence_number":'.encode()
    return head, b"," + compact(fields).removeprefix(b"{") + b"\n\n"


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), compact({"type": name, **fields}))


def _ending(reply: Reply) -> tuple[str, dict[str, Any]]:
    """Return the status and the fields that explain it."""
    if reply.finish == "failed":
        failure = Failure.of(reply.behaviour)
        text = failure.text("The model failed to answer.")
        return "failed", {"error": {"code": failure.code or "server_error", "message": text}}
    if reply.finish in _INCOMPLETE:
        return "incomplete", {"incomplete_details": {"reason": _INCOMPLETE[reply.finish]}}
    return "completed", {}


def _response(
    reply: Reply, status: str, details: dict[str, Any], output: list[dict[str, Any]]
) -> dict[str, Any]:
    told = status != "in_progress" and not reply.behaviour.no_usage
    return {
        "id": f"resp_{reply.id}",
        "object": "response",
        "created_at": reply.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": reply.model,
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _usage(reply) if told else None,
        "user": None,
        "metadata": {},
        **details,
    }


def _usage(reply: Reply) -> dict[str, Any]:
    prompt, completion = reply.behaviour.prompt, reply.completion
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": reply.behaviour.cached},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reply.reasoning},
        "total_tokens": prompt + completion,
    }


def _reasoning(reply: Reply, text: str) -> dict[str, Any]:
    item: dict[str, Any] = {"id": f"rs_{reply.id}", "type": "reasoning", "summary": []}
    if not text:
        return item
    if reply.behaviour.think_field:
        item["content"] = [{"type": "reasoning_text", "text": text}]
    else:
        item["summary"] = [{"type": "summary_text", "text": text}]
    return item


def _message(reply: Reply, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"msg_{reply.id}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": content,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _function(reply: Reply, call: Call, args: str) -> dict[str, Any]:
    item = {"id": f"fc_{call.id}", "type": "function_call", "status": "completed"}
    if not reply.behaviour.call_no_id:
        item["call_id"] = f"call_{call.id}"
    return {**item, "name": call.name, "arguments": args}


def _tools(body: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(one["name"]) for one in dicts(body.get("tools")) if "name" in one)
