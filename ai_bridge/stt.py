"""Speech to text through an OpenAI-shaped transcription endpoint, for voice messages.

OpenAI, Groq, and the servers of whisper.cpp, faster-whisper and vLLM speak it; no model runs in
this process. Source: platform.openai.com/docs/api-reference/audio/createTranscription.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from ai_bridge.audio_length import seconds_of
from ai_bridge.backends import check_base_url, transport_of
from ai_bridge.config import ProviderConfig
from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.providers.base import HttpRequest, Transport
from ai_bridge.providers.body import BodyDecoder
from ai_bridge.providers.failures import failure_of
from ai_bridge.providers.halves import without_halves
from ai_bridge.providers.lenient import error_object, read_event
from ai_bridge.providers.openai_chat import bearer
from ai_bridge.providers.request import own_headers
from ai_bridge.providers.services import base_url_of, first_key
from protocol.codes import Code

MAX_BYTES = 25 * 1024 * 1024
MAX_SECONDS = 600.0
MAX_TEXT_CHARS = 20_000
"""Ten minutes of fast speech are under 12,000 letters."""
MAX_PROMPT_CHARS = 2_000
"""Services read about 224 tokens of it."""
DEADLINE_S = 120.0
_READ_MARGIN_S = 30.0
"""The answer comes at the end in one piece: no silence before it means a dead connection."""

# The services go by the ending of the file's name. Types as browsers and telephones tell them.
_ENDINGS = {
    "audio/ogg": "ogg",
    "audio/opus": "ogg",
    "application/ogg": "ogg",
    "audio/webm": "webm",
    "video/webm": "webm",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/mp4": "m4a",
    "audio/m4a": "m4a",
    "audio/x-m4a": "m4a",
    "video/mp4": "mp4",
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
    "audio/vnd.wave": "wav",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
}
_KNOWN_ENDINGS = frozenset(_ENDINGS.values()) | {"mpeg", "mpga", "oga"}


class Transcript(Struct, frozen=True):
    """What was said; empty if nothing was. `seconds` is what is charged, 0.0 if nobody knows.

    `language` is what the service heard, in its own word for it; empty if it does not tell.
    """

    text: str
    seconds: float
    model: str
    language: str = ""


class _Usage(Struct):
    seconds: float | None = None


class _Answer(Struct):
    text: str | None = None
    language: str | None = None
    duration: float | None = None
    usage: _Usage | None = None


_answers = msgspec.json.Decoder(_Answer)


class HttpTranscriber:
    """Asks one service. Owns its connections; how many ask at a time is the caller's to bound."""

    def __init__(
        self,
        config: ProviderConfig,
        model: str = "whisper-1",
        *,
        deadline_s: float = DEADLINE_S,
        transport: Transport | None = None,
    ) -> None:
        if config.kind not in ("openai_chat", "openai_responses"):
            raise ValueError(f"AI provider {config.name!r} has no OpenAI-shaped transcriptions")
        check_base_url(config)
        self.model = model
        self._config = config
        self._deadline_s = deadline_s
        self._transport = transport or transport_of(config, deadline_s + _READ_MARGIN_S)

    async def transcribe(
        self, data: bytes, name: str, mime: str, lang: str | None = None, prompt: str = ""
    ) -> Transcript:
        """Write down one recording of at most 25 MB and ten minutes.

        Cancelling it closes the connection to the service.

        Args:
            name: the file's name; only its ending counts, where `mime` does not tell the format.
            lang: the speaker's language ("zh", "en-GB") if known; the service guesses better.
            prompt: words and names that occur, for their spelling.

        Raises:
            ProviderFailure: with what the speaker can do about it.
        """
        ending = _ending(name, mime)
        if not data:
            raise _empty()
        if len(data) > MAX_BYTES:
            raise _too_large()
        length_s = seconds_of(data)
        if length_s is not None and length_s > MAX_SECONDS:
            raise _too_long()
        request = self._request(data, ending, lang, prompt)
        decoder = BodyDecoder()
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._transport.stream(request, decoder, _classify)
        except TimeoutError:
            raise _late() from None
        except ProviderFailure as failure:
            # Without a status it is the way to the service that failed, not the service.
            raise (failure if failure.status else _down(failure.kind, failure)) from None
        return self._read(decoder.body, length_s)

    async def aclose(self) -> None:
        """Close idle connections; calls must have ended."""
        await self._transport.aclose()

    def _request(self, data: bytes, ending: str, lang: str | None, prompt: str) -> HttpRequest:
        fields = {"model": self.model, "response_format": self._format()}
        if language := language_of(lang):
            fields["language"] = language
        if prompt:
            fields["prompt"] = prompt[:MAX_PROMPT_CHARS]
        border = secrets.token_hex(16)
        headers = {
            "accept": "application/json",
            **own_headers(self._config),
            **bearer(first_key(self._config)),
            "content-type": f"multipart/form-data; boundary={border}",
        }
        url = base_url_of(self._config) + "/audio/transcriptions"
        return HttpRequest(url, headers, _form(border, fields, ending, data))

    def _format(self) -> str:
        """The newer models know only `json`, the whisper ones tell the length in the other."""
        return "verbose_json" if "whisper" in self.model.lower() else "json"

    def _read(self, body: bytes, length_s: float | None) -> Transcript:
        try:
            answer = read_event(body.strip(), _answers)
        except ProviderFailure as failure:
            raise _down(failure.kind) from None
        if answer.text is None:
            raise _down("malformed")
        told = answer.duration
        if told is None and answer.usage is not None:
            told = answer.usage.seconds
        if told is None or not 0 <= told < 86_400:
            told = length_s
        text = without_halves(answer.text).strip()[:MAX_TEXT_CHARS]
        return Transcript(text, told or 0.0, self.model, (answer.language or "")[:32])


