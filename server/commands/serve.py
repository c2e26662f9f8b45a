"""parlance serve"""

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import fail, load_config

if TYPE_CHECKING:
    from server.config import Config


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 lets the system choose.")] = None,
) -> None:
    """Start the server; it runs until Ctrl+C.

    On a fresh machine it needs nothing: messages go into an SQLite file, and without an AI
    service the built-in demo partner answers.

    Examples:

    parlance serve

    parlance serve --port 9000 --data-dir /var/lib/parlance

    parlance serve --config parlance.toml --set log.level=debug
    """
    config = load_config(context, server_host=host, server_port=port)
    _warn(config)
    from server.app import run

    try:
        code = run(config, lambda bound: _announce(config, bound))
    except OSError as error:
        fail(_explain_os_error(config, error))
    except ValueError as error:
        from server.tls import UnusableCertificate

        if isinstance(error, UnusableCertificate):
            fail(f"server.tls_cert: {error}")
        from server.vault import VaultError

        if isinstance(error, VaultError):
            fail(f"auth.master_key: {error}")
        if "auth.keys" in str(error) or "key file" in str(error):
            fail(str(error))
        raise
    raise typer.Exit(code)


def _warn(config: "Config") -> None:
    from server.config import check

    for problem in check(config):
        print(f"warning: {problem}", file=sys.stderr)


def _explain_os_error(config: "Config", error: OSError) -> str:
    address = f"{config.server.host}:{config.server.port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{address} is in use: another server runs there. Stop it, or choose another port: "
            f"parlance serve --port {config.server.port + 1}"
        )
    if error.errno in (errno.EADDRNOTAVAIL, errno.EACCES) and not error.filename:
        return f"cannot listen on {address}: {os.strerror(error.errno)}"
    where = f" {error.filename}" if error.filename else ""
    return f"cannot start: {error.strerror or error}{where}"


def _announce(config: "Config", port: int) -> None:
    host = config.server.host
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    tls = "s" if config.server.tls_cert else ""
    page = f"http{tls}://{shown}:{port}"
    chat = "make chat" if Path("Makefile").is_file() else "parlance chat"
    if port != 8420 or shown != "127.0.0.1":
        chat = f"parlance chat --url {shown}:{port}"
    from server.version import VERSION

    lines = (
        f"Parlance {VERSION} is running. Open it in a browser:",
        "",
        f"    {page}/",
        "",
        f"  or type, in another terminal:  {chat}",
        "",
        f"  dashboard   {page}/dashboard",
        f"  HTTP API    {page}/docs",
        f"  WebSocket   ws{tls}://{shown}:{port}/ws",
        f"  native      {'parlances://' if tls else ''}{shown}:{port}",
        f"  data        {Path(config.server.data_dir).expanduser().resolve()}",
        "Stop with Ctrl+C.",
    )
    print("\n".join(lines), flush=True)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)
