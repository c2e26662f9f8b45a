"""The commands of the terminal client: what begins with a slash."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple

from clients.terminal.chat import Chat, Refused
from clients.terminal.words import Words
from clients.terminal.wrapping import clipped
from protocol.rows import Persona, Use

Show = Callable[[str], None]

_NUMBER: Final = re.compile(r"#?(\d+)(?:\s+|$)")


class Command(NamedTuple):
    """One row of the table. `arguments` is what `/help` shows behind the name."""

    name: str
    arguments: str
    run: "Callable[[Commands, str], Awaitable[None]]"


class Commands:
    """Runs commands on a chat and shows what they say."""

    def __init__(self, chat: Chat, words: Words, show: Show) -> None:
        self.chat = chat
        self.words = words
        self.show = show

    async def run(self, line: str) -> bool:
        """Run a line that begins with a slash; False when the user wants to leave."""
        name, _, rest = line[1:].strip().partition(" ")
        name = name.lower()
        if name in ("quit", "exit", "q"):
            return False
        command = TABLE.get(_ALIASES.get(name, name))
        if command is None:
            self.show(self.words("unknown command", name=f"/{clipped(name, 40)}"))
            return True
        try:
            await command.run(self, rest.strip())
        except Refused as exc:
            self.show(str(exc))
        return True

    async def help(self, rest: str) -> None:
        """List the commands."""
        lines = [self.words("help")]
        for command in TABLE.values():
            usage = f"/{command.name} {command.arguments}".rstrip()
            lines.append(f"  {usage:<28} {self.words(f'c {command.name}')}")
        lines.append(f"  {'/quit':<28} {self.words('c quit')}")
        self.show("\n".join([*lines, self.words("keys")]))

    async def personas(self, word: str) -> None:
        """List personas under the numbers that `/persona` takes."""
        found = await self.chat.list_personas(word)
        numbers = {persona.id: at for at, persona in enumerate(self.chat.personas, 1)}
        lines = [
            self._persona_line(numbers[persona.id], persona, persona.id == self.chat.persona)
            for persona in found
        ]
        empty = self.words("no persona", name=clipped(word, 40))
        self.show("\n".join([self.words("personas"), *lines]) if lines else empty)

    @staticmethod
    def _persona_line(number: int, persona: Persona, chosen: bool) -> str:
        tags = f"  [{', '.join(persona.tags)}]" if persona.tags else ""
        return f"{'*' if chosen else ' '}{number:>3}  {clipped(persona.name or '', 40)}{tags}"

    async def persona(self, name: str) -> None:
        """Choose a persona."""
        if not name:
            await self.personas("")
            return
        if not self.chat.personas:
            await self.chat.list_personas()
        persona = await self.chat.choose(name)
        self.show(self.words("persona now", name=persona.name or ""))

    async def new(self, name: str) -> None:
        """Begin a new conversation."""
        persona = self.chat.find_persona(name).id or 0 if name else 0
        await self.chat.create(persona)
        chosen = self.chat.persona_name(self.chat.persona)
        self.show(self.words("new conversation", name=chosen))

    async def conversations(self, rest: str) -> None:
        """List conversations under the numbers that `/open` takes."""
        convs = await self.chat.list_conversations()
        if not convs:
            self.show(self.words("no conversations"))
            return
        lines = [self.words("conversations")]
        for number, conv in enumerate(convs, 1):
            view = self.chat.client.feeds.convs.get(conv)
            unread = f"  ({view.unread})" if view is not None and view.unread else ""
            star = "*" if conv == self.chat.conv else " "
            lines.append(f"{star}{number:>3}  {clipped(self.chat.title_of(conv), 60)}{unread}")
        self.show("\n".join(lines))

    async def open(self, name: str) -> None:
        """Open another conversation."""
        await self.chat.open_numbered(name)

    async def history(self, rest: str) -> None:
        """Load a page of older messages."""
        if not await self.chat.load_older():
            self.show(self.words("no older"))

    async def stop(self, rest: str) -> None:
        """Stop the running answer."""
        self.show(self.words("stopping" if await self.chat.stop() else "nothing to stop"))

    async def regenerate(self, rest: str) -> None:
        """Ask for the last answer again."""
        await self.chat.regenerate()

    async def edit(self, rest: str) -> None:
        """Change a message."""
        seq, text = self._target(rest)
        if not text:
            raise Refused(self.words("needs text", usage="/edit [#N] …"))
        await self.chat.edit(seq, text)
        self.show(self.words("edited done", seq=seq))

    async def recall(self, rest: str) -> None:
        """Take a message back."""
        seq, _ = self._target(rest)
        await self.chat.recall(seq)
        self.show(self.words("recalled done", seq=seq))

    async def quote(self, rest: str) -> None:
        """Answer a message."""
        found = _NUMBER.match(rest)
        if found is None:
            raise Refused(self.words("bad number"))
        text = rest[found.end() :].strip()
        if not text:
            raise Refused(self.words("needs text", usage="/quote #N …"))
        self.chat.say(text, quote=int(found[1]))

    async def who(self, rest: str) -> None:
        """List the members."""
        names = await self.chat.members()
        self.show("\n".join([self.words("who"), *(f"  {clipped(name, 60)}" for name in names)]))

    async def rename(self, title: str) -> None:
        """Give the conversation another title."""
        if not title:
            raise Refused(self.words("needs text", usage="/rename …"))
        await self.chat.rename(title)
        self.show(self.words("renamed", title=title))

    async def yes(self, rest: str) -> None:
        """Let the tool run that asks."""
        await self.chat.confirm(yes=True)

    async def no(self, rest: str) -> None:
        """Do not let it run."""
        await self.chat.confirm(yes=False)

    async def usage(self, rest: str) -> None:
        """Tell what the user's answers used."""
        used = await self.chat.usage()
        spans = (("usage today", used.today), ("usage month", used.month))
        self.show("\n".join(self._use_line(self.words(key), use) for key, use in spans))

    def _use_line(self, span: str, use: Use) -> str:
        read, written = f"{use.used_in:,}", f"{use.used_out:,}"
        line = self.words("usage tokens", span=span, read=read, written=written)
        if use.quota:
            return line + self.words(
                "usage of", spent=_dollars(use.spent), quota=_dollars(use.quota)
            )
        return line + (self.words("usage spent", spent=_dollars(use.spent)) if use.spent else "")

    def _target(self, rest: str) -> tuple[int, str]:
        found = _NUMBER.match(rest) if rest.startswith("#") else None
        if found is not None:
            return int(found[1]), rest[found.end() :].strip()
        seq = self.chat.own_last()
        if not seq:
            raise Refused(self.words("nothing to change"))
        return seq, rest


