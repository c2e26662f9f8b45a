"""parlance price …"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import fail, run_with_store, show, table

if TYPE_CHECKING:
    from ai_bridge.prices import Price, PriceEntry
    from server.config import Config
    from storage.store import Store

Model = Annotated[
    str, typer.Argument(help="Its name, or provider/model for the price at one service only.")
]

_SOON = "A running server takes it within 5 seconds; answers that have begun keep their price."

price_app = typer.Typer(
    no_args_is_help=True,
    help="What models cost, in US dollars. Budgets and the costs of answers go by it.",
)


@price_app.command("set")
def set_price(
    context: typer.Context,
    model: Model,
    input_: Annotated[
        float | None, typer.Option("--input", help="Dollars for a million tokens of the prompt.")
    ] = None,
    output: Annotated[
        float | None, typer.Option(help="Dollars for a million tokens of the answer.")
    ] = None,
    cached: Annotated[
        float | None,
        typer.Option(help="The same for tokens from the service's cache; else as --input."),
    ] = None,
    minute: Annotated[
        float, typer.Option(help="Dollars for a minute of a recording that is written down.")
    ] = 0.0,
) -> None:
    """Set what a model costs. It comes before the settings and the files.

    Versions of the model are meant too: gpt-4o is also gpt-4o-2024-11-20.

    Example: parlance price set gpt-4o-mini --input 0.15 --output 0.60 --cached 0.075
    """
    from ai_bridge.prices import Price, price_name

    if (input_ is None) != (output is None) or (input_ is None and not minute):
        fail("--input and --output are needed, or --minute for recordings; 0 is for free")
    if cached is not None and input_ is None:
        fail("--cached needs --input and --output")
    try:
        name = price_name(model)
        price = Price(input_ or 0.0, output or 0.0, cached, minute)
    except ValueError as error:
        fail(str(error))

    async def work(store: "Store", config: "Config") -> None:
        from server.money_admin import PriceAdmin

        await PriceAdmin(store, config.ai).set(name, price)
        typer.echo(f"{name}: {_told(price)}. {_SOON}")

    run_with_store(context, work)


@price_app.command("list")
def list_prices(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Only what counts for this model.")] = "",
) -> None:
    """List what counts for each model, in dollars for a million tokens, and where it comes from.

    Of one name a command comes before the settings, an imported file and the built-in file.
    A longer name comes before a shorter one, provider/model before model.

    Example: parlance price list openai/gpt-4o-2024-11-20
    """

    async def work(store: "Store", config: "Config") -> None:
        from server.money_admin import PriceAdmin

        prices = await PriceAdmin(store, config.ai).table()
        found = prices.entry(model) if model else None
        if model and found is None:
            fail(
                f"no price is known for {model}: it counts as free; see: parlance price set --help"
            )
        _show([found] if found is not None else prices.entries())

    run_with_store(context, work)


@price_app.command("remove")
def remove_price(context: typer.Context, model: Model) -> None:
    """Remove a price that was set by command; the settings or a file count again."""

    async def work(store: "Store", config: "Config") -> None:
        from server.errors import ServiceError
        from server.money_admin import PriceAdmin
        from storage.errors import NotFound

        try:
            left = await PriceAdmin(store, config.ai).remove(model)
        except (NotFound, ServiceError):
            fail(f"no price of {model} was set by command; see: parlance price list")
        rest = (
            "it counts as free now" if left is None else f"now {left.name} ({left.origin}) counts"
        )
        typer.echo(f"Removed the price of {model}: {rest}. {_SOON}")

    run_with_store(context, work)


@price_app.command("import")
def import_prices(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSON: a version, and prices by model.")],
) -> None:
    """Take prices from a file, in place of those of the file imported before.

    They come before the built-in file, behind the settings and `price set`. A model that the file
    does not name keeps its price; a file without models takes the last import back.

    A file: {"version": "2026-12-01", "models": {"gpt-4o": {"in": 2.5, "out": 10, "cached": 1.25},
    "whisper-1": {"minute": 0.006}}}

    Example: parlance price import prices-2026-12.json
    """
    from ai_bridge.prices import MAX_FILE_BYTES, read_price_file

    try:
        with file.open("rb") as opened:
            found = read_price_file(opened.read(MAX_FILE_BYTES + 1))
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")
    except ValueError as error:
        fail(f"{file}: {error}")

    async def work(store: "Store", config: "Config") -> None:
        from server.money_admin import PriceAdmin

        count = await PriceAdmin(store, config.ai).take_in(found)
        typer.echo(f"Imported {count} prices of version {found.version}. {_SOON}")

    run_with_store(context, work)


def _show(entries: "list[PriceEntry]") -> None:
    made = table("model", "input", "output", "cached", "a minute", "from")
    for entry in entries:
        price = entry.price
        cached = price.input if price.cached is None else price.cached
        sums = (price.input, price.output, cached, price.minute)
        made.add_row(entry.name, *(f"{dollars:g}" for dollars in sums), entry.origin)
    show(made)


def _told(price: "Price") -> str:
    tokens = f"${price.input:g} in and ${price.output:g} out for a million tokens"
    return f"${price.minute:g} a minute" if price.minute and not price.output else tokens


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(price_app, name="price")
