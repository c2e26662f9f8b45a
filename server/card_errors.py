"""What is wrong with a character card."""


class CardError(ValueError):
    """A file that is no character card, or one that is beyond our bounds.

    The text says which part, and never quotes it.
    """
