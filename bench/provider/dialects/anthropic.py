"""Anthropic messages: https://docs.anthropic.com/en/docs/build-with-claude/streaming.

Its `input_tokens` leave out what came from the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.provider.dialect import Failure, dicts, text_of
from bench.provider.reply import PACED, PLAIN, TOKEN, Call, Piece, Reply, Talk, compact, literal

SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"
_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_TEXTS = {
    "context_length_exceeded": "prompt is too long: 210042 tokens > 200000 maximum",
    "content_filter": "Output blocked by content filtering policy",
}


class Anthropic:
    name = "anthropic"

    def read(self, body: dict[str, Any]) -> Talk:
        results = 0
        question = ""
        for message in reversed(dicts(body.get("messages"))):
            if message.get("role") != "user":
                continue
            kinds = {part.get("type") for part in dicts(message.get("content"))}
            if "tool_result" not in kinds:
                question = text_of(message.get("content"))
                break
            results += 1
        names = tuple(str(one["name"]) for one in dicts(body.get("tools")) if "name" in one)
        return Talk(question=question, results=results, tools=names)

    def stream(self, reply: Reply) -> Iterator[Piece]:
        yield PLAIN, _event("message_start", {"message": _started(reply)})
        ping = self.ping()
        index = 0
        if reply.thoughts:
            yield PLAIN, _start(index, {"type": "thinking", "thinking": "", "signature": ""})
            yield PLAIN, ping
            head = _delta_head(index, "thinking_delta", "thinking")
            for thought in reply.thoughts:
                yield PACED, head + literal(thought) + b"}}\n\n"
            yield PLAIN, _delta_head(index, "signature_delta", "signature") + _SIGNED
            yield PLAIN, _event("content_block_stop", {"index": index})
            index += 1
        if not reply.calls or reply.said or reply.preface():
            yield PLAIN, _start(index, {"type": "text", "text": ""})
            yield PLAIN, ping
            head = _delta_head(index, "text_delta", "text")
            for kind, text in reply.spoken():
                yield kind, head + text + b"}}\n\n"
            yield PLAIN, _event("content_block_stop", {"index": index})
            index += 1
        for at, call in enumerate(reply.calls, index):
            yield from _call(reply, call, at)
        if not reply.behaviour.no_finish:
            yield PLAIN, _event("message_delta", _ended(reply))
        if not reply.behaviour.no_done:
            yield PLAIN, _event("message_stop", {})

    def whole(self, reply: Reply) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if reply.thoughts:
            thinking = "".join(reply.thoughts)
            content.append({"type": "thinking", "thinking": thinking, "signature": SIGNATURE})
        if reply.text:
            content.append({"type": "text", "text": reply.text})
        content += [{**_use(reply, call), "input": call.parsed() or {}} for call in reply.calls]
        ended = _ended(reply)["delta"] if not reply.behaviour.no_finish else {}
        body = {**_started(reply), "content": content, **ended}
        if not reply.behaviour.no_usage:
            body["usage"] = {**_input(reply), "output_tokens": reply.completion}
        return body

    def error(self, failure: Failure) -> dict[str, Any]:
        kind = _TYPES.get(failure.status, "api_error")
        begin = _TEXTS.get(failure.code, "Overloaded" if failure.status == 529 else "Refused.")
        if failure.code and failure.code not in _TEXTS:
            kind = failure.code
        elif failure.quota:
            begin = "Your credit balance is too low to access the Anthropic API."
            kind = "billing_error" if failure.status == 402 else kind
        error = {"type": kind, "message": failure.text(begin)}
        return {"type": "error", "error": error, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}

    def error_event(self, failure: Failure) -> bytes:
        body = self.error(failure)
        return _event("error", {"error": body["error"], "request_id": body["request_id"]})

    def ping(self) -> bytes:
        return _event("ping", {})


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), compact({"type": name, **fields}))


_SIGNED = literal(SIGNATURE) + b"}}\n\n"


def _start(index: int, block: dict[str, Any]) -> bytes:
    return _event("content_block_start", {"index": index, "content_block": block})


def _delta_head(index: int, kind: str, field: str) -> bytes:
    """Return an event up to its text; encoded once per block."""
    return (
        f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{index},'
        f'"delta":{{"type":"{kind}","{field}":'
    ).encode()


def _call(reply: Reply, call: Call, index: int) -> Iterator[Piece]:
    yield PLAIN, _start(index, {**_use(reply, call), "input": {}})
    head = _delta_head(index, "input_json_delta", "partial_json")
    yield PLAIN, head + b'""}}\n\n'
    for piece in reply.argument_pieces(call):
        yield TOKEN, head + literal(piece) + b"}}\n\n"
    yield PLAIN, _event("content_block_stop", {"index": index})


def _use(reply: Reply, call: Call) -> dict[str, Any]:
    name = {} if reply.behaviour.call_no_id else {"id": f"toolu_{call.id}"}
    return {"type": "tool_use", **name, "name": call.name}


def _started(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {
        "id": f"msg_{reply.id}",
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    if not reply.behaviour.no_usage:
        message["usage"] = {**_input(reply), "output_tokens": 1}
    return message


def _input(reply: Reply) -> dict[str, Any]:
    return {
        "input_tokens": reply.behaviour.prompt - reply.behaviour.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": reply.behaviour.cached,
        "service_tier": "standard",
    }


def _ended(reply: Reply) -> dict[str, Any]:
    reason = _STOP.get(reply.finish, reply.finish)
    fields: dict[str, Any] = {"delta": {"stop_reason": reason, "stop_sequence": None}}
    if not reply.behaviour.no_usage:
        fields["usage"] = {"output_tokens": reply.completion}
    return fields
