"""Transcriptions without ears: the text tells what was sent.

Shapes: https://platform.openai.com/docs/api-reference/audio/createTranscription.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from bench.provider.reply import compact

_NAME = re.compile(r'name="([^"]*)"')
_FILE = re.compile(r'filename="([^"]*)"')


def form_of(content_type: str, body: bytes) -> dict[str, Any]:
    """Read multipart/form-data (RFC 7578); a file becomes its name, type and size in bytes.

    Raises:
        ValueError: this is no form.
    """
    _, found, boundary = content_type.partition("boundary=")
    if not found:
        raise ValueError("no boundary")
    border = b"--" + boundary.strip('"').encode()
    form: dict[str, Any] = {}
    for part in body.split(border)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        lines = head.decode("utf-8", "replace")
        name = _NAME.search(lines)
        content = content.removesuffix(b"\r\n")
        if name is None:
            continue
        if file := _FILE.search(lines):
            kind = re.search(r"content-type:\s*(\S+)", lines, re.I)
            told = {"name": unquote(file[1]), "type": kind[1] if kind else "", "size": len(content)}
            form[name[1]] = told
        else:
            form[name[1]] = content.decode("utf-8", "replace")
    return form


def told(form: dict[str, Any]) -> str:
    """Return the transcript: name, size and language of the recording."""
    file = form.get("file")
    name, size = (file["name"], file["size"]) if isinstance(file, dict) else ("nothing", 0)
    return f"{name}, {size} bytes, language {form.get('language', 'unknown')}"


def answer(form: dict[str, Any], text: str, seconds: float) -> tuple[str, bytes]:
    """Return content type and body in the form that `response_format` wants."""
    wanted = form.get("response_format", "json")
    if wanted == "text":
        return "text/plain; charset=utf-8", text.encode() + b"\n"
    if wanted in ("srt", "vtt"):
        begin = "WEBVTT\n\n" if wanted == "vtt" else "1\n"
        dot = "." if wanted == "vtt" else ","
        end = f"00:00:{int(seconds):02d}{dot}000"
        cue = f"{begin}00:00:00{dot}000 --> {end}\n{text}\n"
        return "text/plain; charset=utf-8", cue.encode()
    usage = {"type": "duration", "seconds": round(seconds)}
    body: dict[str, Any] = {"text": text, "usage": usage}
    if wanted == "verbose_json":
        language = form.get("language", "en")
        segment = {"id": 0, "start": 0.0, "end": seconds, "text": text}
        more = {"task": "transcribe", "language": language, "duration": seconds}
        body = {**more, "text": text, "segments": [segment], "usage": usage}
    return "application/json", compact(body)
