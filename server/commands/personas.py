"""parlance persona …"""

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import (
    fail,
    find_tenant,
    find_user,
    run_with_store,
    say_when,
    show,
    table,
)
from server.commands.users import TenantSlug

if TYPE_CHECKING:
    from protocol.rows import Persona
    from server.config import Config
    from server.persona_admin import PersonaAdmin
    from storage.rows import StoredPersona
    from storage.store import Store

_RESTART = "it learns of this at its next start."

persona_app = typer.Typer(no_args_is_help=True, help="AI characters that people talk with.")

Key = Annotated[str, typer.Argument(help="Id, file name or name of the persona.")]
Owner = Annotated[
    str | None, typer.Option("--user", help="Whose; without it, those for everybody.")
]
Prompt = Annotated[str | None, typer.Option(help="What the model is told to be.")]
PromptFile = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Read the prompt from a file.")
]
Greeting = Annotated[str | None, typer.Option(help="Its first words.")]
Model = Annotated[str | None, typer.Option(help="Model; else the server's default.")]
Temperature = Annotated[float | None, typer.Option(min=0, max=2, help="0 is sober, 2 is wild.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Repeat it for more.")]


async def _admin(store: "Store", owner: str | None, tenant: str) -> "PersonaAdmin":
    from server.persona_admin import PersonaAdmin

    if owner is None:
        return PersonaAdmin(store)
    return PersonaAdmin(
        store, await find_user(store, tenant, owner), await find_tenant(store, tenant)
    )


async def _find(store: "Store", key: str) -> "StoredPersona":
    from server.persona_admin import PersonaAdmin

    found = await PersonaAdmin(store).find(key)
    if found is None:
        fail(f"there is no persona {key!r}; see `parlance persona list`")
    return found


@persona_app.command("list")
def list_personas(
    context: typer.Context, user: Owner = None, tenant: TenantSlug = "default"
) -> None:
    """List personas: those for everybody, or one user's own."""

    async def work(store: "Store", config: "Config") -> None:
        admin = await _admin(store, user, tenant)
        made = table("id", "file", "name", "model", "tags")
        for one in await admin.all():
            row = one.row
            model = (row.opt.model if row.opt else None) or ""
            file = one.slug.removeprefix("file:")
            made.add_row(str(row.id), file, row.name or "", model, ", ".join(row.tags or []))
        show(made)

    run_with_store(context, work)


@persona_app.command("show")
def show_persona(context: typer.Context, persona: Key) -> None:
    """Show one persona as the JSON that export writes."""

    async def work(store: "Store", config: "Config") -> None:
        import msgspec

        from server.persona_admin import PersonaAdmin

        file = await PersonaAdmin(store).give_out(await _find(store, persona))
        if file.avatar:
            file.avatar = f"({len(file.avatar)} characters of base64)"
        typer.echo(msgspec.json.format(msgspec.json.encode(file), indent=2))

    run_with_store(context, work)


def _fields(
    prompt: str | None,
    prompt_file: Path | None,
    greeting: str | None,
    model: str | None,
    temperature: float | None,
    max_tokens: int | None,
    tags: list[str] | None,
) -> "Persona":
    from protocol.rows import GenOpt, Persona
    from protocol.text import clean_name, clean_text

    if prompt_file is not None:
        prompt = prompt_file.read_text(encoding="utf-8")
    opt = GenOpt(model=model, temperature=temperature, max_tokens=max_tokens)
    return Persona(
        prompt=None if prompt is None else clean_text(prompt, 16_000),
        greeting=None if greeting is None else clean_text(greeting, 2000),
        opt=None if opt == GenOpt() else opt,
        tags=None if not tags else [clean_name(tag, 32) for tag in tags],
    )


@persona_app.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name that people see.")],
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    greeting: Greeting = None,
    model: Model = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    tag: Tags = None,
    user: Owner = None,
    tenant: TenantSlug = "default",
) -> None:
    """Add a persona.

    Example: parlance persona add "Captain" --prompt "You command a ship." --tag roleplay
    """
    from protocol.text import clean_name

    given = _fields(prompt, prompt_file, greeting, model, temperature, max_tokens, tag)
    given.name = clean_name(name, 64)
    key = re.sub(r"[^\w.-]+", "-", given.name).strip("-.")[:48] or "persona"

    async def work(store: "Store", config: "Config") -> None:
        admin = await _admin(store, user, tenant)
        taken = {one.slug for one in await admin.all()} if user is None else set()
        if f"file:{key}" in taken:
            fail(f"there is a persona {key!r} already; change it with `parlance persona edit`")
        saved = await admin.save(key, given)
        typer.echo(f"Added {saved.name} ({saved.id}).")
        say_when(config, _RESTART)

    run_with_store(context, work)


