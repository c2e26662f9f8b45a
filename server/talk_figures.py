"""What the page of figures shows of rooms, summaries, cards and money."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import structs

from ai_bridge.moderation import ModerationStats
from ai_bridge.stats import OTHER
from server.metrics import Figure, Spread

if TYPE_CHECKING:
    from ai_bridge.moderation import Moderation
    from server.core import Core


def talk_figures(core: "Core") -> Iterator[Figure | Spread]:
    """Yield the figures."""
    rooms, cards = core.rooms, core.cards.stats
    yield Figure("gauge", "rooms", "Groups with personas remembered.", len(rooms))
    spoken = {"picked": rooms.picked, "chained": rooms.chained, "refused": rooms.refused}
    yield Figure("counter", "room_answers", "Answers in groups not called for.", spoken, "kind")
    yield Figure("gauge", "summaries_running", "Talks being folded.", core.summaries.running)
    folded = structs.asdict(core.summaries.stats)
    yield Figure("counter", "summaries", "Talks folded, by outcome.", folded, "outcome")
    yield Figure("counter", "cards_read", "Character cards read from the store.", cards.read)
    asked = {"asked": core.ask.asked, "failed": core.ask.failed}
    yield Figure("counter", "background_answers", "Questions that nobody waits for.", asked, "end")
    questions = core.confirmations
    yield Figure("gauge", "tool_questions_open", "Tools that wait for a yes.", len(questions))
    ended = dict(questions.outcomes)
    yield Figure("counter", "tool_questions", "Questions about tools, by end.", ended, "end")
    behind = core.streams.behind()
    yield Figure("gauge", "viewers_behind", "Viewers whose line takes no more.", behind)
    orphans = core.stats.orphans
    yield Figure("counter", "ai_orphans", "AI answers left by a dead process.", orphans)
    yield from _moderation_figures(core.bridge.moderation)
    billing = core.bridge.billing
    if billing is not None:
        ledger = billing.ledger
        yield Figure("counter", "budget_refused", "Answers that no budget covers.", ledger.refused)
        yield Figure("counter", "budget_expired", "Reservations never settled.", ledger.expired)
        yield Figure("counter", "budget_warnings", "Budgets four fifths spent.", ledger.warned)
        costs = {str(tenant or OTHER): cost for tenant, cost in ledger.cost_by.items()}
        yield Figure("counter", "ai_cost_micro", "Micro-dollars, by tenant.", costs, "tenant")
        yield Figure("counter", "ai_unpriced", "Calls of models without price.", billing.unpriced)


def _moderation_figures(moderation: "Moderation | None") -> Iterator[Figure | Spread]:
    stats = moderation.stats if moderation is not None else ModerationStats()
    inside = moderation.gate.inside if moderation is not None else 0
    yield Figure("counter", "moderation_checks", "By stage, verdict.", stats.checked, "check")
    yield Figure("counter", "moderation_failed", "Without a verdict.", stats.failed, "why")
    yield Figure("gauge", "moderation_running", "Running, waiting.", inside)
    seconds = stats.seconds
    yield Spread(
        "moderation_seconds", "Time of a check.", seconds.bounds, seconds.counts, seconds.total
    )
