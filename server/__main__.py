"""The command line: `python -m server`, installed as `parlance`.

Commands import what they need when they run, so that help is there at once.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from server.commands import (
    ai,
    chat,
    conversations,
    dead_letters,
    doctor,
    engines,
    memories,
    migrate,
    personas,
    prices,
    serve,
    settings,
    tokens,
    tools,
    users,
)
from server.commands.context import Common, command_line

_COMMON: Final = ("--config", "--data-dir", "--set")

app: Final = typer.Typer(
    name="parlance",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "First steps:  [bold]parlance serve[/bold]  and, in a second terminal,  "
        "[bold]parlance chat[/bold].  Every command explains itself: parlance user --help"
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from server.version import VERSION

        typer.echo(f"parlance {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(help="Configuration file; else PARLANCE_CONFIG or ./parlance.toml."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for the database and keys (server.data_dir).")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting; repeat."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say it.")
    ] = False,
) -> None:
    """Parlance: a chat server for people and AI personas.

    The options below may stand anywhere in the line.
    """
    context.obj = Common(config, data_dir, tuple(set_ or ()))


serve.add_to(app)
chat.add_to(app)
users.add_to(app)
conversations.add_to(app)
tokens.add_to(app)
personas.add_to(app)
memories.add_to(app)
dead_letters.add_to(app)
migrate.add_to(app)
doctor.add_to(app)
settings.add_to(app)
ai.add_to(app)
prices.add_to(app)
engines.add_to(app)
tools.add_to(app)


def put_first(words: Sequence[str]) -> list[str]:
    """Move the options that every command has to the front, where their parser is."""
    common: list[str] = []
    rest: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if word == "--" or (word == "chat" and not rest):
            # What follows belongs to the command alone.
            rest += [word, *pending]
            break
        if word in _COMMON and pending:
            common += [word, pending.pop(0)]
        elif word.startswith(tuple(f"{name}=" for name in _COMMON)):
            common.append(word)
        else:
            rest.append(word)
    return common + rest


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0 success, 1 failure, 2 wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    return command_line(app, put_first(words))


if __name__ == "__main__":
    sys.exit(main())
