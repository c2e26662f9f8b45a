"""POST /v1/audio/transcriptions: a form with a recording in, its words out, as OpenAI's.

Fields: `file`, `model`, `language`, `prompt`, `response_format` (json, text, verbose_json); others
are ignored, those that ask for another answer are refused. `verbose_json` has no segments.
Source: platform.openai.com/docs/api-reference/audio/createTranscription.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import BodyPartReader, web
from msgspec import Struct

from ai_bridge.errors import BridgeError
from ai_bridge.http.answers import Pulse
from ai_bridge.http.problems import Problem, problem_of_refusal, unknown_model
from ai_bridge.speech import Speech, Written, too_large_text
from protocol.codes import Code

T = TypeVar("T")

UPLOAD_S: Final = 120.0
"""A recording must be there by then: 25 MB at 1.7 Mbit/s."""
MAX_PARTS: Final = 16
MAX_FIELD_BYTES: Final = 8 * 1024
FORM_BYTES: Final = 64 * 1024
"""Of a form beside the recording."""
_CHUNK_BYTES: Final = 64 * 1024
_FORMATS: Final = ("json", "text", "verbose_json")
_ELSE: Final = ("stream", "timestamp_granularities[]", "include[]", "chunking_strategy")


class Form(Struct):
    """What was asked for."""

    data: bytes = b""
    has_file: bool = False
    fields: dict[str, str] = {}


Write = Callable[[bytes, str, str], Awaitable[Written]]
"""Writes down a recording, given its language and a prompt."""


async def answer_transcription(
    request: web.Request, speech: Speech, pulse: Pulse, write: Write
) -> web.Response:
    """Read the form, have the recording written down, answer.

    A client that leaves ends the work; so does cancelling this.

    Raises:
        Problem: what is wrong with the request, or with the answer.
    """
    if not speech.config.on:
        text = "This server writes no recordings down: the operator has not set up a service."
        raise Problem(404, text, code="speech_not_configured")
    most = speech.config.max_bytes
    announced = request.content_length
    if announced is not None and announced > most + FORM_BYTES:
        raise _too_large(most)
    try:
        with speech.hold(most if announced is None else announced):
            form = await _read(request, most)
            fields = form.fields
            shape = _check(form, speech)
            words = (fields.get("language", ""), fields.get("prompt", ""))
            written = await while_connected(request, pulse, write(form.data, *words))
    except BridgeError as refusal:
        if refusal.code is Code.SIZE_LIMIT:
            raise Problem(413, refusal.text, code="request_too_large", param="file") from None
        raise problem_of_refusal(refusal) from None
    return _answer(written, shape)


async def while_connected(request: web.Request, pulse: Pulse, work: Awaitable[T]) -> T:
    """Return what the work makes; end it when the client has gone or this is cancelled.

    Raises:
        Problem: 499, the client has gone.
    """
    task: asyncio.Future[T] = asyncio.ensure_future(work)
    watch = _Watch(request, task)
    pulse.add(watch)
    try:
        return await task
    except asyncio.CancelledError:
        if watch.gone:
            raise Problem(499, "The client has left.", code="cancelled") from None
        raise
    finally:
        pulse.discard(watch)


class _Watch:
    def __init__(self, request: web.Request, task: asyncio.Future[Any]) -> None:
        self._request = request
        self._task = task
        self.gone = False

    def beat(self, now: float) -> None:
        if self._request.transport is None and not self.gone:
            self.gone = True
            self._task.cancel()


async def _read(request: web.Request, most: int) -> Form:
    """Read the form; holds no more of it than the recording and the small fields.

    Raises:
        Problem: 400 no form or a broken one, 408 too slow, 413 too large.
    """
    if request.content_type != "multipart/form-data":
        raise Problem(400, "Send the recording as multipart/form-data, in the field 'file'.")
    form = Form()
    try:
        async with asyncio.timeout(UPLOAD_S):
            await _read_parts(request, form, most)
    except TimeoutError:
        raise Problem(408, "The recording came too slowly; send it again.") from None
    except (ValueError, LookupError, AssertionError, ConnectionError):
        raise Problem(400, "The form cannot be read: it is broken or cut off.") from None
    return form


async def _read_parts(request: web.Request, form: Form, most: int) -> None:
    reader = await request.multipart()
    for _ in range(MAX_PARTS):
        part = await reader.next()
        if part is None:
            return
        if not isinstance(part, BodyPartReader):
            raise Problem(400, "A form within the form is not read.")
        if part.name == "file":
            if form.has_file:
                raise Problem(400, "Send one recording at a time.", param="file")
            form.has_file = True
            form.data = await _content(part, most, _too_large(most))
        else:
            name = part.name or ""
            too_long = Problem(400, "A field of the form is too long.", param=name[:64] or None)
            value = await _content(part, MAX_FIELD_BYTES, too_long)
            form.fields[name] = value.decode("utf-8", "replace")
    raise Problem(400, f"The form has more than {MAX_PARTS} parts.")


async def _content(part: BodyPartReader, most: int, problem: Problem) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := await part.read_chunk(_CHUNK_BYTES):
        size += len(piece)
        if size > most:
            raise problem
        pieces.append(bytes(piece))
    return b"".join(pieces)


def _check(form: Form, speech: Speech) -> str:
    """Return the shape of the answer.

    Raises:
        Problem: 400 or 404, it cannot be answered as it was asked.
    """
    fields = form.fields
    if not form.has_file:
        raise Problem(400, "The field 'file' with the recording is missing.", param="file")
    model = fields.get("model", "")
    if not speech.serves(model):
        raise unknown_model(model)
    for name in _ELSE:
        if fields.get(name, "").lower() not in ("", "false", "0"):
            text = f"{name!r} is not offered here; leave it out."
            raise Problem(400, text, code="unsupported_parameter", param=name)
    shape = fields.get("response_format") or "json"
    if shape not in _FORMATS:
        text = f"response_format is one of {', '.join(_FORMATS)}."
        raise Problem(400, text, code="unsupported_parameter", param="response_format")
    return shape


def _answer(written: Written, shape: str) -> web.Response:
    transcript = written.transcript
    headers = {"Cache-Control": "no-store"}
    if shape == "text":
        return web.Response(text=transcript.text + "\n", headers=headers)
    usage = {"type": "duration", "seconds": round(transcript.seconds)}
    body: dict[str, Any] = {"text": transcript.text, "usage": usage}
    if shape == "verbose_json":
        more = {"language": transcript.language, "duration": transcript.seconds}
        body = {"task": "transcribe", **more, **body}
    return web.Response(
        body=msgspec.json.encode(body), content_type="application/json", headers=headers
    )


def _too_large(most: int) -> Problem:
    return Problem(413, too_large_text(most), code="request_too_large", param="file")
