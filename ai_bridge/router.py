"""Which backend answers: candidates in configured order, their free places, their recent health."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ai_bridge.config import ProviderConfig
from ai_bridge.errors import BridgeError, ProviderFailure
from ai_bridge.providers.base import Backend
from ai_bridge.types import ModelInfo
from protocol.codes import Code

DOWN_AFTER_FAILURES = 3


class Slot:
    """One backend with its counters. Owned by the router."""

    __slots__ = ("_clock", "_failed_in_row", "_last_ok_at", "backend", "config", "failed", "kind",
                 "ok", "running")  # fmt: skip

    def __init__(
        self, config: ProviderConfig, backend: Backend, clock: Callable[[], float]
    ) -> None:
        self.config = config
        self.backend = backend
        self.running = 0
        self.ok = 0
        self.failed = 0
        self.kind = ""
        self._failed_in_row = 0
        self._last_ok_at: float | None = None
        self._clock = clock

    @property
    def has_room(self) -> bool:
        return self.config.max_streams == 0 or self.running < self.config.max_streams

    def serves(self, model: str) -> bool:
        return not self.config.models or model in self.config.models

    def note_success(self) -> None:
        self.ok += 1
        self._failed_in_row = 0
        self._last_ok_at = self._clock()

    def note_failure(self, failure: ProviderFailure) -> None:
        self.failed += 1
        self._failed_in_row += 1
        self.kind = failure.kind

    def health(self) -> dict[str, Any]:
        last = self._last_ok_at
        return {
            "kind": self.config.kind,
            "ok": self._failed_in_row < DOWN_AFTER_FAILURES,
            "running": self.running,
            "calls_ok": self.ok,
            "calls_failed": self.failed,
            "last_failure": self.kind,
            "last_ok_s_ago": None if last is None else round(self._clock() - last, 1),
        }


class SlotLease:
    """One turn's place: at one slot at a time, moving along its candidates."""

    def __init__(self, model: str, candidates: list[Slot]) -> None:
        self.model = model
        self._candidates = candidates
        self._untried = list(candidates)
        self._slot: Slot | None = None

    @property
    def slot(self) -> Slot:
        """The slot whose place is held.

        Raises:
            RuntimeError: none is held.
        """
        if self._slot is None:
            raise RuntimeError("no place is held")
        return self._slot

    def move(self) -> bool:
        """Change to the next untried candidate with room; False (and no place) if none is left."""
        self.release()
        while self._untried:
            slot = self._untried.pop(0)
            if slot.has_room:
                slot.running += 1
                self._slot = slot
                return True
        return False

    def repeat(self, given_up: set[str], number: int) -> bool:
        """Take one slot again: those not given up, in turn; False if none is left with room."""
        left = [slot for slot in self._candidates if slot.config.name not in given_up]
        start = number % len(left) if left else 0
        self._untried = left[start:] + left[:start]
        moved = self.move()
        self._untried = []
        return moved

    def release(self) -> None:
        if self._slot is not None:
            self._slot.running -= 1
            self._slot = None


class Router:
    """Knows all slots. Immutable after construction but for the slots' counters."""

    def __init__(self, slots: list[Slot], *, default_model: str, window_tokens: int) -> None:
        self.slots = slots
        self._window_tokens = window_tokens
        self._default_model = default_model or next(
            (slot.config.models[0] for slot in slots if slot.config.models), ""
        )

    def model_of(self, wanted: str | None) -> str:
        """Return the model that a turn means.

        Raises:
            BridgeError: MODEL_UNAVAILABLE, no provider has it.
        """
        model = wanted or self._default_model
        if not model or not any(slot.serves(model) for slot in self.slots):
            raise BridgeError(
                Code.MODEL_UNAVAILABLE,
                "No configured AI provider offers this persona's model. "
                "Choose another model for the persona, or leave its model empty.",
            )
        return model

    def has_room(self, wanted: str | None) -> bool:
        model = wanted or self._default_model
        return any(slot.has_room for slot in self.slots if slot.serves(model))

    def reserve(self, wanted: str | None) -> SlotLease:
        model = wanted or self._default_model
        lease = SlotLease(model, [slot for slot in self.slots if slot.serves(model)])
        lease.move()
        return lease

    def window_tokens(self, slot: Slot) -> int:
        return slot.config.window_tokens or self._window_tokens

    def models(self) -> list[ModelInfo]:
        """Return every model once, in configured order; "*" for a provider that takes any name."""
        found: dict[str, ModelInfo] = {}
        for slot in self.slots:
            for model in slot.config.models or ("*",):
                if model not in found:
                    found[model] = ModelInfo(
                        id=model,
                        provider=slot.config.name,
                        window_tokens=self.window_tokens(slot),
                        default=model == self._default_model,
                        demo=slot.config.kind == "demo",
                    )
        return list(found.values())
