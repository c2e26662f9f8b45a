"""`parlance chat`: talk with personas and people in a terminal."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the terminal client; return the exit code.

    0 is success, 1 a failure that was explained on standard error, 2 wrong usage.
    """
    from clients.terminal.command import run  # imports the screen library only when it is needed

    return run(argv)
