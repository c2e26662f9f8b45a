"""What one SDK can do and tell, the other can do and tell under the same name."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import msgspec
import pytest

import clients.events as ev
from clients.auth import Account
from clients.calls import Calls
from clients.client import Client
from clients.dispatch import Dispatch
from clients.feeds import Feeds
from clients.questions import Questions
from clients.reconnecting import Reconnecting
from clients.streams import Stream, Streams
from clients.views import ConvView

SDK = Path(__file__).parents[2] / "clients" / "web" / "sdk"
UNITS = re.compile(r"_(ms|s)$")

# The reason for each name that only one of them has.
ONLY_PYTHON = {
    "generate",  # three methods there: reply, regenerate, continueAnswer
    "held",  # for tests
    "add_listener",  # addEventListener is the name of the platform
    "remove_listener",
}
ONLY_JAVASCRIPT = {
    "reply",
    "regenerate",
    "continue_answer",
    "add_event_listener",
    "remove_event_listener",
    "wake",  # browsers freeze pages; nobody tells a Python program
}
# Methods by which the parts of one SDK talk to each other, and Python's own.
INSIDE = re.compile(
    r"^(_|on_|put_|merge_|forget_|replace_|frames?_|connection_lost|bytes_came)|^constructor$"
)


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", lambda found: "_" + found[1].lower(), name)


def declared(module: str, name: str) -> set[str]:
    """Return the methods and getters of a class of a declaration file, in Python's spelling."""
    text = (SDK / f"{module}.d.ts").read_text(encoding="utf-8")
    body = text.split(f"export declare class {name} ")[1].split("\n}")[0]
    found = re.findall(r"^  (?:get )?(\w+)(?:<.*?>)?\(", body, re.MULTILINE)
    return {snake(one) for one in found}


def defined(*classes: type) -> set[str]:
    """Return the public methods and properties of classes, without what they inherit."""
    return {
        name
        for cls in classes
        for name, member in vars(cls).items()
        if inspect.isfunction(member) or isinstance(member, property)
    }


def differences(python: set[str], javascript: set[str]) -> tuple[set[str], set[str]]:
    def public(names: set[str]) -> set[str]:
        return {name for name in names if not INSIDE.match(name)}

    return (
        public(python) - public(javascript) - ONLY_PYTHON,
        public(javascript) - public(python) - ONLY_JAVASCRIPT,
    )


def test_both_tell_the_same_events_with_the_same_fields() -> None:
    text = (SDK / "events.d.ts").read_text(encoding="utf-8")
    body = text.split("export interface Events {")[1].split("\n}")[0]
    theirs = {
        name: set(re.findall(r"(\w+): ", fields)) - {"type"}
        for name, fields in re.findall(r"^  (\w+): \{(.*?)\};$", body, re.MULTILINE | re.DOTALL)
    }
    ours = {
        cls.__name__[0].lower() + cls.__name__[1:]: {
            UNITS.sub("", field.name) for field in msgspec.structs.fields(cls)
        }
        for cls in ev.Event.__subclasses__()
    }
    assert ours == theirs


def test_both_can_ask_for_the_same() -> None:
    javascript = declared("calls", "Calls") | declared("client", "Client")
    assert differences(defined(Calls, Client, Reconnecting, Dispatch), javascript) == (set(), set())


@pytest.mark.parametrize(
    ("cls", "module"),
    [
        (Account, "auth"),
        (ConvView, "feeds"),
        (Feeds, "feeds"),
        (Questions, "streams"),
        (Stream, "streams"),
        (Streams, "streams"),
    ],
)
def test_what_python_knows_javascript_knows(cls: type, module: str) -> None:
    # Not the other way round: pages need a little more.
    assert differences(defined(cls), declared(module, cls.__name__))[0] == set()