@persona_app.command("edit")
def edit(
    context: typer.Context,
    persona: Key,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    greeting: Greeting = None,
    model: Model = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    tag: Tags = None,
) -> None:
    """Change what is given; the rest stays.

    Example: parlance persona edit captain --temperature 0.4
    """
    from protocol.text import clean_name

    given = _fields(prompt, prompt_file, greeting, model, temperature, max_tokens, tag)
    if name is not None:
        given.name = clean_name(name, 64)

    async def work(store: "Store", config: "Config") -> None:
        from server.persona_admin import PersonaAdmin

        changed = await PersonaAdmin(store).edit(await _find(store, persona), given)
        typer.echo(f"Changed {changed.name} ({changed.id}).")
        say_when(config, _RESTART)

    run_with_store(context, work)


@persona_app.command("remove")
def remove(context: typer.Context, persona: Key) -> None:
    """Remove a persona; conversations with it stay readable."""

    async def work(store: "Store", config: "Config") -> None:
        from server.persona_admin import PersonaAdmin

        found = await _find(store, persona)
        await PersonaAdmin(store).remove(found)
        typer.echo(f"Removed {found.row.name} ({found.row.id}).")
        say_when(config, _RESTART)

    run_with_store(context, work)


Folder = Annotated[Path, typer.Argument(file_okay=False, help="Folder to write to.")]
Source = Annotated[Path, typer.Argument(help="A file, or a folder of *.json, *.png and *.charx.")]


@persona_app.command("import")
def import_path(
    context: typer.Context, source: Source, user: Owner = None, tenant: TenantSlug = "default"
) -> None:
    """Take in a file or every file of a folder; what is there already is renewed.

    A file is {"id", "name", "prompt", "avatar", "create_time"}, and may have "greeting", "model",
    "temperature", "max_tokens" and "tags"; or it is a character card (V1, V2 or V3; JSON, PNG or
    CHARX). Bad files are named and left out.
    """
    from server.persona_files import files_in, read_one

    if not source.exists():
        fail(f"there is no file or folder {source}")
    paths = files_in(source)

    async def work(store: "Store", config: "Config") -> None:
        from rich.progress import track

        admin = await _admin(store, user, tenant)
        bad: list[str] = []
        taken = 0
        for path in track(paths, "Importing", transient=True, disable=len(paths) < 20):
            file = read_one(path)
            problem = file.problem
            try:
                if file.persona is not None:
                    await admin.take_in(file.persona)
                elif file.card is not None:
                    await admin.take_in_card(file.key, file.card)
            except ValueError as error:
                problem = str(error)
            if problem:
                bad.append(f"{file.path.name}: {problem}")
            else:
                taken += 1
        for line in bad:
            typer.echo(f"left out {line}", err=True)
        typer.echo(f"{taken} taken in, {len(bad)} left out.")
        if taken:
            say_when(config, _RESTART)

    run_with_store(context, work)


class CardKind(StrEnum):
    """How cards are written."""

    JSON = "json"
    PNG = "png"


@persona_app.command("export")
def export_folder(
    context: typer.Context,
    folder: Folder,
    user: Owner = None,
    tenant: TenantSlug = "default",
    builtin: Annotated[bool, typer.Option(help="Those that come with the server, too.")] = False,
    cards: Annotated[
        CardKind | None, typer.Option(help="Write all of them as character cards of this kind.")
    ] = None,
) -> None:
    """Write every persona into a folder, one file each; files of the same name are replaced.

    Personas that came from a character card are written as cards, so that nothing is lost; the
    others as *.json that `parlance persona import` takes.
    """

    async def work(store: "Store", config: "Config") -> None:
        from server.persona_files import SLUG_PREFIX, write_card, write_file

        folder.mkdir(parents=True, exist_ok=True)
        admin = await _admin(store, user, tenant)
        written = 0
        for one in await admin.all():
            if not builtin and user is None and not one.slug.startswith(SLUG_PREFIX):
                continue
            card = await admin.give_out_card(one, always=cards is not None)
            if card is None:
                write_file(folder, await admin.give_out(one))
            else:
                kind = cards or (CardKind.PNG if card.has_png else CardKind.JSON)
                key = one.slug.removeprefix(SLUG_PREFIX) or str(one.row.id)
                write_card(folder, key, card, kind.value)
            written += 1
        typer.echo(f"{written} written to {folder}.")

    run_with_store(context, work)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(persona_app, name="persona")
