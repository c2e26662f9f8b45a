"""The bridge as a server of its own: OpenAI's doors, nothing stored, nobody signed in.

`POST /v1/chat/completions`, `POST /v1/audio/transcriptions`, `GET /v1/models`, `GET /health`,
`GET /metrics`.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from aiohttp import web

from ai_bridge.bridge import Bridge
from ai_bridge.errors import BridgeError
from ai_bridge.http.answers import Cancel, Pulse, answer
from ai_bridge.http.bodies import MAX_BODY_BYTES, read_body
from ai_bridge.http.guard import Connections
from ai_bridge.http.hosts import is_local_name
from ai_bridge.http.openai_shapes import (
    DECODER,
    Ask,
    Completion,
    ModelRow,
    model_list,
    read_ask,
)
from ai_bridge.http.pictures import PictureRoom, check_pictures
from ai_bridge.http.problems import (
    Problem,
    openai_response,
    problem_of,
    problem_of_refusal,
    unknown_model,
)
from ai_bridge.http.recordings import answer_transcription
from ai_bridge.http.settings import Keys, StandalonePersona
from ai_bridge.run import TurnWatcher
from ai_bridge.speech import Speech, SpeechConfig, Written
from ai_bridge.types import GenParams, PersonaSpec, Priority, TurnRequest
from protocol.codes import Code

log = logging.getLogger("parlance.ai")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_match_bearer: Final = re.compile(r"[Bb]earer +([!-~]{1,4096})").fullmatch
_JSON: Final = "application/json"


class Standalone:
    """Answers for callers who know a key. Owns no state but the turns in flight.

    Args:
        bridge: started by the caller, and closed by it.
        keys: without any, everybody who reaches the server may ask.
        connections: bounds and counts who is connected.
        speech: who writes recordings down; nobody, if it names no service.
    """

    def __init__(
        self,
        bridge: Bridge,
        personas: Mapping[str, StandalonePersona],
        keys: Keys,
        connections: Connections | None = None,
        speech: SpeechConfig | None = None,
    ) -> None:
        self.connections = connections or Connections()
        self._bridge = bridge
        self._speech = Speech(speech or SpeechConfig(), bridge.provider, bridge.billing)
        self._personas = personas
        self._keys = keys
        self._pulse = Pulse(asyncio.get_running_loop())
        self._pictures = PictureRoom()
        self._turn_ids = itertools.count(1)
        self._persona_ids = {name: number for number, name in enumerate(personas, 1)}
        self._started_s = int(time.time())

    def application(self) -> web.Application:
        """Return the application with all routes."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_routes(
            [
                web.post("/v1/chat/completions", self._door(self._completions)),
                web.post("/v1/audio/transcriptions", self._door(self._transcriptions)),
                web.get("/v1/models", self._door(self._models)),
                web.get("/v1/models/{name:.+}", self._door(self._model)),
                web.get("/health", self._health),
                web.get("/metrics", self._door(self._metrics)),
            ]
        )
        return app

    async def aclose(self) -> None:
        """End what is no turn: the bridge ends those."""
        await self._speech.aclose()

    # doors

    def _door(self, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except Problem as problem:
                return openai_response(problem)
            except Exception:
                log.exception("http.crashed", extra={"route": request.path})
                return openai_response(problem_of(Code.INTERNAL, "This is our fault."))

        return answer

    def _key_of(self, request: web.Request) -> int:
        """Return the number of the caller's key; 0 where no key is needed."""
        if not len(self._keys):
            if "Origin" in request.headers or not is_local_name(request.host):
                # A page that a browser of this machine was made to open must not ask for it.
                text = "Without keys only programs of this machine are served."
                raise problem_of(Code.NOT_PERMITTED, text)
            return 0
        found = _match_bearer(request.headers.get("Authorization", ""))
        number = self._keys.number_of(found[1]) if found is not None else 0
        if not number:
            text = "Send the header `Authorization: Bearer <key>` with a key of this server."
            raise problem_of(Code.BAD_CREDENTIALS, text)
        return number

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        key = self._key_of(request)
        ask = read_ask(await read_body(request, DECODER))
        if ask.conversation:
            text = "Nothing is stored here: send the whole talk as messages."
            raise Problem(400, text, code="unsupported_parameter", param="metadata")
        await check_pictures(ask.history)
        turn_id = next(self._turn_ids)
        turn = self._turn(turn_id, key, ask)

        async def begin(watcher: TurnWatcher) -> Cancel:
            try:
                self._bridge.submit(turn, watcher)
            except BridgeError as refusal:
                if refusal.code is Code.MODEL_UNAVAILABLE:
                    raise unknown_model(ask.model) from None
                raise problem_of_refusal(refusal) from None
            return lambda: self._bridge.cancel(turn_id)

        completion = Completion(turn_id, ask.model, int(time.time()), ask.include_usage)
        with self._pictures.holding(ask.history):
            return await answer(
                request, begin, self._pulse, completion, _no_dress, stream=ask.stream
            )

    async def _transcriptions(self, request: web.Request) -> web.StreamResponse:
        key = self._key_of(request)

        async def write(data: bytes, language: str, prompt: str) -> Written:
            return await self._speech.transcribe(key, 0, data, language=language, prompt=prompt)

        return await answer_transcription(request, self._speech, self._pulse, write)

    def _turn(self, turn_id: int, key: int, ask: Ask) -> TurnRequest:
        persona = self._personas.get(ask.model)
        if persona is None:
            spec = PersonaSpec(0, "", ask.system)
            model, provider = self._served(ask.model)
            params = msgspec.structs.replace(ask.params, model=model, provider=provider)
        else:
            prompt = "\n\n".join(part for part in (persona.prompt, ask.system) if part)
            spec = PersonaSpec(self._persona_ids[persona.id], persona.name, prompt)
            params = _with_persona(ask.params, persona)
        return TurnRequest(
            turn_id=turn_id,
            tenant=key,
            user=_user_number(ask.user) if ask.user else 0,
            conv=0,
            persona=spec,
            history=ask.history,
            params=params,
            request_id=f"turn-{turn_id}",
            priority=Priority.FACADE,
            caller_tools=ask.tools,
        )

    def _served(self, name: str) -> tuple[str, str]:
        """Return the model that a caller names, and the provider if he names that too."""
        offered = self._bridge.offered()
        provider, _, model = name.partition("/")
        for info in offered:
            if info.provider and info.provider == provider and model and info.id in (model, "*"):
                return model, provider
        if any(info.id in (name, "*") for info in offered):
            return name, ""
        raise unknown_model(name)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self._key_of(request)
        return web.Response(body=model_list(self._rows()), content_type=_JSON)

    async def _model(self, request: web.Request) -> web.StreamResponse:
        self._key_of(request)
        name = request.match_info["name"]
        for row in self._rows():
            if row.id == name:
                return web.Response(body=msgspec.json.encode(row), content_type=_JSON)
        raise unknown_model(name)

    def _rows(self) -> list[ModelRow]:
        rows = [ModelRow(name, self._started_s, "persona") for name in self._personas]
        rows.extend(
            ModelRow(
                f"{info.provider}/{info.id}" if info.provider else info.id,
                self._started_s,
                info.provider or "route",
            )
            for info in self._bridge.offered()
            if info.id != "*"
        )
        return rows

    async def _health(self, _: web.Request) -> web.Response:
        states = {name: bool(state.get("ok")) for name, state in self._bridge.health().items()}
        lame = bool(states) and not any(states.values())
        body = {
            "status": "degraded" if lame else "ok",
            "providers": {name: "ok" if ok else "failing" for name, ok in states.items()},
            "running": self._bridge.running,
            "queued": self._bridge.queued,
        }
        return web.Response(body=msgspec.json.encode(body), content_type=_JSON)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        self._key_of(request)
        lines = [
            f"# TYPE parlance_ai_{name} counter\nparlance_ai_{name} {value}\n"
            for name, value in self._bridge.stats.as_dict().items()
        ]
        levels = {
            "ai_turns_running": self._bridge.running,
            "ai_turns_queued": self._bridge.queued,
            "http_connections": self.connections.open,
            "http_picture_bytes": self._pictures.held,
        }
        for name, level in levels.items():
            lines.append(f"# TYPE parlance_{name} gauge\nparlance_{name} {level}\n")
        refused = {
            "http_connections_refused": self.connections.refused,
            "http_pictures_refused": self._pictures.refused,
        }
        for name, count in refused.items():
            lines.append(f"# TYPE parlance_{name} counter\nparlance_{name} {count}\n")
        for name, (kind, value) in self._speech.figures().items():
            lines.append(f"# TYPE parlance_{name} {kind}\nparlance_{name} {value}\n")
        return web.Response(
            text="".join(lines), headers={"Content-Type": "text/plain; version=0.0.4"}
        )


def _no_dress(response: web.StreamResponse) -> None:
    """This server has no headers of its own."""


def _with_persona(asked: GenParams, persona: StandalonePersona) -> GenParams:
    """Return the request's wishes; what it leaves open is the persona's choice."""
    return msgspec.structs.replace(
        asked,
        model=persona.model,
        temperature=persona.temperature if asked.temperature is None else asked.temperature,
        top_p=persona.top_p if asked.top_p is None else asked.top_p,
        max_tokens=persona.max_tokens if asked.max_tokens is None else asked.max_tokens,
    )


def _user_number(name: str) -> int:
    """Return a number for somebody whom only the caller knows."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big") + 1
