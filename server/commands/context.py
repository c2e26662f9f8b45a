"""What commands share: settings, an open store, clear last words."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from server.config import Config, Loaded
    from server.listening import Address
    from storage.store import Store

T = TypeVar("T")

_PROBE_S = 0.3


class Common(NamedTuple):
    """The options that every command has."""

    config: Path | None = None
    data_dir: Path | None = None
    settings: tuple[str, ...] = ()

    def overrides(self) -> dict[str, object]:
        """Return what flags say about settings."""
        from server.config import parse_overrides

        found = parse_overrides(self.settings)
        if self.data_dir is not None:
            found["server.data_dir"] = str(self.data_dir)
        return found


class CommandFailed(Exception):
    """A command cannot do its work; the text is for the user, one line each."""


def command_line(app: typer.Typer, words: Sequence[str]) -> int:
    """Run one command and turn foreseen failures into lines on standard error."""
    try:
        app(args=list(words), prog_name="parlance")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        lines = _explain(error)
        if lines is None:
            raise
        for line in lines:
            print(f"parlance: {line}", file=sys.stderr)
        return 1
    return 0


def _explain(error: Exception) -> Sequence[str] | None:
    from server.config import ConfigError

    if isinstance(error, CommandFailed):
        return str(error).splitlines()
    if isinstance(error, ConfigError):
        return error.problems
    # Only errors that came out of the store or a service: both are loaded then.
    storage_errors = sys.modules.get("storage.errors")
    if storage_errors is not None and isinstance(error, storage_errors.OpenFailed):
        return [f"database: {error}"]
    if storage_errors is not None and isinstance(error, storage_errors.StorageError):
        return [str(error)]
    services = sys.modules.get("server.errors")
    if services is not None and isinstance(error, services.ServiceError):
        return [error.detail or error.reason]
    return None


def fail(text: str) -> NoReturn:
    """End the command with a line on standard error and exit code 1."""
    raise CommandFailed(text)


def common_of(context: typer.Context) -> Common:
    """Return the common options of a command."""
    found = context.find_object(Common)
    return found if found is not None else Common()


def load_config(context: typer.Context, **more: object) -> "Config":
    """Return the settings; more are overrides such as `server_port=1`.

    Raises:
        ConfigError: what is wrong with them.
    """
    from server.config import load

    common = common_of(context)
    given = {key.replace("_", ".", 1): value for key, value in more.items() if value is not None}
    return load(common.config, None, common.overrides() | given)


def gather_config(context: typer.Context) -> "Loaded":
    """Return settings that need not go together, and where they came from."""
    from server.config import gather

    common = common_of(context)
    return gather(common.config, None, common.overrides())


@contextlib.asynccontextmanager
async def open_store(config: "Config") -> AsyncIterator["Store"]:
    """Open the database for one command; safe beside a running server.

    Raises:
        OpenFailed: it cannot be opened, with what to do.
    """
    from server.app import store_options
    from server.config import data_dir
    from storage.store import Store

    data_dir(config)
    store = await Store.open(store_options(config))
    try:
        yield store
    finally:
        await store.close()


def run_with_store(context: typer.Context, work: Callable[["Store", "Config"], Awaitable[T]]) -> T:
    """Open the store, do the work, close it again."""
    config = load_config(context)

    async def run() -> T:
        async with open_store(config) as store:
            return await work(store, config)

    return run_async(run())


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(work)


def is_serving(config: "Config") -> bool:
    """Tell whether something answers where a server has noted that it listens, or should."""
    from server.listening import Address, noted_address

    noted = noted_address(Path(config.server.data_dir).expanduser())
    wanted = Address(config.server.host, config.server.port)
    return any(_answers(one) for one in dict.fromkeys((noted or wanted, wanted)))


def _answers(address: "Address") -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    try:
        with socket.create_connection((host, address.port), timeout=_PROBE_S):
            return True
    except OSError:
        return False


def say_when(config: "Config", running: str) -> None:
    """Tell how a running server takes a change that was just made."""
    if is_serving(config):
        typer.echo(f"A server is running here: {running}")


def table(*columns: str) -> "Table":
    """Return an empty table."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def show(made: "Table") -> None:
    """Print a table; in a pipe it is as wide as it needs to be."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(made)


def day(ms: int | None) -> str:
    """Write a time as people read it; "" for none."""
    if not ms:
        return ""
    from datetime import datetime

    return datetime.fromtimestamp(ms / 1000).strftime("%Y-%m-%d %H:%M")


async def find_tenant(store: "Store", slug: str) -> int:
    """Return the id of a tenant, or end the command."""
    from storage.people import tenant_by_slug

    found = await store.read(tenant_by_slug(slug))
    if found is None:
        fail(f"there is no tenant {slug!r}; see `parlance tenant list`")
    return found.id


async def find_user(store: "Store", slug: str, name: str) -> int:
    """Return the id of a user, or end the command."""
    from storage.people import user_by_name

    found = await store.read(user_by_name(await find_tenant(store, slug), name))
    if found is None:
        fail(f"there is no user {name!r} in the tenant {slug!r}; see `parlance user list`")
    return found.id or 0
