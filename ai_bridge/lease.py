"""One turn's place at the slots: held at one at a time, moved along, waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from ai_bridge.slots import Slot
from ai_bridge.types import Priority

if TYPE_CHECKING:
    from ai_bridge.router import Router


class Choice(Struct, frozen=True):
    """A slot that can serve a model; a lower step is asked first."""

    slot: Slot
    step: int
    weight: float


class SlotLease:
    """One turn's place: at one slot at a time, moving along its choices. Release it in the end."""

    def __init__(
        self, router: Router, choices: Sequence[Choice], *, priority: Priority, conv: int,
        tokens: int,
    ) -> None:  # fmt: skip
        self.choices = choices
        self.priority = priority
        self.conv = conv
        self._router = router
        self._tokens = tokens
        self._tried: set[Slot] = set()
        self._given_up: set[Slot] = set()
        self._slot: Slot | None = None
        self._last: Slot | None = None
        self._probes = False
        self._ended = False
        for service in {choice.slot.service for choice in choices}:
            service.leases += 1

    @property
    def slot(self) -> Slot:
        """The slot whose place is held.

        Raises:
            RuntimeError: none is held.
        """
        if self._slot is None:
            raise RuntimeError("no place is held")
        return self._slot

    @property
    def holds(self) -> bool:
        return self._slot is not None

    @property
    def model(self) -> str:
        return self.slot.model

    @property
    def left(self) -> list[Choice]:
        """The choices that are not given up."""
        return [choice for choice in self.choices if choice.slot not in self._given_up]

    def move(self) -> bool:
        """Change to the best slot not tried yet that has room; False (and no place) if none has.

        Where all are switched off, the turn may try one.
        """
        untried = [choice for choice in self.left if choice.slot not in self._tried]
        return self._take(untried) or (not self._tried and self._take_off())

    def take(self) -> bool:
        """Take a place again: at a slot not tried yet, else in turn at any not given up."""
        others = [choice for choice in self.left if choice.slot is not self._last]
        return self.move() or self._take(others) or self._take(self.left)

    def begin_call(self) -> None:
        """Another model call of the turn: slots that failed in the one before may be tried."""
        self._tried = {self._slot} if self._slot is not None else set()

    def give_up(self) -> None:
        """Never come back to the slot that is held."""
        self._given_up.add(self.slot)

    def keep_wider(self) -> None:
        """Give up all slots whose context window is not larger than that of the slot held."""
        window = self._router.window_tokens(self.slot)
        for choice in self.choices:
            if self._router.window_tokens(choice.slot) <= window:
                self._given_up.add(choice.slot)

    async def wait(self, until: float) -> bool:
        """Take a place as soon as there is one; False if none can be had by then.

        Cancelling it leaves no place held.
        """
        return self.take() or await self._router.park(self, until)

    def stick(self) -> None:
        """This slot answered: the conversation's next turn goes there if it can."""
        self._router.stick(self.conv, self.slot)

    def leave(self) -> None:
        """Give the place back; the lease can take another."""
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.end(self.priority, self._probes)

    def release(self) -> None:
        """Give everything back; harmless when repeated."""
        self.leave()
        if not self._ended:
            self._ended = True
            for service in {choice.slot.service for choice in self.choices}:
                service.leases -= 1
                self._router.let_go(service)

    def _take(self, choices: Sequence[Choice]) -> bool:
        self.leave()
        choice = self._router.choose(choices, self.priority, self.conv)
        return choice is not None and self._hold(choice.slot)

    def _take_off(self) -> bool:
        slot = self._router.last_resort(self.choices, self.priority)
        return slot is not None and self._hold(slot)

    def _hold(self, slot: Slot) -> bool:
        self._slot = self._last = slot
        self._tried.add(slot)
        self._probes = slot.begin(self.priority, self._tokens)
        return True
