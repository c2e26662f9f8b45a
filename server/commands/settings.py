"""parlance check-config, show-config, config-doc"""

from pathlib import Path
from typing import Annotated

import typer

from server.commands.context import gather_config, show, table


def check_config(context: typer.Context) -> None:
    """Say what is wrong with the settings; exit code 1 if the server would not start."""
    from server.config import check

    loaded = gather_config(context)
    problems = check(loaded.config)
    for problem in problems:
        typer.echo(f"{'error' if problem.fatal else 'warning'}: {problem}", err=True)
    if any(problem.fatal for problem in problems):
        raise typer.Exit(1)
    config = loaded.config
    engine = config.storage.url.reveal().partition(":")[0] or "sqlite"
    where = loaded.path or "no file, defaults"
    typer.echo(f"The settings are good ({where}; {len(loaded.sources)} changed).")
    typer.echo(f"  listens on  {config.server.host}:{config.server.port}")
    typer.echo(f"  TLS         {'yes' if config.server.tls_cert else 'no'}")
    typer.echo(f"  database    {engine}")
    names = ", ".join(provider.name for provider in config.ai.providers)
    typer.echo(
        f"  AI          {names or ('looked for at the start' if config.ai.detect else 'demo')}"
    )


def show_config(
    context: typer.Context,
    changed: Annotated[bool, typer.Option(help="Only what is not a default.")] = False,
) -> None:
    """Print every setting, its value and where it came from; secrets only as set or not.

    Example: parlance show-config --changed
    """
    from server.config import explain

    made = table("setting", "value", "from")
    for one in explain(gather_config(context)):
        if not changed or one.source != "default":
            made.add_row(one.key, one.value, one.source)
    show(made)


def config_doc(
    file: Annotated[Path, typer.Argument(help="Where to.")] = Path("docs/configuration.md"),
    check: Annotated[bool, typer.Option(help="Only say whether it is up to date.")] = False,
) -> None:
    """Write the document of all settings out of the code."""
    from server.config_doc import render

    text = render()
    if check:
        good = file.is_file() and file.read_text(encoding="utf-8") == text
        typer.echo(f"{file} is {'up to date' if good else 'out of date: parlance config-doc'}")
        raise typer.Exit(0 if good else 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    typer.echo(f"Wrote {file}.")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("check-config")(check_config)
    app.command("show-config")(show_config)
    app.command("config-doc")(config_doc)
