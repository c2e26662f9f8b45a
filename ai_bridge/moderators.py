"""Who judges texts: a list of words of one's own, and services that speak OpenAI's interface."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec import Struct

from ai_bridge.backends import check_base_url, transport_of
from ai_bridge.config import ProviderConfig
from ai_bridge.errors import ProviderFailure
from ai_bridge.moderation import ALLOWED, Action, Stage, Subject, Verdict
from ai_bridge.providers.base import HttpRequest, Transport
from ai_bridge.providers.body import BodyDecoder
from ai_bridge.providers.failures import failure_of, malformed
from ai_bridge.providers.halves import without_halves
from ai_bridge.providers.lenient import error_object, read_event
from ai_bridge.providers.openai_chat import bearer
from ai_bridge.providers.request import own_headers
from ai_bridge.providers.services import base_url_of, first_key
from ai_bridge.renewed import Renewed
from ai_bridge.scripts import normal, places

MAX_WORDS = 5_000
MAX_WORD_CHARS = 64
MASK = "*"
WORD = "word"
"""`Verdict.why` of a list of words: which one it was is nobody's business."""
PIECE_CHARS = 10_000
"""Of a text that is sent to a service; a longer one goes in several."""
PIECE_OVERLAP = 128
DEFAULT_MODEL = "omni-moderation-latest"

# Characters that nobody sees and that part a word for a program: soft hyphen, joiners, marks of
# direction, byte order mark.
_UNSEEN = dict.fromkeys(
    [0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F),
     *range(0x2060, 0x2065), *range(0x2066, 0x206A), 0xFEFF]
)  # fmt: skip
_SCANNED_AT_ONCE = 1_000_000
"""Characters looked through before other work of the loop gets its turn: about a millisecond."""


# --- a list of words -----------------------------------------------------------------------------


