"""Questions that the server asks a model by itself: nobody waits, so they give way to others."""

from __future__ import annotations

from msgspec import Struct

from ai_bridge.types import ChatMessage, GenParams, PersonaSpec, Priority, Role, TurnRequest


class About(Struct, frozen=True, kw_only=True):
    """Whom and what a question is about; the user's account pays for it."""

    turn_id: int
    tenant: int
    user: int
    conv: int
    persona: int


def background_request(
    about: About, kind: str, prompt: str, text: str, params: GenParams
) -> TurnRequest:
    """Return the turn that asks about a text as `prompt` says, in answer to it alone.

    Args:
        kind: one word for logs.
    """
    return TurnRequest(
        turn_id=about.turn_id,
        tenant=about.tenant,
        user=about.user,
        conv=about.conv,
        persona=PersonaSpec(about.persona, "", prompt),
        history=(ChatMessage(Role.USER, text),),
        params=params,
        request_id=f"{kind}-{about.turn_id}",
        priority=Priority.BACKGROUND,
    )
