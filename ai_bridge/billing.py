"""What a turn may cost before it begins, and what it did cost when it is over."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from ai_bridge.account import Ledger, Reservation
from ai_bridge.prices import FREE, Price, PriceTable
from ai_bridge.tokens import PER_MESSAGE_TOKENS, estimate_prompt, estimate_tokens
from ai_bridge.types import Outcome, TurnRequest, Usage

MARGIN = 1.25
"""Of the prompt's estimate: what the estimate misses is not missing in the account."""


class Billing:
    """Joins prices with budgets. Owned by the bridge.

    Attributes:
        unpriced: ended calls whose model has no known price; they counted as free.
    """

    def __init__(self, ledger: Ledger, prices: PriceTable) -> None:
        self.ledger = ledger
        self.prices = prices
        self.unpriced = 0

    def reserve(
        self,
        request: TurnRequest,
        models: Iterable[tuple[str, str]],
        *,
        window_tokens: int,
        answer_tokens: int,
        total_s: float,
    ) -> Reservation:
        """Set aside the most that one model call of this turn can cost at the dearest candidate.

        Args:
            models: (provider, model) of each candidate.
            answer_tokens: longest answer; the request must hold the model to it.

        Raises:
            BudgetExceeded: see `Ledger.reserve`.
        """
        most = Usage(prompt=_longest_prompt(request, window_tokens), completion=answer_tokens)
        prices = [self._price(provider, model) or FREE for provider, model in models]
        amount = max((price.cost_micro(most) for price in prices), default=0)
        return self.ledger.reserve(request.tenant, request.user, amount, total_s)

    def settle(self, reservation: Reservation, outcome: Outcome) -> Outcome:
        """Book a turn; return its outcome with the cost."""
        cost = 0
        if outcome.usage.prompt or outcome.usage.completion:
            price = self._price(outcome.provider, outcome.model)
            if price is None:
                self.unpriced += 1
            else:
                cost = price.cost_micro(outcome.usage)
        self.ledger.settle(reservation, cost)
        return structs.replace(outcome, cost_micro=cost) if cost else outcome

    def _price(self, provider: str, model: str) -> Price | None:
        return self.prices.find(f"{provider}/{model}")


def _longest_prompt(request: TurnRequest, window_tokens: int) -> int:
    """Return an upper estimate of what is sent: all of it, or the window if that is smaller."""
    persona = request.persona
    texts = (persona.prompt, request.summary, *request.memories)
    tokens = sum(PER_MESSAGE_TOKENS + estimate_tokens(text) for text in texts)
    history = request.history
    if request.params.history is not None:
        history = history[-(request.params.history + 1) :]
    tokens += estimate_prompt(history)
    return min(window_tokens, round(tokens * MARGIN) + PER_MESSAGE_TOKENS)
