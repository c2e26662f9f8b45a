"""parlance chat"""

import typer


def chat(context: typer.Context) -> None:
    """Chat in this terminal.

    Everything behind `chat` goes to the chat client; `parlance chat --help` lists it.
    """
    from clients.terminal import main as chat_main

    raise typer.Exit(chat_main(context.args))


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "help_option_names": [],
        }
    )(chat)
