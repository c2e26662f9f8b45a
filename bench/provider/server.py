"""The fake service: which path answers what."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct, structs

from bench.provider import embeddings, moderation, transcription
from bench.provider.dialect import Dialect, Failure
from bench.provider.dialects.anthropic import Anthropic
from bench.provider.dialects.chat import Chat
from bench.provider.dialects.gemini import Gemini
from bench.provider.dialects.responses import Responses
from bench.provider.faults import parts, streamed, whole
from bench.provider.headers import headers_of
from bench.provider.http import EVENTS, Connection, Raw, head
from bench.provider.listing import models
from bench.provider.pace import Wheel
from bench.provider.player import EMPTY_LINE, Delivery
from bench.provider.reply import FAKE_KEY, PLAIN, Said, Talk, compact, compose
from bench.provider.script import NEVER, Behaviour, healthy, parse_model
from bench.provider.stats import Abort, Stats

KEPT_REQUESTS = 100
KEPT_ABORTS = 10_000
KEPT_LAGS = 1_000

CHAT, RESPONSES, ANTHROPIC, GEMINI = Chat(), Responses(), Anthropic(), Gemini()
EMBEDDINGS, TRANSCRIPTIONS, MODERATIONS = "embeddings", "transcriptions", "moderations"


class Request(Struct, frozen=True):
    """One POST as it came in.

    `kind` is the dialect (chat, responses, anthropic, gemini), embeddings, transcriptions or
    moderations.
    The body of a form is its fields; see `transcription.form_of`.
    """

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    kind: str = "chat"
    model: str = ""
    talk: Talk = Talk()

    @property
    def question(self) -> str:
        """Return the last text that a person said."""
        return self.talk.question


Answer = str | Said


class ScriptedProvider:
    """Speaks OpenAI chat and responses, Anthropic, Gemini, embeddings, transcripts, moderation.

    What is answered comes from `replies` (the oldest first, taken off; a refusal takes none),
    else from `reply_with` (None leaves it), else from the model's name, whose pace and faults
    hold in any case. With an answer of a test's own the model may have any name.

    Attributes:
        requests: the last hundred, for tests that look at what was sent.
        arrived: set by each request; clear it before waiting.
        changed: set whenever a stream ends or a connection closes.
        models: what `/v1/models` lists.
        tags: models that `/api/tags` lists (as a local Ollama would).
        tries: requests so far by model, of those that fail a number of times.
        replies: answers to the next chat requests.
        reply_with: writes answers to chat requests and transcripts.
        bad: words that moderation finds, each with the scores of its categories.
        aborts: the last ten thousand streams that their clients left.
    """

    def __init__(self) -> None:
        self.stats = Stats()
        self.requests: deque[Request] = deque(maxlen=KEPT_REQUESTS)
        self.arrived = asyncio.Event()
        self.changed = asyncio.Event()
        self.tags: list[str] = []
        self.models = ["fake"]
        self.connections: set[Connection] = set()
        self.tries: dict[str, int] = {}
        self.replies: deque[Answer] = deque()
        self.reply_with: Callable[[Request], Answer | None] | None = None
        self.bad: moderation.Bad = {}
        self.aborts: deque[Abort] = deque(maxlen=KEPT_ABORTS)
        self.wheel = Wheel()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def root_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.root_url}/v1"

    @property
    def gemini_url(self) -> str:
        return f"{self.root_url}/v1beta"

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
            for connection in list(self.connections):
                connection.abort()
            await self._server.wait_closed()
        while self.connections:
            self.changed.clear()
            await self.changed.wait()
        self.wheel.stop()

    # --- for the connections -----------------------------------------------------------------

    def serve(self, line: Connection, raw: Raw) -> None:
        """Answer a request, now or through a player."""
        path = raw.path.partition("?")[0]
        if raw.method == "GET":
            self._serve_get(line, path, raw)
            return
        line.served += 1
        self.stats.requests += 1
        try:
            request, dialect = _read(raw, path)
        except (ValueError, LookupError) as error:
            status = 400 if isinstance(error, ValueError) else 404
            text = f"this cannot be answered: {error}"
            line.respond(status, compact(CHAT.error(Failure(status=status, message=text))))
            return
        self.requests.append(request)
        self.arrived.set()
        line.model = request.model
        self._serve_post(line, request, dialect)

    def _serve_post(self, line: Connection, request: Request, dialect: Dialect | None) -> None:
        problem = ""
        try:
            behaviour = self._behaviour(request.model)
        except ValueError as error:
            behaviour, problem = Behaviour(), str(error)
        if behaviour.stale and line.served > 1:
            line.abort()
            return
        if behaviour.status != 200 or behaviour.quota:
            self._refuse(line, behaviour, dialect or CHAT)
            return
        said = self._said(request)  # not before: a refusal takes no reply off
        if problem and said is None and request.kind != MODERATIONS:
            failure = Failure(status=400, message=problem)
            line.respond(400, compact((dialect or CHAT).error(failure)))
        elif dialect is None:
            self._answer_other(line, request, behaviour, said)
        else:
            self._answer(line, request, behaviour, dialect, said)

    def _serve_get(self, line: Connection, path: str, raw: Raw) -> None:
        if path == "/stats":
            line.respond(200, msgspec.json.encode(self.figures()))
        elif path == "/aborts":
            line.respond(200, msgspec.json.encode(list(self.aborts)))
        elif path == "/api/tags":
            line.respond(200, compact({"models": [{"name": name} for name in self.tags]}))
        elif path.endswith("/models"):
            line.respond(200, compact(models(path, raw.headers, self.models)))
        else:
            line.respond(404, compact(CHAT.error(Failure(status=404, message="no such path"))))

    def figures(self) -> dict[str, Any]:
        """Return what `/stats` tells: `Stats` and the lags of the last thousand aborts."""
        lags = [abort.lag_ms for abort in list(self.aborts)[-KEPT_LAGS:]]
        return {**structs.asdict(self.stats), "abort_lags_ms": lags}

    def _said(self, request: Request) -> Said | None:
        """Return what a test wants said, None when the model's name decides."""
        answer: Answer | None = None
        if request.kind not in (EMBEDDINGS, MODERATIONS):
            if self.replies and request.kind != TRANSCRIPTIONS:
                answer = self.replies.popleft()
            elif self.reply_with is not None:
                answer = self.reply_with(request)
        return Said(text=answer) if isinstance(answer, str) else answer

    def _behaviour(self, model: str) -> Behaviour:
        """Return how this request is met.

        Raises:
            ValueError: nobody can read the model's name.
        """
        behaviour = parse_model(model)
        if behaviour.failures >= 0:
            self.tries[model] = self.tries.get(model, 0) + 1
            if self.tries[model] > behaviour.failures:
                return healthy(behaviour)
        return behaviour

    def _refuse(self, line: Connection, behaviour: Behaviour, dialect: Dialect) -> None:
        self.stats.refused += 1
        status = behaviour.status if behaviour.status != 200 else 429
        kind, body = _error_body(dialect.error(Failure.of(behaviour, status)), behaviour, status)
        self._send(line, behaviour, body, kind, status)

    def _answer(
        self,
        line: Connection,
        request: Request,
        behaviour: Behaviour,
        dialect: Dialect,
        said: Said | None,
    ) -> None:
        reply = compose(behaviour, request.model, request.talk, said)
        headers = headers_of(behaviour)
        if _wants_stream(request) and not behaviour.json:
            top = head(200, headers, kind=EVENTS) if headers else _STREAM_HEAD
            steps = streamed(dialect, reply)
            ping = dialect.ping() if behaviour.pings else b""
            line.play(Delivery(behaviour, top, steps, ping=ping))
            return
        body = whole(dialect, reply)
        if request.path.endswith(":streamGenerateContent"):
            body = b"[" + body + b"]"  # without alt=sse Gemini sends the chunks as one list
        delay_s = reply.completion / behaviour.rate if behaviour.rate > 0 else 0.0
        self._send(line, behaviour, body, delay_s=delay_s)

    def _answer_other(
        self, line: Connection, request: Request, behaviour: Behaviour, said: Said | None
    ) -> None:
        if request.kind == EMBEDDINGS:
            value = embeddings.answer(request.body, request.model, behaviour.dim)
            kind, body = "application/json", compact(value)
        elif request.kind == MODERATIONS:
            judged = moderation.answer(request.body, request.model, self.bad)
            kind, body = "application/json", compact(judged)
        else:
            text = said.text if said is not None else transcription.told(request.body)
            kind, body = transcription.answer(request.body, text, behaviour.seconds)
        self._send(line, behaviour, body, kind)

    def _send(
        self,
        line: Connection,
        behaviour: Behaviour,
        body: bytes,
        kind: str = "application/json",
        status: int = 200,
        delay_s: float = 0.0,
    ) -> None:
        """Send a body with its length: at once, or with the delays and faults of a script."""
        steps = parts(body, behaviour)
        cut = behaviour.empty or behaviour.garbage != NEVER
        length = sum(len(one[1]) for one in steps if isinstance(one, tuple)) if cut else len(body)
        if delay_s == 0 and _is_prompt(behaviour) and steps == [(PLAIN, body)]:
            self.stats.finished += status == 200
            line.send(head(status, headers_of(behaviour), length, kind) + body)
            return
        chunked = behaviour.comments > 0
        top = head(status, headers_of(behaviour), None if chunked else length, kind)
        line.play(
            Delivery(
                behaviour, top, iter(steps), comment=EMPTY_LINE, chunked=chunked, delay_s=delay_s
            )
        )


