"""OpenAI chat completions: https://platform.openai.com/docs/api-reference/chat-streaming.

The `reasoning_content` of thoughts is DeepSeek's, `reasoning` OpenRouter's and vLLM's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.provider.dialect import Failure, dicts, text_of
from bench.provider.reply import PACED, PLAIN, TOKEN, Call, Piece, Reply, Talk, compact, literal

FINGERPRINT = "fp_44709d6fcb"
_TYPES = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_balance"),
    403: ("invalid_request_error", None),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", None),
    429: ("requests", "rate_limit_exceeded"),
}
_QUOTA = ("insufficient_quota", "insufficient_quota")


class Chat:
    name = "chat"

    def read(self, body: dict[str, Any]) -> Talk:
        results = 0
        question = ""
        answered = False  # a run of results is one round
        for message in reversed(dicts(body.get("messages"))):
            role = message.get("role")
            if role == "user":
                question = text_of(message.get("content"))
                break
            results += role == "tool" and not answered
            answered = role == "tool"
        functions = (tool.get("function") for tool in dicts(body.get("tools")))
        names = tuple(str(one.get("name")) for one in functions if isinstance(one, dict))
        return Talk(question=question, results=results, tools=names)

    def stream(self, reply: Reply) -> Iterator[Piece]:
        behaviour = reply.behaviour
        if behaviour.azure:
            yield PLAIN, _AZURE_OPENING
        head, tail = _frame(reply)
        yield PLAIN, head + b'{"role":"assistant","content":"","refusal":null}' + tail
        field = literal(behaviour.think_field or "reasoning_content")
        for thought in reply.thoughts:
            yield PACED, head + b"{" + field + b":" + literal(thought) + b"}" + tail
        begin, end = head + b'{"content":', b"}" + tail
        for kind, text in reply.spoken():
            yield kind, begin + text + end
        for index, call in enumerate(reply.calls):
            for kind, delta in _call_deltas(reply, call, index):
                yield kind, head + compact({"tool_calls": [delta]}) + tail
        if not behaviour.no_finish:
            yield PLAIN, head + b"{}" + _tail(literal(reply.finish))
        if not behaviour.no_usage:
            yield PLAIN, _event(_usage_chunk(reply))
        if not behaviour.no_done:
            yield PLAIN, b"data: [DONE]\n\n"

    def whole(self, reply: Reply) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": reply.text if reply.text or not reply.calls else None,
            "refusal": None,
            "annotations": [],
        }
        if reply.thoughts:
            field = reply.behaviour.think_field or "reasoning_content"
            message[field] = "".join(reply.thoughts)
        if reply.calls:
            message["tool_calls"] = [_whole_call(reply, call) for call in reply.calls]
        finish = None if reply.behaviour.no_finish else reply.finish
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        body = _envelope(reply, "chat.completion", [choice])
        if not reply.behaviour.no_usage:
            body["usage"] = usage(reply)
        return body

    def error(self, failure: Failure) -> dict[str, Any]:
        kind, code = _TYPES.get(failure.status, ("server_error", None))
        if failure.quota:
            kind, code = _QUOTA
        text = failure.text("The request could not be served.")
        code = failure.code or code
        return {"error": {"message": text, "type": kind, "param": None, "code": code}}

    def error_event(self, failure: Failure) -> bytes:
        body = self.error(failure)
        if failure.code.isdigit():  # OpenRouter puts the HTTP status there
            body["error"]["code"] = int(failure.code)
        return _event(body)

    def ping(self) -> bytes:
        """OpenRouter's comment; the dialect has no event of its own."""
        return b": OPENROUTER PROCESSING\n\n"


def usage(reply: Reply) -> dict[str, Any]:
    """Return https://platform.openai.com/docs/api-reference/chat/object#chat/object-usage."""
    prompt, completion = reply.behaviour.prompt, reply.completion
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": reply.behaviour.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reply.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _envelope(reply: Reply, kind: str, choices: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{reply.id}",
        "object": kind,
        "created": reply.created,
        "model": reply.model,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
    }


def _usage_chunk(reply: Reply) -> dict[str, Any]:
    choices: list[dict[str, Any]] | None = None if reply.behaviour.null_choices else []
    return {**_envelope(reply, "chat.completion.chunk", choices), "usage": usage(reply)}


def _frame(reply: Reply) -> tuple[bytes, bytes]:
    """Return what stands before and after a delta; encoded once, the deltas are many."""
    body = compact(_envelope(reply, "chat.completion.chunk", []))
    return b"data: " + body.removesuffix(b"]}") + b'{"index":0,"delta":', _tail(b"null")


def _tail(finish: bytes) -> bytes:
    return b',"logprobs":null,"finish_reason":' + finish + b'}],"usage":null}\n\n'


def _call_deltas(reply: Reply, call: Call, index: int) -> Iterator[tuple[int, dict[str, Any]]]:
    behaviour = reply.behaviour
    place = {} if behaviour.call_no_index else {"index": index}
    name = {} if behaviour.call_no_id else {"id": f"call_{call.id}"}
    begin = {**place, **name, "type": "function"}
    if behaviour.call_dict or behaviour.call_whole:
        args: object = (call.parsed() or {}) if behaviour.call_dict else call.args
        yield TOKEN, {**begin, "function": {"name": call.name, "arguments": args}}
        return
    yield PLAIN, {**begin, "function": {"name": call.name, "arguments": ""}}
    for piece in reply.argument_pieces(call):
        yield TOKEN, {**place, "function": {"arguments": piece}}


def _whole_call(reply: Reply, call: Call) -> dict[str, Any]:
    args: object = (call.parsed() or {}) if reply.behaviour.call_dict else call.args
    name = {} if reply.behaviour.call_no_id else {"id": f"call_{call.id}"}
    return {**name, "type": "function", "function": {"name": call.name, "arguments": args}}


def _event(value: object) -> bytes:
    return b"data: " + compact(value) + b"\n\n"


_SAFE = {"filtered": False, "severity": "safe"}
_AZURE_OPENING = _event(
    {
        "choices": [],
        "created": 0,
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": [
            {"prompt_index": 0, "content_filter_results": {"hate": _SAFE, "violence": _SAFE}}
        ],
    }
)
