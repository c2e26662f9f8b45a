"""What the server does for each message type: one module per subject, one table for all."""

from server.handlers import ai, connection, conversations, messages, people, personas
from server.router import Router


def build_router() -> Router:
    """Return the table with every message type that a client may send."""
    router = Router()
    for subject in (connection, messages, conversations, personas, ai, people):
        subject.register(router)
    return router
