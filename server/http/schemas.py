"""JSON schemas of Structs, put as generators of clients read them.

Some habits of msgspec are correct and still lead generators astray: a Literal without its type, a
default, from which openapi-typescript concludes that a field is always there, titles that only
this code knows ("S64"), and the indentation of docstrings.
"""

import json
from typing import Any, Final

OpenApi = dict[str, Any]

_MAPS: Final = ("properties", "$defs")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONES: Final = ("items", "additionalProperties", "propertyNames")
_EMPTY: Final[tuple[Any, ...]] = (None, "", 0, False, [], {})


def plain_schema(schema: OpenApi) -> OpenApi:
    """Return a schema that says the same: each enum with its type, each default in words."""
    plain = dict(schema)
    if "properties" not in plain:
        plain.pop("title", None)
    for name in _MAPS:
        if name in plain:
            plain[name] = {key: plain_schema(one) for key, one in plain[name].items()}
    for name in _LISTS:
        if name in plain:
            plain[name] = [plain_schema(one) for one in plain[name]]
    for name in _ONES:
        if isinstance(plain.get(name), dict):
            plain[name] = plain_schema(plain[name])
    about = " ".join(plain.pop("description", "").split())
    default = plain.pop("default", None)
    # What is missing is empty: that goes without saying.
    if default not in _EMPTY:
        about = f"{about} {json.dumps(default, ensure_ascii=False)} unless given.".lstrip()
    if about:
        plain["description"] = about
    return plain | _typed(plain)


def _typed(schema: OpenApi) -> OpenApi:
    """Return what an enum lacks: its type, and for a single truth value a constant."""
    values = schema.get("enum", [])
    if "type" in schema or not values:
        return {}
    if all(isinstance(one, bool) for one in values):
        if len(values) == 1:
            del schema["enum"]
            return {"type": "boolean", "const": values[0]}
        return {"type": "boolean"}
    if all(isinstance(one, str) for one in values):
        return {"type": "string"}
    if all(isinstance(one, int) for one in values):
        return {"type": "integer"}
    return {}
