"""What the bridge counts, for the metrics page. Plain integers, only ever growing."""

from __future__ import annotations

from msgspec import Struct, structs

from ai_bridge.types import Outcome, UsageSource
from protocol.codes import EndReason


class BridgeStats(Struct):
    """Counters since the start. `*_ms_sum` over `*_count` gives means."""

    submitted: int = 0
    refused: int = 0
    started: int = 0
    ended: int = 0
    ended_stop: int = 0
    ended_length: int = 0
    ended_cancelled: int = 0
    ended_filtered: int = 0
    ended_error: int = 0
    ended_interrupted: int = 0
    retries: int = 0
    queue_wait_ms_sum: int = 0
    ttft_count: int = 0
    ttft_ms_sum: int = 0
    duration_ms_sum: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_usage: int = 0
    watcher_errors: int = 0

    def note(self, outcome: Outcome) -> None:
        """Count an ended turn."""
        self.ended += 1
        name = _NAMES[outcome.reason]
        setattr(self, name, getattr(self, name) + 1)
        if outcome.ttft_ms >= 0:
            self.ttft_count += 1
            self.ttft_ms_sum += outcome.ttft_ms
        self.duration_ms_sum += outcome.duration_ms
        self.prompt_tokens += outcome.usage.prompt
        self.completion_tokens += outcome.usage.completion
        self.estimated_usage += outcome.usage.source is UsageSource.ESTIMATED

    def as_dict(self) -> dict[str, int]:
        return structs.asdict(self)


_NAMES = {reason: f"ended_{reason.name.lower()}" for reason in EndReason}
