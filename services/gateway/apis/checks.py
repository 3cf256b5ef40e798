"""Validation rules for JSON values. Errors have the text, `param` and `code` that OpenAI sends.

Each rule includes its JSON Schema. The OpenAPI document is generated from these schemas.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from services.common.errors import ErrorDetails, InvalidRequest
from services.gateway.http.redaction import redacted

Check = Callable[[str, Any], None]
"""Validates the value at a path, such as `messages[0].role`. Raises `InvalidRequest` if the value is invalid."""

Schema = dict[str, Any]
"""A JSON Schema."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A validation rule, as a function and as a JSON Schema."""

    check: Check
    schema: Schema

    def __call__(self, path: str, value: Any) -> None:
        """Validate a value.

        Raises:
            InvalidRequest: The value is invalid.
        """
        self.check(path, value)


def refusal(message: str, param: str, code: str) -> InvalidRequest:
    """Return a 400 error for a parameter."""
    return InvalidRequest(message, details=ErrorDetails(param=param, code=code))


def missing(param: str) -> InvalidRequest:
    """Return the error for a missing required parameter."""
    return refusal(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def unknown_parameter(param: str) -> InvalidRequest:
    """Return the error for an unknown parameter. The name is truncated to 100 characters."""
    return refusal(f"Unknown parameter: '{param[:100]}'.", param[:100], "unknown_parameter")


def wrong_type(param: str, expected: str, value: Any) -> InvalidRequest:
    """Return the error for a value whose type is not `expected`, such as `an integer`."""
    text = f"Invalid type for '{param}': expected {expected}, but got {type_name(value)} instead."
    return refusal(text, param, "invalid_type")


def unsupported(param: str, reason: str) -> InvalidRequest:
    """Return the error for a parameter that is valid at OpenAI but not supported here."""
    return refusal(f"Unsupported parameter: '{param}' is not supported: {reason}.", param, "unsupported_parameter")


def array_too_long(path: str, most: int, length: int) -> InvalidRequest:
    """Return the error for an array with more than `most` elements."""
    text = (
        f"Invalid '{path}': array too long. Expected an array with maximum length {most}, "
        f"but got an array with length {length} instead."
    )
    return refusal(text, path, "array_above_max_length")


anything = Rule(lambda path, value: None, {})
"""A rule that accepts every value."""


def of_type(kind: type, expected: str, name: str) -> Rule:
    """Return a rule for a JSON type. `expected` is OpenAI's name for the type, `name` is JSON Schema's."""

    def check(path: str, value: Any) -> None:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise wrong_type(path, expected, value)

    return Rule(check, {"type": name})


string = of_type(str, "a string", "string")
boolean = of_type(bool, "a boolean", "boolean")
mapping = of_type(dict, "an object", "object")


def decimal(least: float, most: float) -> Rule:
    """Return a rule for a number from `least` to `most`, both inclusive."""

    def check(path: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(path, "a decimal", value)
        _check_range(path, value, "decimal", least, most)

    return Rule(check, {"type": "number", "minimum": least, "maximum": most})


def integer(least: int | None = None, most: int | None = None) -> Rule:
    """Return a rule for an integer from `least` to `most`, both inclusive. None means no bound."""

    def check(path: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(path, "an integer", value)
        _check_range(path, value, "integer", least, most)

    return Rule(check, _without_none(type="integer", minimum=least, maximum=most))


def one_of(*known: str) -> Rule:
    """Return a rule for an enumeration of strings."""
    listed = (
        ", ".join(f"'{name}'" for name in known[:-1]) + f", and '{known[-1]}'" if len(known) > 1 else f"'{known[0]}'"
    )

    def check(path: str, value: Any) -> None:
        string(path, value)
        if value not in known:
            text = f"Invalid value: '{redacted(value)}'. Supported values are: {listed}."
            raise refusal(text, path, "invalid_value")

    return Rule(check, {"type": "string", "enum": list(known)})


def array_of(item: Rule, expected: str, *, at_least: int = 0, at_most: int | None = None) -> Rule:
    """Return a rule for an array whose items match `item`. `expected` is its type, such as `an array of objects`."""

    def check_array(path: str, value: Any) -> None:
        if not isinstance(value, list):
            raise wrong_type(path, expected, value)
        if len(value) < at_least:
            raise refusal(
                f"Invalid '{path}': empty array. Expected an array with minimum length {at_least}, "
                "but got an empty array instead.",
                path,
                "empty_array",
            )
        if at_most is not None and len(value) > at_most:
            raise array_too_long(path, at_most, len(value))
        for index, one in enumerate(value):
            item(f"{path}[{index}]", one)

    return Rule(
        check_array, _without_none(type="array", items=item.schema, minItems=at_least or None, maxItems=at_most)
    )


def record(fields: Mapping[str, Rule], required: Collection[str] = ()) -> Rule:
    """Return a rule for an object. Null members count as absent, and members not in `fields` are ignored."""

    def check(path: str, value: Any) -> None:
        mapping(path, value)
        for name in required:
            if value.get(name) is None:
                raise missing(f"{path}.{name}")
        for name, rule in fields.items():
            if value.get(name) is not None:
                rule(f"{path}.{name}", value[name])

    properties = {name: rule.schema if name in required else nullable(rule.schema) for name, rule in fields.items()}
    return Rule(check, _without_none(type="object", properties=properties, required=list(required) or None))


def closed(fields: Mapping[str, Rule]) -> Rule:
    """Return a rule like `record` that rejects members not in `fields`, except null ones."""
    known = record(fields)

    def check(path: str, value: Any) -> None:
        known(path, value)
        for name, one in value.items():
            if name not in fields and one is not None:
                raise unknown_parameter(f"{path}.{name}")

    return Rule(check, {**known.schema, "additionalProperties": {"type": "null"}})


def by_type(expected: str, rules: Mapping[type, Rule]) -> Rule:
    """Return a rule that is chosen by the value's type. `expected` lists the types: `one of a string or array`."""

    def check(path: str, value: Any) -> None:
        rule = rules.get(type(value))
        if rule is None:
            raise wrong_type(path, expected, value)
        rule(path, value)

    return Rule(check, {"anyOf": [rule.schema for rule in rules.values()]})


def nullable(schema: Schema) -> Schema:
    """Return a schema that also accepts null, which counts as absent."""
    return {"anyOf": [schema, {"type": "null"}]} if schema else schema


_TYPE_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def type_name(value: Any) -> str:
    """Return OpenAI's name for the type of a JSON value."""
    return _TYPE_NAMES.get(type(value), "an object")


def _without_none(**members: Any) -> Schema:
    return {name: value for name, value in members.items() if value is not None}


def _check_range(path: str, value: float, kind: str, least: float | None, most: float | None) -> None:
    if least is not None and value < least:
        text = f"Invalid '{path}': {kind} below minimum value. Expected a value >= {least}, but got {value} instead."
        raise refusal(text, path, f"{kind}_below_min_value")
    if most is not None and value > most:
        text = f"Invalid '{path}': {kind} above maximum value. Expected a value <= {most}, but got {value} instead."
        raise refusal(text, path, f"{kind}_above_max_value")