class WordCheck:
    """Looks for words and phrases, whatever their width and case.

    Chinese and its neighbours are found anywhere, words of other scripts only whole (scripts.py).

    Args:
        words: 5,000 at most, of 64 characters each.
        action: what follows when one is found. REPLACE puts stars in its place.

    Raises:
        ValueError: too many words, or one that is empty or too long.
    """

    def __init__(self, words: Iterable[str], action: Action = Action.BLOCK) -> None:
        known = {_plain(word): None for word in words}
        if len(known) > MAX_WORDS:
            raise ValueError(f"at most {MAX_WORDS:,} words can be looked for")
        if any(not 0 < len(word) <= MAX_WORD_CHARS for word in known):
            raise ValueError(f"a word has 1 to {MAX_WORD_CHARS} characters")
        self._words = tuple(known)
        self._action = action

    async def check(self, stage: Stage, text: str, subject: Subject) -> Verdict:
        """See `Checker`. Needs no network; a long text and a long list let others work between."""
        short = len(text) <= PIECE_CHARS
        plain = _plain(text) if short else await asyncio.to_thread(_plain, text)
        there = set(plain)
        step = max(1, _SCANNED_AT_ONCE // (len(plain) + 1))
        found = []
        for number, word in enumerate(self._words, 1):
            if word[0] in there and next(places(plain, word), None) is not None:
                found.append(word)
                if self._action is not Action.REPLACE:
                    break
            if number % step == 0:
                await asyncio.sleep(0)
        if not found:
            return ALLOWED
        if self._action is not Action.REPLACE:
            return Verdict(self._action, why=WORD)
        masked = _masked(text, found)
        return Verdict(Action.REPLACE, masked, WORD) if masked else Verdict(Action.BLOCK, why=WORD)

    async def aclose(self) -> None:
        """Nothing is open."""


def _plain(text: str) -> str:
    return normal(text.translate(_UNSEEN))


def _masked(text: str, words: Iterable[str]) -> str:
    """Return the text with stars in place of words, "" if one cannot be placed in it.

    Works character by character, so that each knows where it came from.
    """
    text = unicodedata.normalize("NFC", text)
    plain, origin = _mapped(text)
    marked = set[int]()
    for word in words:
        found = list(places(plain, word))
        if not found:
            return ""
        for at in found:
            marked.update(range(origin[at], origin[at + len(word) - 1] + 1))
    return "".join(MASK if at in marked else char for at, char in enumerate(text))


def _mapped(text: str) -> tuple[str, list[int]]:
    """Return the text as `_plain` has it, and for each of its characters the number of its own."""
    plain: list[str] = []
    origin: list[int] = []
    for at, char in enumerate(text):
        if ord(char) in _UNSEEN:
            continue
        folded = unicodedata.normalize("NFKC", char).casefold()
        if folded.isspace():
            folded = " " if plain and plain[-1] != " " else ""
        plain.extend(folded)
        origin.extend([at] * len(folded))
    return "".join(plain), origin


# --- a service -----------------------------------------------------------------------------------


class _Result(Struct):
    flagged: bool | None = None
    categories: dict[str, bool | None] = {}
    category_scores: dict[str, float | None] = {}


class _Answer(Struct):
    results: list[_Result] = []


_answers = msgspec.json.Decoder(_Answer)
_category = re.compile(r"[a-z][a-z0-9_/-]{0,39}\Z").match


class _Caller:
    """The connections to one service."""

    def __init__(self, config: ProviderConfig) -> None:
        if config.kind not in ("openai_chat", "openai_responses"):
            raise ValueError(f"AI provider {config.name!r} has no OpenAI-shaped moderation")
        check_base_url(config)
        self._transport: Transport = transport_of(config)
        self._url = base_url_of(config) + "/moderations"
        self._headers = {
            "content-type": "application/json",
            "accept": "application/json",
            **own_headers(config),
            **bearer(first_key(config)),
        }

    async def ask(self, model: str, texts: list[str]) -> list[_Result]:
        """Return one result for each text.

        Raises:
            ProviderFailure: there are none.
        """
        body = {"model": model, "input": texts if len(texts) > 1 else texts[0]}
        decoder = BodyDecoder()
        request = HttpRequest(self._url, self._headers, msgspec.json.encode(body))
        await self._transport.stream(request, decoder, _classify)
        results = read_event(decoder.body, _answers).results
        if len(results) != len(texts):
            error = error_object(decoder.body)
            raise failure_of(0, {}, error) if error else malformed()
        return results

    async def aclose(self) -> None:
        await self._transport.aclose()


class ServiceCheck:
    """Asks an OpenAI-shaped `/moderations`. Owns its connections.

    Args:
        find: returns the service's present settings, None while there are none.
        thresholds: score from which a category counts; for others what the service says holds.
        action: what follows when a category counts.

    Source: platform.openai.com/docs/api-reference/moderations.
    """

    def __init__(
        self,
        find: Callable[[], ProviderConfig | None],
        model: str = DEFAULT_MODEL,
        *,
        thresholds: Mapping[str, float] | None = None,
        action: Action = Action.BLOCK,
    ) -> None:
        self._service = Renewed(find, _Caller)
        self._model = model
        self._thresholds = dict(thresholds or {})
        self._action = action

    async def check(self, stage: Stage, text: str, subject: Subject) -> Verdict:
        """See `Checker`."""
        step = PIECE_CHARS - PIECE_OVERLAP
        sound = without_halves(text)
        starts = range(0, max(1, len(sound) - PIECE_OVERLAP), step)
        cuts = [sound[at : at + PIECE_CHARS] for at in starts]
        async with self._service.use() as (_, caller):
            results = await caller.ask(self._model, cuts)
        for result in results:
            why = self._breach(result)
            if why:
                return Verdict(self._action, why=why)
        return ALLOWED

    async def aclose(self) -> None:
        """Close the connections; checks must have ended."""
        await self._service.aclose()

    def _breach(self, result: _Result) -> str:
        """Return the category that counts, "" if none does."""
        for name, least in self._thresholds.items():
            score = result.category_scores.get(name)
            if score is not None and score >= least:
                return _word(name)
        for name, said in result.categories.items():
            if said and name not in self._thresholds:
                return _word(name)
        # Services of one's own may tell no categories.
        return "flagged" if result.flagged and not result.categories else ""


def _word(name: str) -> str:
    """What a service calls it goes to the log: a plain word, or none of it."""
    return name if _category(name) else "other"


def _classify(status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailure:
    return failure_of(status, headers, error_object(body))
