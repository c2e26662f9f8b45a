"""POST /v1/audio/transcriptions: recordings to text, in OpenAI's shape.

Who may: a person's token, or an API key with the scope `chat`. The recording has a bound of its
own, `ai.speech.max_bytes`, and is counted in `ai.speech.held_bytes` while it is here.
"""

from functools import partial

from aiohttp import web

from ai_bridge.http.problems import openai_response
from ai_bridge.http.recordings import answer_transcription
from ai_bridge.speech import Written
from server.http.callers import CALLERS, HttpCaller
from server.http.context import note_wait, parts_of
from server.http.openai_routes import ASKING, door
from server.http.openai_views import OpenAiRefusal, TranscriptionForm, TranscriptionView
from server.http.typed import Api, Media
from server.speech import Speech


@door(openai_response)
async def _transcriptions(request: web.Request) -> web.StreamResponse:
    note_wait()
    caller = await request.app[CALLERS].of(request)
    speech = parts_of(request).core.speech
    write = partial(_write, speech, caller)
    return await answer_transcription(request, speech.desk, request.app[ASKING].pulse, write)


async def _write(
    speech: Speech, caller: HttpCaller, data: bytes, language: str, prompt: str
) -> Written:
    return await speech.transcribe(
        caller.tenant, caller.user, data, language=language, prompt=prompt
    )


api = Api("openai")
api.raw(
    "POST",
    "/v1/audio/transcriptions",
    "Write a recording down",
    _transcriptions,
    who=HttpCaller,
    body=Media("multipart/form-data", fields=TranscriptionForm),
    answers={200: (TranscriptionView, Media("text/plain")), 499: OpenAiRefusal},
    refusal=OpenAiRefusal,
    errors=(404, 502),
)


def routes() -> list[web.RouteDef]:
    """Return the routes of this subject."""
    return api.routes()
