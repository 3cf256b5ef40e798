"""The `text.format` of a request as chat's `response_format`."""

from typing import Any

from services.gateway.apis.checks import Rule, Schema, boolean, mapping, one_of, record, string
from services.gateway.requests.types import JSONObject

_NAME = "output"
"""Groq requires a name for a schema."""
_TYPED = record({"type": one_of("text", "json_object", "json_schema")}, required=["type"])
_JSON_SCHEMA = record(
    {"name": string, "schema": mapping, "strict": boolean, "description": string}, required=["schema"]
)


def _check(path: str, value: Any) -> None:
    _TYPED(path, value)
    if value["type"] == "json_schema":
        _JSON_SCHEMA(path, value)


_SCHEMA: Schema = {
    **_TYPED.schema,
    "if": {"properties": {"type": {"const": "json_schema"}}},
    "then": _JSON_SCHEMA.schema,
}
FORMAT = Rule(_check, _SCHEMA)
"""The rule for `text.format`."""


def response_format(text_format: JSONObject | None) -> JSONObject | None:
    """Return a checked format as chat's `response_format`, or None for plain text."""
    if text_format is None or text_format["type"] == "text":
        return None
    if text_format["type"] == "json_object":
        return {"type": "json_object"}
    names = ("name", "description", "schema", "strict")
    given = {name: text_format[name] for name in names if text_format.get(name) is not None}
    return {"type": "json_schema", "json_schema": {"name": _NAME} | given}
