"""Messages and turns as HTTP shows them: the rows of the socket, with names."""

from msgspec import Struct

from protocol.rows import Msg, MsgX
from storage.rows import TurnRow, TurnStatus


class MessageView(Struct, omit_defaults=True):
    """A stored message; `id` is made of its conversation and its number in it.

    `seq`, `rev`, `ts`, `sender`, `kind`, `text` and `x` are those of the socket's row.
    """

    id: str
    conversation: int
    seq: int
    rev: int
    ts: int
    sender: int
    kind: int
    text: str
    x: MsgX | None = None


class TurnView(Struct):
    """The record of one AI answer: what was asked, who answered, what it took, how it ended.

    `question` and `answer` are numbers of messages, 0 for none. `status` is queued, running,
    done, cancelled, failed or interrupted. Times are Unix milliseconds, 0 until they happened.
    """

    id: int
    conversation: int
    question: int
    answer: int
    persona: int
    mode: int
    status: str
    provider: str
    model: str
    tokens_in: int
    tokens_out: int
    cost_micro: int
    usage_source: str
    ttft_ms: int
    duration_ms: int
    error_code: str
    error_message: str
    created: int
    started: int
    finished: int


def message_view(conv: int, msg: Msg) -> MessageView:
    """Return a message of a conversation."""
    return MessageView(
        f"{conv}-{msg.seq}", conv, msg.seq, msg.rev, msg.ts, msg.sender, msg.kind, msg.text, msg.x
    )


def turn_view(row: TurnRow) -> TurnView:
    """Return a turn as who asked for it sees it."""
    return TurnView(
        id=row.sid,
        conversation=row.conv,
        question=row.ask_seq,
        answer=row.answer_seq,
        persona=row.persona,
        mode=row.mode,
        status=TurnStatus(row.status).name.lower(),
        provider=row.provider,
        model=row.model,
        tokens_in=row.tokens_in,
        tokens_out=row.tokens_out,
        cost_micro=row.cost_micro,
        usage_source=row.usage_source,
        ttft_ms=row.ttft_ms,
        duration_ms=row.duration_ms,
        error_code=row.error_code,
        error_message=row.error_message,
        created=row.created,
        started=row.started,
        finished=row.finished,
    )
