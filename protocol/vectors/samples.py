"""Makes example values of any message from its types: smallest, filled, and at each bound."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import NODEFAULT, Struct, inspect

from protocol.codec import NAMES

WORDS = "Ada 你好 😀 "
WIDE = "😀"
"""One code point, two UTF-16 units, four UTF-8 bytes: shows how a client counts."""


class Sample(NamedTuple):
    """One field at one of its bounds.

    `plain` is the message as lists and maps; `fits` says whether a decoder must take it.
    """

    name: str
    plain: Any
    fits: bool


def smallest(cls: type[Struct]) -> Any:
    """Return the message with every field at its least and nothing that is optional."""
    return _build(cls, full=False)


def fullest(cls: type[Struct]) -> Any:
    """Return the message with every field filled, two items in every list."""
    return _build(cls, full=True)


def plain_of(message: Any) -> Any:
    """Return the message as the lists and maps that MessagePack sees."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message))


def bounds(cls: type[Struct], seen: set[type]) -> Iterator[Sample]:
    """Yield the smallest message with one field, at any depth, at and beyond one bound.

    Rows and entities in `seen` are passed over; those met are added.
    """
    yield from _bounds_within(inspect.type_info(cls), "", lambda whole: whole, seen)


def json_form(kind: inspect.Type, plain: Any) -> Any:
    """Return the JSON form of a plain value, right or wrong: arrays become objects by name.

    Raises:
        ValueError: JSON cannot say it (NaN, infinity).
    """
    match kind:
        case inspect.Metadata(type=inner):
            return json_form(inner, plain)
        case inspect.UnionType(types=members) if plain is not None:
            return json_form(_member_of(members, plain), plain)
        case inspect.StructType() if isinstance(plain, list | dict):
            return _json_object(kind, plain)
        case inspect.ListType(item_type=item) if isinstance(plain, list):
            return [json_form(item, value) for value in plain]
    if isinstance(plain, bytes):
        return b64encode(plain).decode()
    if isinstance(plain, float) and not isfinite(plain):
        raise ValueError("not in JSON")
    return plain


def grow(kind: inspect.Type, plain: Any) -> Any:
    """Return a plain value as a later version might send it: longer rows, new keys in entities."""
    match kind:
        case inspect.Metadata(type=inner):
            return grow(inner, plain)
        case inspect.UnionType(types=members) if plain is not None:
            return grow(_member_of(members, plain), plain)
        case inspect.ListType(item_type=item):
            return [grow(item, value) for value in plain]
        case inspect.StructType(fields=fields, array_like=True, tag=tag):
            code = [] if tag is None else plain[:1]
            values = zip(fields, plain[len(code) :], strict=True)
            grown = [grow(field.type, value) for field, value in values]
            return [*code, *grown, 1, "new", {"more": [None, True]}]
        case inspect.StructType(fields=fields):
            grown_fields = {f.name: grow(f.type, plain[f.name]) for f in fields if f.name in plain}
            return {"from_the_future": [1, {"a": b"\x00"}], **grown_fields, "zz": None}
    return plain


def _member_of(members: tuple[inspect.Type, ...], plain: Any) -> inspect.Type:
    code = plain[0] if isinstance(plain, list) and plain else None
    for member in members:
        if code is not None and isinstance(member, inspect.StructType) and member.tag == code:
            return member
    return members[0]