def _is_prompt(behaviour: Behaviour) -> bool:
    """Tell whether an answer without a stream goes out at once."""
    return not (behaviour.silent or behaviour.head or behaviour.first or behaviour.split)


def _error_body(value: dict[str, Any], behaviour: Behaviour, status: int) -> tuple[str, bytes]:
    """Return content type and body of an error in the form that the script wants."""
    if behaviour.body == "html":
        page = f"<html><head><title>{status}</title></head><body>{FAKE_KEY}</body></html>"
        return "text/html", page.encode()
    if behaviour.body == "empty":
        return "text/plain", b""
    if behaviour.body == "text":
        return "application/json", compact({"error": value["error"]["message"]})
    return "application/json", compact([value] if behaviour.body == "list" else value)


def _read(raw: Raw, path: str) -> tuple[Request, Dialect | None]:
    """Find out who is asked for what.

    Raises:
        ValueError: no readable body.
        LookupError: nothing at this path.
    """
    if path.endswith("/audio/transcriptions"):
        form = transcription.form_of(raw.headers.get("content-type", ""), raw.body)
        model = str(form.get("model", ""))
        return Request(raw.path, raw.headers, form, TRANSCRIPTIONS, model), None
    body = msgspec.json.decode(raw.body, type=dict[str, Any])
    model = str(body.get("model", ""))
    dialect: Dialect | None
    if path.endswith((":streamGenerateContent", ":generateContent")):
        dialect = GEMINI
        model = unquote(path.rpartition("/models/")[2].rpartition(":")[0])
    elif path.endswith("/embeddings"):
        return Request(raw.path, raw.headers, body, EMBEDDINGS, model), None
    elif path.endswith("/moderations"):
        return Request(raw.path, raw.headers, body, MODERATIONS, model), None
    else:
        dialect = next((one for end, one in _DIALECTS if path.endswith(end)), None)
    if dialect is None:
        raise LookupError(path)
    talk = dialect.read(body)
    return Request(raw.path, raw.headers, body, dialect.name, model, talk), dialect


def _wants_stream(request: Request) -> bool:
    if request.kind == GEMINI.name:
        return ":streamGenerateContent" in request.path and "alt=sse" in request.path
    return request.body.get("stream") is True


_DIALECTS: tuple[tuple[str, Dialect], ...] = (
    ("/chat/completions", CHAT),
    ("/responses", RESPONSES),
    ("/messages", ANTHROPIC),
)
_STREAM_HEAD = head(200, {}, kind=EVENTS)
