"""parlance doctor"""

import typer

from server.commands.context import gather_config, run_async

_MARKS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(context: typer.Context) -> None:
    """Look at everything the server needs, and say what to do where something is missing.

    Exit code 1 if the server would not work.
    """
    from rich.console import Console
    from rich.markup import escape

    from server.checkup import examine

    console = Console(highlight=False, soft_wrap=True)
    loaded = gather_config(context)
    failed = False

    async def work() -> None:
        nonlocal failed
        async for finding in examine(loaded.config):
            failed = failed or finding.level == "fail"
            colour = _MARKS[finding.level]
            advice = f"\n       {escape(finding.advice)}" if finding.advice else ""
            console.print(
                f"[{colour}]{finding.level:<4}[/{colour}]  {escape(finding.text)}{advice}"
            )

    run_async(work())
    raise typer.Exit(1 if failed else 0)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)
