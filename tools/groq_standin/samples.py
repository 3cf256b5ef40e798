"""Sample values for JSON Schemas, for structured answers and the arguments of tool calls."""

from collections.abc import Mapping
from typing import Any

_DEPTH_MAX = 8
_FORMATS = {"date": "2026-01-01", "date-time": "2026-01-01T00:00:00Z", "email": "stand-in@example.com"}


def sample(schema: Mapping[str, Any] | None) -> Any:
    """Return a deterministic minimal value for `schema`, or an empty object if it is None.

    Objects have only their required members. Supported are `type`, `enum`, `const`, `default`, `anyOf`, `oneOf`,
    `allOf` (the first branch), local `$ref`, `minimum`, `minItems` and `minLength`. Other keywords are ignored.
    """
    return {} if schema is None else _value(schema, schema, 0)


def _value(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _DEPTH_MAX:
        return None
    if "$ref" in schema:
        return _value(_resolve(str(schema["$ref"]), root), root, depth + 1)
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return _value(schema[choice][0], root, depth + 1)
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    return schema["enum"][0] if schema.get("enum") else _typed(schema, root, depth)


def _typed(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type", "object")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "string":
            return _FORMATS.get(schema.get("format", ""), "stand-in").ljust(schema.get("minLength", 0), ".")
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            return [_value(schema.get("items", {}), root, depth + 1)] * schema.get("minItems", 0)
    members = schema.get("properties", {})
    return {name: _value(members.get(name, {}), root, depth + 1) for name in schema.get("required", ())}


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            found = found.get(step) if isinstance(found, Mapping) else None
    return found
