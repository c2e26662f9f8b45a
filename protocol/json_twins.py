"""Builds, for each array-like Struct, a twin that is an object in JSON.

The binary Structs are the only definition; twins follow from them, bounds included, so the two
encodings cannot drift apart.
"""

import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Struct

_Shape = tuple[type[Struct], tuple[str, ...]]


class TwinSet:
    """The JSON twins of a set of messages and of every row that stands inside them.

    Args:
        names: message class to the value of its "t" key.
    """

    def __init__(self, names: Mapping[Any, str]) -> None:
        self._names = names
        self._to: dict[type[Struct], _Shape] = {}
        self._from: dict[type[Struct], _Shape] = {}
        for cls in names:
            self._twin(cls)

    def union(self, classes: Iterable[Any]) -> Any:
        """Return the union type of the twins of these messages, for a decoder."""
        return Union[tuple(self._twin(cls) for cls in classes)]

    def to_twin(self, value: Any) -> Any:
        """Return value with every array-like Struct in it replaced by its twin."""
        return _translate(value, self._to)

    def from_twin(self, value: Any) -> Any:
        """Return value with every twin in it replaced by the Struct it stands for."""
        return _translate(value, self._from)

    def _twin(self, cls: type[Struct]) -> type[Struct]:
        if cls in self._to:
            return self._to[cls][0]
        hints = get_type_hints(cls, include_extras=True)
        fields: list[Any] = []
        for info in msgspec.structs.fields(cls):
            kind = self._rewrite(hints[info.name])
            has_default = info.default is not NODEFAULT
            fields.append((info.name, kind, info.default) if has_default else (info.name, kind))
        name = self._names.get(cls)
        twin = msgspec.defstruct(
            cls.__name__,
            fields,
            tag_field=None if name is None else "t",
            tag=name,
            omit_defaults=True,
            module="protocol.json_twins",
        )
        names = cls.__struct_fields__
        self._to[cls] = (twin, names)
        self._from[twin] = (cls, names)
        return twin

    def _rewrite(self, hint: Any) -> Any:
        """Return a type hint with every Struct in it replaced by its twin."""
        if isinstance(hint, type) and issubclass(hint, Struct):
            return self._twin(hint)
        origin, args = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return Annotated[(self._rewrite(args[0]), *args[1:])]
        if origin in (Union, types.UnionType):
            return Union[tuple(self._rewrite(arg) for arg in args)]
        if origin in (list, dict):
            return origin[tuple(self._rewrite(arg) for arg in args)]
        return hint


def _translate(value: Any, table: Mapping[type[Struct], _Shape]) -> Any:
    if type(value) is list:
        return [_translate(item, table) for item in value]
    shape = table.get(type(value))
    if shape is None:
        return value
    target, names = shape
    return target(*(_translate(getattr(value, name), table) for name in names))