def _dollars(micro: int) -> str:
    return f"${micro / 1_000_000:,.4f}"


TABLE: Final[dict[str, Command]] = {
    command.name: command
    for command in (
        Command("help", "", Commands.help),
        Command("personas", "[word]", Commands.personas),
        Command("persona", "N | name", Commands.persona),
        Command("new", "[persona]", Commands.new),
        Command("conversations", "", Commands.conversations),
        Command("open", "N | title", Commands.open),
        Command("history", "", Commands.history),
        Command("stop", "", Commands.stop),
        Command("regenerate", "", Commands.regenerate),
        Command("edit", "[#N] text", Commands.edit),
        Command("recall", "[#N]", Commands.recall),
        Command("quote", "#N text", Commands.quote),
        Command("who", "", Commands.who),
        Command("rename", "title", Commands.rename),
        Command("yes", "", Commands.yes),
        Command("no", "", Commands.no),
        Command("usage", "", Commands.usage),
    )
}
_ALIASES: Final = {
    "h": "help",
    "?": "help",
    "p": "persona",
    "c": "conversations",
    "r": "regenerate",
}


def completions(chat: Chat, before: str) -> Iterable[tuple[str, int]]:
    """Yield (text, how many characters of `before` it replaces) for a line under way."""
    if not before.startswith("/") or "\n" in before:
        return
    name, space, rest = before[1:].partition(" ")
    if not space:
        for known in (*TABLE, "quit"):
            if known.startswith(name.lower()):
                yield f"/{known}", len(before)
        return
    folded = rest.casefold()
    if name in ("persona", "new", "p"):
        names: Iterable[str] = (persona.name or "" for persona in chat.personas)
    elif name == "open":
        names = (chat.title_of(conv) for conv in chat.numbered)
    else:
        return
    for choice in names:
        if choice and choice.casefold().startswith(folded):
            yield choice, len(rest)