def _json_object(kind: inspect.StructType, plain: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if kind.array_like:
        if kind.tag is not None:
            made["t"], plain = NAMES[cast(Any, kind.cls)], plain[1:]
        plain = {field.name: value for field, value in zip(kind.fields, plain, strict=False)}
    for field in kind.fields:
        if field.name in plain and plain[field.name] != field.default:
            made[field.name] = json_form(field.type, plain[field.name])
    return made


def _build(cls: type[Struct], *, full: bool) -> Any:
    info = cast(inspect.StructType, inspect.type_info(cls))
    values: dict[str, Any] = {}
    for number, field in enumerate(info.fields, start=1):
        if full or field.default is NODEFAULT:
            values[field.name] = _value(field.type, number, full=full)
    return cls(**values)


def _value(kind: inspect.Type, number: int, *, full: bool) -> Any:
    match kind:
        case inspect.Metadata(type=inner):
            return _value(inner, number, full=full)
        case inspect.UnionType(types=members):
            return _value(members[0], number, full=full)
        case inspect.IntType(ge=low, le=high):
            return min(int(high or 0), 1000 * number + number) if full else max(0, int(low or 0))
        case inspect.FloatType():
            return 0.75 if full else 0.0
        case inspect.BoolType():
            return full
        case inspect.BytesType(min_length=length):
            return bytes(range(number, number + (length or 0))) if full else bytes(length or 0)
        case inspect.StrType(max_length=longest):
            return (WORDS + str(number))[:longest] if full else ""
        case inspect.ListType(item_type=item, min_length=least, max_length=most):
            count = min(2, most or 2) if full else least or 0
            return [_value(item, number + step, full=full) for step in range(count)]
        case inspect.DictType():
            return {"k": "v", "键": "值"} if full else {}
        case inspect.StructType(cls=cls):
            return _build(cls, full=full)
    raise TypeError(f"no sample of {kind}")


_Put = Callable[[Any], Any]
"""Returns the whole message with a value in one place."""


def _bounds_within(kind: inspect.Type, path: str, put: _Put, seen: set[type]) -> Iterator[Sample]:
    match kind:
        case inspect.Metadata(type=inner):
            yield from _bounds_within(inner, path, put, seen)
        case inspect.UnionType(types=members):
            for member in members:
                yield from _bounds_within(member, path, put, seen)
        case inspect.StructType(cls=cls) if cls not in seen:
            seen.add(cls)
            if path and kind.tag is not None:
                path += f"({NAMES[cast(Any, cls)]})"
            yield from _bounds_of_fields(kind, path, put, seen)
        case _:
            for label, value, fits in _edges(kind):
                yield Sample(f"{path} {label}", put(value), fits)
            if isinstance(kind, inspect.ListType):
                yield from _bounds_within(kind.item_type, path + "[]", lambda v: put([v]), seen)


def _bounds_of_fields(
    kind: inspect.StructType, path: str, put: _Put, seen: set[type]
) -> Iterator[Sample]:
    base = plain_of(smallest(kind.cls))
    for place, field in enumerate(kind.fields, start=0 if kind.tag is None else 1):
        step = place if kind.array_like else field.name

        def put_field(value: Any, step: int | str = step) -> Any:
            copy = base.copy()
            copy[step] = value
            return put(copy)

        yield from _bounds_within(field.type, f"{path}.{field.name}", put_field, seen)


def _edges(kind: inspect.Type) -> Iterator[tuple[str, Any, bool]]:
    """Yield (label, value, whether it fits) for the bounds of one scalar, list or map."""
    match kind:
        case inspect.IntType(ge=low, le=high):
            assert low is not None
            assert high is not None
            yield from (("least", low, True), ("below", low - 1, False))
            yield from (("most", high, True), ("above", high + 1, False))
            yield ("as text", "1", False)
        case inspect.FloatType(ge=low, le=high):
            assert low is not None
            assert high is not None
            yield from (("least", float(low), True), ("below", -0.5, False))
            yield from (("most", float(high), True), ("above", high + 0.5, False))
            yield from (("NaN", float("nan"), False), ("infinite", float("inf"), False))
        case inspect.BytesType(min_length=length):
            assert length is not None
            yield from (("short", bytes(length - 1), False), ("long", bytes(length + 1), False))
        case inspect.StrType(max_length=longest) if longest is not None:
            yield from (("empty", "", True), ("longest", WIDE * longest, True))
            yield ("too long", "x" * (longest + 1), False)
        case inspect.ListType(min_length=least, max_length=most) if most is not None:
            item = plain_of(_value(kind.item_type, 1, full=True))
            yield ("longest", [item] * most, True)
            yield ("too long", [item] * (most + 1), False)
            yield ("empty", [], not least)
        case inspect.DictType(max_length=most):
            assert most is not None
            keys = [f"k{number:02}" for number in range(most + 1)]
            yield ("longest", dict.fromkeys(keys[:most], "v"), True)
            yield ("too long", dict.fromkeys(keys, "v"), False)
            yield from (
                ("long key", {"x" * 65: "v"}, False),
                ("long value", {"k": "x" * 257}, False),
            )
            yield ("number as value", {"k": 1}, False)
