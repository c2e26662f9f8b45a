"""What a person is told when the way to an AI service fails, whichever client carried the call."""

from __future__ import annotations

from ai_bridge.errors import ProviderFailure, Remedy


def unreachable() -> ProviderFailure:
    """No connection, or none that ever said a byte."""
    text = (
        "The AI service cannot be reached. Ask again in a moment; "
        "if it stays, the operator should check the provider's base_url and that it runs."
    )
    return ProviderFailure("connect", text)


def broken() -> ProviderFailure:
    """The connection ended, or what came over it was no HTTP, before the answer was whole."""
    text = "The connection to the AI service broke. Ask again or let it continue."
    return ProviderFailure("disconnected", text)


def too_large() -> ProviderFailure:
    """One event or body exceeds what is read."""
    text = "The AI service sent a piece that is too large to read. Choose another model."
    return ProviderFailure("event_too_large", text, remedy=Remedy.NEXT)


def unsendable() -> ProviderFailure:
    """A header or an address that HTTP cannot carry."""
    text = (
        "The request to the AI service could not be written. "
        "The operator should check the provider's base_url, api_key and headers for odd characters."
    )
    return ProviderFailure("bad_request_head", text, remedy=Remedy.NEXT)
