"""Gemini: https://ai.google.dev/api/generate-content. Its lines end with CR LF.

`candidatesTokenCount` leaves out the thoughts. A function call is one part, never cut. The
stream has no last event: the body ends after the chunk with the finish reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.provider.dialect import Failure, dicts, text_of
from bench.provider.reply import PACED, PLAIN, TOKEN, Call, Piece, Reply, Talk, compact, literal

_FINISH = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "tool_calls": "STOP",
    "failed": "OTHER",
}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TOO_LONG = (
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
)
_RPC = "type.googleapis.com/google.rpc."


class Gemini:
    name = "gemini"

    def read(self, body: dict[str, Any]) -> Talk:
        results = 0
        question = ""
        for content in reversed(dicts(body.get("contents"))):
            if content.get("role") == "model":
                continue
            parts = dicts(content.get("parts"))
            if not any("functionResponse" in part for part in parts):
                question = text_of(parts)
                break
            results += 1
        declared = [
            one
            for tool in dicts(body.get("tools"))
            for one in dicts(tool.get("functionDeclarations"))
        ]
        names = tuple(str(one["name"]) for one in declared if "name" in one)
        return Talk(question=question, results=results, tools=names)

    def stream(self, reply: Reply) -> Iterator[Piece]:
        if reply.behaviour.blocked:
            yield PLAIN, _event(_blocked(reply))
            return
        head, tail = _frame(reply)
        for thought in reply.thoughts:
            part = b'{"text":' + literal(thought) + b',"thought":true}'
            yield PACED, head + part + tail
        begin, end = head + b'{"text":', b"}" + tail
        for kind, text in reply.spoken():
            yield kind, begin + text + end
        finish = _finish(reply)
        for call in reply.calls:
            if finish != _MALFORMED:
                yield TOKEN, head + compact(_part(reply, call)) + tail
        yield PLAIN, _event(_response(reply, [{"text": ""}], finish))

    def whole(self, reply: Reply) -> dict[str, Any]:
        if reply.behaviour.blocked:
            return _blocked(reply)
        parts: list[dict[str, Any]] = []
        if reply.thoughts:
            parts.append({"text": "".join(reply.thoughts), "thought": True})
        if reply.text:
            parts.append({"text": reply.text})
        if (finish := _finish(reply)) != _MALFORMED:
            parts += [_part(reply, call) for call in reply.calls]
        return _response(reply, parts, finish)

    def error(self, failure: Failure) -> dict[str, Any]:
        status = _STATUS.get(failure.status, "INTERNAL")
        begin = _TOO_LONG if failure.code == "context_length_exceeded" else "The call failed."
        error = {"code": failure.status, "message": failure.text(begin), "status": status}
        if details := list(_details(failure)):
            error["details"] = details
        return {"error": error}

    def error_event(self, failure: Failure) -> bytes:
        return _event(self.error(failure))

    def ping(self) -> bytes:
        """A chunk without candidates, as the service sends while it thinks."""
        return _event({"candidates": [], "modelVersion": "fake", "responseId": "ping"})


_MALFORMED = "MALFORMED_FUNCTION_CALL"


def _event(value: object) -> bytes:
    return b"data: " + compact(value) + b"\r\n\r\n"


def _finish(reply: Reply) -> str:
    if any(call.parsed() is None for call in reply.calls):
        return _MALFORMED
    return _FINISH.get(reply.finish, reply.finish)


def _part(reply: Reply, call: Call) -> dict[str, Any]:
    name = {} if reply.behaviour.call_no_id else {"id": call.id}
    wanted = {**name, "name": call.name, "args": call.parsed() or {}}
    return {"functionCall": wanted, "thoughtSignature": "CiQBVKhc7sZ4wdyUmY2gJbqGSnYl"}


def _frame(reply: Reply) -> tuple[bytes, bytes]:
    """Return what stands before and after a part; encoded once, the parts are many."""
    prompt = reply.behaviour.prompt
    names = compact({"modelVersion": reply.model, "responseId": f"gem{reply.id}"})
    usage = b""
    if not reply.behaviour.no_usage:
        usage = b'"usageMetadata":{"promptTokenCount":%d,"totalTokenCount":%d},' % (prompt, prompt)
    tail = b'],"role":"model"},"index":0}],' + usage + names.removeprefix(b"{") + b"\r\n\r\n"
    return b'data: {"candidates":[{"content":{"parts":[', tail


def _response(reply: Reply, parts: list[dict[str, Any]], finish: str) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}}
    if not reply.behaviour.no_finish:
        candidate["finishReason"] = finish
    return {"candidates": [{**candidate, "index": 0}], **_closing(reply)}


def _blocked(reply: Reply) -> dict[str, Any]:
    rating = {"category": "HARM_CATEGORY_HARASSMENT", "probability": "HIGH"}
    feedback = {"blockReason": "SAFETY", "safetyRatings": [rating]}
    return {"promptFeedback": feedback, **_closing(reply)}


def _closing(reply: Reply) -> dict[str, Any]:
    names = {"modelVersion": reply.model, "responseId": f"gem{reply.id}"}
    return names if reply.behaviour.no_usage else {"usageMetadata": _usage(reply), **names}


def _usage(reply: Reply) -> dict[str, Any]:
    prompt, completion = reply.behaviour.prompt, reply.completion
    figures: dict[str, Any] = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": completion - reply.reasoning,
        "totalTokenCount": prompt + completion,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
    }
    if reply.reasoning:
        figures["thoughtsTokenCount"] = reply.reasoning
    if reply.behaviour.cached:
        figures["cachedContentTokenCount"] = reply.behaviour.cached
    return figures


def _details(failure: Failure) -> Iterator[dict[str, Any]]:
    if failure.code and failure.code != "context_length_exceeded":
        yield {"@type": _RPC + "ErrorInfo", "reason": failure.code, "domain": "googleapis.com"}
    if failure.status == 429:
        period = "PerDay" if failure.quota else "PerMinute"
        quota = f"GenerateRequests{period}PerProjectPerModel-FreeTier"
        yield {"@type": _RPC + "QuotaFailure", "violations": [{"quotaId": quota}]}
    if failure.retry_delay:
        yield {"@type": _RPC + "RetryInfo", "retryDelay": failure.retry_delay}
