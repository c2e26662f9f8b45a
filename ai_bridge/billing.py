"""What a turn may cost before it begins, what each of its calls did cost, and when it must end."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from ai_bridge.account import BudgetExceeded, Ledger, Reservation
from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.prices import FREE, Price, PriceTable
from ai_bridge.tokens import PER_MESSAGE_TOKENS, estimate_prompt, estimate_tokens
from ai_bridge.types import Outcome, TurnRequest, Usage

MARGIN = 1.25
"""Of the prompt's estimate: what the estimate misses is not missing in the account."""


class Billing:
    """Joins prices with budgets. Owned by the bridge.

    Attributes:
        prices: for turns that come; replaced as a whole when prices change.
        unpriced: ended calls whose model has no known price; they counted as free.
    """

    def __init__(self, ledger: Ledger, prices: PriceTable) -> None:
        self.ledger = ledger
        self.prices = prices
        self.unpriced = 0

    def open(
        self,
        request: TurnRequest,
        models: Iterable[tuple[str, str]],
        *,
        window_tokens: int,
        answer_tokens: int,
        total_s: float,
    ) -> Tab:
        """Set aside the most that the first model call of this turn can cost, wherever it goes.

        Args:
            models: (provider, model) of each candidate.
            answer_tokens: longest answer; the request must hold the model to it.

        Raises:
            BudgetExceeded: see `Ledger.reserve`.
        """
        most = Usage(prompt=_longest_prompt(request, window_tokens), completion=answer_tokens)
        prices = self.prices
        amount = max((_price(prices, *model).cost_micro(most) for model in models), default=0)
        reservation = self.ledger.reserve(request.tenant, request.user, amount, total_s)
        return Tab(self, reservation, answer_tokens)


class Tab:
    """What one turn has cost so far, and what is set aside for its next call of a model.

    Owned by the bridge, which closes it when the turn is over, however it ended. The prices of its
    beginning hold to its end: what is booked is then never more than what was set aside for it.

    Attributes:
        cost_micro: of the calls that were booked.
    """

    __slots__ = ("_answer_tokens", "_billing", "_booked", "_prices", "_reservation", "cost_micro")

    def __init__(self, billing: Billing, reservation: Reservation, answer_tokens: int) -> None:
        self._billing = billing
        self._prices = billing.prices
        self._reservation = reservation
        self._answer_tokens = answer_tokens
        self._booked = Usage()
        self.cost_micro = 0

    @property
    def set_aside_micro(self) -> int:
        return self._reservation.amount_micro

    def cover(self, provider: str, model: str, prompt_tokens: int) -> None:
        """Make sure that the next call can be paid for. Call it before each.

        Raises:
            ProviderFailure: budget_exceeded; nobody may be asked any more in this turn.
        """
        most = Usage(prompt=_with_margin(prompt_tokens), completion=self._answer_tokens)
        amount = _price(self._prices, provider, model).cost_micro(most)
        try:
            self._billing.ledger.extend(self._reservation, amount)
        except BudgetExceeded as refusal:
            raise ProviderFailure(
                "budget_exceeded",
                refusal.text,
                remedy=Remedy.FAIL,
                code=refusal.code,
                retry_after_s=refusal.retry_ms / 1000,
            ) from None

    def book(self, provider: str, model: str, usage: Usage) -> None:
        """A call is over, well or not: book what it cost."""
        cost = self._cost_micro(provider, model, usage)
        self._billing.ledger.book(self._reservation, cost)
        self._booked = _added(self._booked, usage)
        self.cost_micro += cost

    def cost_so_far(self, outcome: Outcome) -> int:
        """Return what the turn would cost if it ended so now; nothing is booked."""
        rest = _without(outcome.usage, self._booked)
        price = _price(self._prices, outcome.provider, outcome.model)
        return self.cost_micro + price.cost_micro(rest)

    def close(self, outcome: Outcome) -> Outcome:
        """Book what is not booked yet, let go of the rest; return the outcome with the cost."""
        self.book(outcome.provider, outcome.model, _without(outcome.usage, self._booked))
        self._billing.ledger.settle(self._reservation, 0)
        return structs.replace(outcome, cost_micro=self.cost_micro) if self.cost_micro else outcome

    def drop(self) -> None:
        """The turn was not taken after all."""
        self._billing.ledger.settle(self._reservation, 0)

    def _cost_micro(self, provider: str, model: str, usage: Usage) -> int:
        if not (usage.prompt or usage.completion):
            return 0
        price = self._prices.find(f"{provider}/{model}")
        if price is None:
            self._billing.unpriced += 1
            return 0
        return price.cost_micro(usage)


def _price(prices: PriceTable, provider: str, model: str) -> Price:
    return prices.find(f"{provider}/{model}") or FREE


def _added(left: Usage, right: Usage) -> Usage:
    return Usage(
        prompt=left.prompt + right.prompt,
        completion=left.completion + right.completion,
        cached=left.cached + right.cached,
    )


def _without(whole: Usage, part: Usage) -> Usage:
    return Usage(
        prompt=max(0, whole.prompt - part.prompt),
        completion=max(0, whole.completion - part.completion),
        cached=max(0, whole.cached - part.cached),
    )


def _with_margin(prompt_tokens: int) -> int:
    return round(prompt_tokens * MARGIN) + PER_MESSAGE_TOKENS


def _longest_prompt(request: TurnRequest, window_tokens: int) -> int:
    """Return an upper estimate of what is sent: all of it, or the window if that is smaller."""
    persona = request.persona
    texts = (persona.prompt, request.summary, *request.memories)
    tokens = sum(PER_MESSAGE_TOKENS + estimate_tokens(text) for text in texts)
    history = request.history
    if request.params.history is not None:
        history = history[-(request.params.history + 1) :]
    tokens += estimate_prompt(history)
    return min(window_tokens, _with_margin(tokens))
