"""Bounded scalars of the wire. Every field of every message uses one of these.

All integers lie within 2**53 - 1 so that JavaScript loses nothing; text bounds count code points.
Titles are the names that docs/protocol.md uses.
"""

from typing import Annotated, Final

from msgspec import Meta

MAX_INT: Final = 2**53 - 1
MAX_RID: Final = 2**32 - 1
MAX_TEXT: Final = 32_000
MAX_LIMIT: Final = 100

U = Annotated[int, Meta(ge=0, le=MAX_INT, title="U")]
I = Annotated[int, Meta(ge=-MAX_INT, le=MAX_INT, title="I")]  # noqa: E741 - the name in docs/protocol.md
Id = Annotated[int, Meta(ge=1, le=MAX_INT, title="Id")]
IdOrNone = Annotated[int, Meta(ge=0, le=MAX_INT, title="IdOrNone")]
Ms = Annotated[int, Meta(ge=0, le=MAX_INT, title="Ms")]
Rid = Annotated[int, Meta(ge=1, le=MAX_RID, title="Rid")]
ReplyRid = Annotated[int, Meta(ge=0, le=MAX_RID, title="ReplyRid")]
Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT, title="Limit")]
F = Annotated[float, Meta(ge=0, le=2, title="F")]
Bin16 = Annotated[bytes, Meta(min_length=16, max_length=16, title="Bin16")]
S16 = Annotated[str, Meta(max_length=16, title="S16")]
S32 = Annotated[str, Meta(max_length=32, title="S32")]
S64 = Annotated[str, Meta(max_length=64, title="S64")]
S128 = Annotated[str, Meta(max_length=128, title="S128")]
S256 = Annotated[str, Meta(max_length=256, title="S256")]
S512 = Annotated[str, Meta(max_length=512, title="S512")]
S2000 = Annotated[str, Meta(max_length=2000, title="S2000")]
S4000 = Annotated[str, Meta(max_length=4000, title="S4000")]
S4096 = Annotated[str, Meta(max_length=4096, title="S4096")]
S16000 = Annotated[str, Meta(max_length=16_000, title="S16000")]
Text = Annotated[str, Meta(max_length=MAX_TEXT, title="Text")]
# Answers of a model may be longer than what a person may send (server to client only).
AnyText = str
