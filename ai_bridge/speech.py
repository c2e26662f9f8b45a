"""Recordings written down for many tenants: checked, in fair order, paid by the second."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Annotated, Protocol

from msgspec import Meta, Struct, field

from ai_bridge.account import Reservation
from ai_bridge.audio_length import kind_of, seconds_of
from ai_bridge.billing import Billing
from ai_bridge.config import ProviderConfig
from ai_bridge.errors import BridgeError, ProviderFailure
from ai_bridge.fair_gate import FairGate, GateFull, UserFull
from ai_bridge.prices import FREE, Price
from ai_bridge.renewed import Renewed
from ai_bridge.secrets import Secret
from ai_bridge.stt import MAX_BYTES, MAX_SECONDS, HttpTranscriber, Transcript
from protocol.codes import Code

WAIT_S = 60.0
"""For a place among those that are written down at the same time."""
BUSY_RETRY_MS = 2_000
SLOWEST_BYTES_PER_S = 750
"""6 kbit/s, the least that Opus speech takes: how long a recording can be that does not tell."""
OWN_NAME = "speech"


class SpeechConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who writes recordings down; without `provider` and `base_url` nobody does.

    `provider` is one of the bridge's; `base_url` and `api_key` name a service of its own in its
    place. `price_per_minute` is in dollars; None takes the price list's.
    """

    provider: str = ""
    base_url: str = ""
    api_key: Secret = field(default_factory=Secret)
    model: Annotated[str, Meta(min_length=1, max_length=128)] = "whisper-1"
    language: str = ""
    max_bytes: Annotated[int, Meta(ge=1, le=MAX_BYTES)] = MAX_BYTES
    max_s: Annotated[float, Meta(gt=0, le=MAX_SECONDS)] = MAX_SECONDS
    price_per_minute: Annotated[float, Meta(ge=0)] | None = None
    at_once: Annotated[int, Meta(ge=1)] = 4
    waiting: Annotated[int, Meta(ge=0)] = 32
    user_at_once: Annotated[int, Meta(ge=1)] = 4
    held_bytes: Annotated[int, Meta(ge=1)] = 64 * 1024 * 1024
    deadline_s: Annotated[float, Meta(gt=0)] = 120.0

    @property
    def on(self) -> bool:
        """Whether anybody writes down recordings here."""
        return bool(self.provider or self.base_url)


class Written(Struct, frozen=True):
    """A transcript with what it took. `cost_micro`: micro-dollars, 0 also without a price."""

    transcript: Transcript
    provider: str
    cost_micro: int


class SpeechWatcher(Protocol):
    """Told of one recording, for a record of it."""

    def begun(self, provider: str, model: str) -> None:
        """It can be written down, and money is set aside: somebody will be asked."""

    def charged(self, cost_micro: int) -> None:
        """It is over, however it ended, and has cost this."""


class SpeechStats(Struct):
    """Totals since the start; `failed` by kind of failure, `seconds` of sound."""

    asked: int = 0
    written: int = 0
    seconds: float = 0.0
    cost_micro: int = 0
    cancelled: int = 0
    failed: Counter[str] = field(default_factory=Counter)