def _ending(name: str, mime: str) -> str:
    """Return the ending that tells the service the format.

    Raises:
        ProviderFailure: none that services take.
    """
    ending = _ENDINGS.get(mime.partition(";")[0].strip().lower())
    if ending is None:
        ending = name.rpartition(".")[2].lower()
    if ending not in _KNOWN_ENDINGS:
        raise _unknown_format()
    return ending


def language_of(lang: str | None) -> str:
    """Return ISO 639-1 of a language tag, empty if it is none."""
    first = (lang or "").replace("_", "-").partition("-")[0].lower()
    return first if len(first) == 2 and first.isascii() and first.isalpha() else ""


def _form(border: str, fields: Mapping[str, str], ending: str, data: bytes) -> bytes:
    """Write multipart/form-data (RFC 7578). The person's own file name stays here."""
    parts = [
        f'--{border}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{border}\r\ncontent-disposition: form-data; name="file"; '
        f'filename="voice.{ending}"\r\ncontent-type: application/octet-stream\r\n\r\n'
    )
    return b"".join(
        ("".join(parts).encode("utf-8", "replace"), data, f"\r\n--{border}--\r\n".encode())
    )


def _classify(status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailure:
    """Explain a refusal in words for somebody who spoke."""
    failure = failure_of(status, headers, error_object(body))
    if status == 413:
        return _too_large(status)
    if failure.remedy is Remedy.FAIL and failure.kind != "no_model":
        return ProviderFailure(
            "audio_rejected",
            "The speech service could not read this recording. "
            "Record it again, or write the message.",
            remedy=Remedy.FAIL,
            code=Code.INVALID,
            status=status,
        )
    if failure.kind in ("bad_key", "no_credit", "no_model", "redirected"):
        return _misconfigured(failure)
    return _down(failure.kind, failure)


def _misconfigured(failure: ProviderFailure) -> ProviderFailure:
    return ProviderFailure(
        failure.kind,
        "Voice messages cannot be written down: the speech service refused the server. Write "
        "the message; the operator has to check the service's address, key, credit and model.",
        remedy=Remedy.NEXT,
        status=failure.status,
    )


def _down(kind: str, failure: ProviderFailure | None = None) -> ProviderFailure:
    return ProviderFailure(
        kind,
        "The speech service did not answer as it should. Try again in a moment, or write the "
        "message.",
        code=failure.code if failure is not None else Code.MODEL_UNAVAILABLE,
        status=failure.status if failure is not None else 0,
        retry_after_s=failure.retry_after_s if failure is not None else None,
    )


def _late() -> ProviderFailure:
    text = "The speech service took too long. Try again in a moment, or send a shorter recording."
    return ProviderFailure("stt_late", text, code=Code.TIMEOUT)


def _empty() -> ProviderFailure:
    return _unusable("audio_empty", "The recording is empty. Record it again.")


def _too_large(status: int = 0) -> ProviderFailure:
    text = f"The recording is larger than {MAX_BYTES // 1024 // 1024} MB. Send a shorter one."
    return _unusable("audio_too_large", text, Code.SIZE_LIMIT, status)


def _too_long() -> ProviderFailure:
    text = f"The recording is longer than {MAX_SECONDS / 60:.0f} minutes. Send it in parts."
    return _unusable("audio_too_long", text, Code.SIZE_LIMIT)


def _unknown_format() -> ProviderFailure:
    text = "This kind of recording cannot be written down. Send OGG, WebM, MP3, M4A, WAV or FLAC."
    return _unusable("audio_format", text)


def _unusable(kind: str, text: str, code: Code = Code.INVALID, status: int = 0) -> ProviderFailure:
    return ProviderFailure(kind, text, remedy=Remedy.FAIL, code=code, status=status)
