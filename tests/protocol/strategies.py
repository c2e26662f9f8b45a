"""Hypothesis strategies for every message, derived from the types of its fields."""

from functools import cache
from typing import Any, cast

from hypothesis import strategies as st
from msgspec import Struct, inspect

LONGEST_TEXT = 40
LONGEST_LIST = 3


@cache
def messages(cls: type[Struct]) -> st.SearchStrategy[Any]:
    """Valid messages of one type; long fields stay short, bounds are tested elsewhere."""
    info = cast(inspect.StructType, inspect.type_info(cls))
    return st.builds(cls, **{field.name: values(field.type) for field in info.fields})


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Valid values of one field."""
    match kind:
        case inspect.Metadata(type=inner):
            return values(inner)
        case inspect.UnionType(types=members):
            return st.one_of(*(values(member) for member in members))
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=low, le=high):
            return st.integers(low, high)
        case inspect.FloatType(ge=low, le=high):
            return st.floats(low, high)
        case inspect.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=high)
        case inspect.StrType(max_length=high):
            return st.text(max_size=min(high or LONGEST_TEXT, LONGEST_TEXT))
        case inspect.ListType(item_type=item, min_length=low, max_length=high):
            most = min(high or LONGEST_LIST, LONGEST_LIST)
            return st.lists(values(item), min_size=low or 0, max_size=most)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(values(key), values(value), max_size=LONGEST_LIST)
        case inspect.StructType(cls=cls):
            return messages(cls)
    raise TypeError(f"no strategy for {kind}")