class Speech:
    """Writes recordings down. Owns the connections, the places, and the calls under way.

    Args:
        find: returns the settings of a provider of this name as they are now.
        billing: without it nothing is paid.
    """

    def __init__(
        self,
        config: SpeechConfig,
        find: Callable[[str], ProviderConfig | None],
        billing: Billing | None = None,
    ) -> None:
        self.config = config
        self.stats = SpeechStats()
        self.gate = FairGate(config.at_once, config.waiting, config.user_at_once)
        self.held_bytes = 0
        self._find = find
        self._billing = billing
        self._service = Renewed(self._provider, self._transcriber)
        self._running: set[asyncio.Task[Written]] = set()
        self._closing = False

    def serves(self, model: str) -> bool:
        """Tell whether a client means what is configured here by this name.

        "whisper-1" is what OpenAI's own examples say, so it always does.
        """
        config = self.config
        named = {"", "whisper-1", config.model, f"{config.provider or OWN_NAME}/{config.model}"}
        return config.on and model in named

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count the bytes of a recording that is read in and kept until it is written down.

        Raises:
            BridgeError: BUSY, all recordings together would be too many bytes.
        """
        if self.held_bytes and self.held_bytes + size > self.config.held_bytes:
            self.stats.failed["held"] += 1
            raise _busy()
        self.held_bytes += size
        try:
            yield
        finally:
            self.held_bytes -= size

    async def transcribe(
        self,
        tenant: int,
        user: int,
        data: bytes,
        *,
        language: str = "",
        prompt: str = "",
        watcher: SpeechWatcher | None = None,
    ) -> Written:
        """Write one recording down; its format is told by its first bytes.

        The most that it can cost is set aside before anybody is asked. A service that was asked
        is paid, also by who leaves before the end; one that fails is not. Cancelling it closes
        the connection to the service.

        Args:
            language: overrides the configured one; both may be empty.
            prompt: words and names that occur, for their spelling.
            watcher: told when it is accepted, and what it cost.

        Raises:
            BridgeError: nothing was written down; the text says what to do.
        """
        self.stats.asked += 1
        if self._closing:
            raise _draining()
        task = asyncio.ensure_future(
            self._transcribe(tenant, user, data, language, prompt, watcher)
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await task
        except ProviderFailure as failure:
            self.stats.failed[failure.kind] += 1
            raise _refusal(failure) from None
        except BridgeError as refusal:
            self.stats.failed[refusal.code.name.lower()] += 1
            raise
        except asyncio.CancelledError:
            self.stats.cancelled += 1
            own = asyncio.current_task()
            if own is not None and not own.cancelling():
                raise _draining() from None  # it was `aclose` that ended the work, not the caller
            raise

    async def aclose(self) -> None:
        """End all calls, refuse new ones, close the connections."""
        self._closing = True
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._service.aclose()

    def figures(self) -> dict[str, tuple[str, float]]:
        """Return what a page of figures shows of this, by name: counter or gauge, and value."""
        stats, gate = self.stats, self.gate
        return {
            "speech_asked": ("counter", stats.asked),
            "speech_written": ("counter", stats.written),
            "speech_seconds": ("counter", stats.seconds),
            "speech_cancelled": ("counter", stats.cancelled),
            "speech_refused": ("counter", gate.refused),
            "speech_running": ("gauge", gate.running),
            "speech_waiting": ("gauge", gate.waiting),
            "speech_held_bytes": ("gauge", self.held_bytes),
        }

    # inside

    def _provider(self) -> ProviderConfig | None:
        config = self.config
        if config.base_url:
            return ProviderConfig(
                name=config.provider or OWN_NAME, base_url=config.base_url, api_key=config.api_key
            )
        return self._find(config.provider) if config.provider else None

    def _transcriber(self, provider: ProviderConfig) -> HttpTranscriber:
        config = self.config
        return HttpTranscriber(provider, config.model, deadline_s=config.deadline_s)

    async def _transcribe(
        self,
        tenant: int,
        user: int,
        data: bytes,
        language: str,
        prompt: str,
        watcher: SpeechWatcher | None,
    ) -> Written:
        name, length_s = self._examine(data)
        async with self._service.use() as (provider, transcriber):
            price = self._price(provider.name)
            reservation = self._reserve(tenant, user, price.seconds_micro(length_s))
            if watcher is not None:
                watcher.begun(provider.name, self.config.model)
            charged = 0
            try:
                async with self._place(tenant, user):
                    charged = price.seconds_micro(length_s)  # if it is cancelled from here on
                    transcript = await transcriber.transcribe(
                        data, name, "", language or self.config.language, prompt
                    )
                charged = price.seconds_micro(transcript.seconds or length_s)
            except (ProviderFailure, BridgeError):
                charged = 0
                raise
            finally:
                if reservation is not None and self._billing is not None:
                    self._billing.ledger.settle(reservation, charged)
                self.stats.cost_micro += charged
                if watcher is not None:
                    watcher.charged(charged)
        self.stats.written += 1
        self.stats.seconds += transcript.seconds
        return Written(transcript, provider.name, charged)

    def _examine(self, data: bytes) -> tuple[str, float]:
        """Return a name for the recording and its length, the longest it can be if it is silent
        about it.

        Raises:
            BridgeError: it is nothing that can be written down.
        """
        config = self.config
        kind = kind_of(data)
        if not data:
            raise BridgeError(Code.INVALID, "The recording is empty. Record it again.")
        if not kind:
            raise BridgeError(
                Code.INVALID,
                "This kind of recording cannot be written down. "
                "Send OGG, WebM, MP3, M4A, WAV or FLAC.",
            )
        if len(data) > config.max_bytes:
            raise BridgeError(Code.SIZE_LIMIT, too_large_text(config.max_bytes))
        length_s = seconds_of(data)
        if length_s is None:
            length_s = min(config.max_s, len(data) / SLOWEST_BYTES_PER_S)
        if length_s > config.max_s:
            text = f"The recording is longer than {config.max_s:.0f} seconds. Send it in parts."
            raise BridgeError(Code.SIZE_LIMIT, text)
        return f"voice.{kind}", math.ceil(length_s)

    def _price(self, provider: str) -> Price:
        """Return the price by the minute; a model without one is counted and free."""
        if self.config.price_per_minute is not None:
            return Price(minute=self.config.price_per_minute)
        if self._billing is None:
            return FREE
        price = self._billing.prices.find(f"{provider}/{self.config.model}")
        if price is None or not price.minute:
            self._billing.unpriced += 1
            return FREE
        return price

    def _reserve(self, tenant: int, user: int, amount_micro: int) -> Reservation | None:
        if self._billing is None:
            return None
        most_s = WAIT_S + self.config.deadline_s
        return self._billing.ledger.reserve(tenant, user, amount_micro, most_s)

    @asynccontextmanager
    async def _place(self, tenant: int, user: int) -> AsyncIterator[None]:
        """Hold a place among those that are written down, waited for a bounded time."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(WAIT_S):
                    await stack.enter_async_context(self.gate.enter(tenant, user))
            except UserFull:
                text = "Your other recordings are being written down. Send this one after them."
                raise BridgeError(Code.RATE, text, BUSY_RETRY_MS) from None
            except (GateFull, TimeoutError):
                raise _busy() from None
            yield


def too_large_text(most_bytes: int) -> str:
    """Return what somebody is told whose recording is too large."""
    return f"The recording is larger than {most_bytes} bytes. Send a shorter one."


def _refusal(failure: ProviderFailure) -> BridgeError:
    wait_s = failure.retry_after_s
    if wait_s is not None:
        retry_ms = math.ceil(wait_s * 1000)
    else:
        retry_ms = BUSY_RETRY_MS if failure.code is Code.BUSY else -1
    return BridgeError(failure.code, failure.text, retry_ms)


def _busy() -> BridgeError:
    text = "Many recordings are being written down. Try again in a moment."
    return BridgeError(Code.BUSY, text, BUSY_RETRY_MS)


def _draining() -> BridgeError:
    return BridgeError(Code.DRAINING, "The server is restarting. Try again in a moment.", 1000)
