"""What somebody's own AI answers used: today, this month, and day by day."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ai_bridge.account import Limits, Spent
from protocol.rows import Use
from server.router import Caller
from storage.usage import DAY_MS, DayUse, usage_by_day

if TYPE_CHECKING:
    from server.core import Core


async def read_use(core: "Core", caller: Caller) -> tuple[Use, Use]:
    """Return what the caller's answers used today and this month (UTC), and what may be spent.

    Tokens are those of ended answers. Money is the higher of what the store and the ledger know:
    the ledger is what refuses, and has forgotten those whom nothing bounds.

    Raises:
        StorageError: the store cannot be read.
    """
    now = datetime.fromtimestamp(core.now_ms() / 1000, UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    today = round(midnight.timestamp() * 1000) // DAY_MS
    days = await core.store.read(
        usage_by_day(caller.tenant, caller.user, today - now.day + 1, now.day)
    )
    billing = core.bridge.billing
    limits, spent = Limits(), Spent()
    if billing is not None:
        limits = billing.ledger.limits(caller.tenant, caller.user)
        spent = billing.ledger.spent(caller.tenant, caller.user)
    tomorrow = midnight + timedelta(days=1)
    next_month = (midnight.replace(day=1) + timedelta(days=31)).replace(day=1)
    return (
        _use([day for day in days if day.day == today], spent.day, limits.day_micro, tomorrow),
        _use(days, spent.month, limits.month_micro, next_month),
    )


def _use(days: Sequence[DayUse], booked: int, quota: int, resets: datetime) -> Use:
    return Use(
        used_in=sum(day.tokens_in for day in days),
        used_out=sum(day.tokens_out for day in days),
        spent=max(booked, sum(day.cost_micro for day in days)),
        quota=quota,
        resets=round(resets.timestamp() * 1000),
    )
