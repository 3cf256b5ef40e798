"""Groq's rules for `messages`: a fixed set of properties for each role."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tools.groq_standin.schema import (
    Check,
    Violation,
    array_of,
    check_members,
    integer,
    nullable,
    one_of,
    record,
    string,
)

_TEXT = record({"type": string, "text": string}, ["type", "text"])
_IMAGE_URL = record({"url": string, "detail": nullable(string)}, ["url"])
_DOCUMENT = record({"data": lambda path, value: None, "id": nullable(string)}, ["data"])
_PARTS: Mapping[str, Check] = {
    "text": _TEXT,
    "image_url": record({"type": string, "image_url": _IMAGE_URL}, ["type", "image_url"]),
    "document": record({"type": string, "document": _DOCUMENT}, ["type", "document"]),
}


def _content(*kinds: str) -> Check:
    def check_part(path: str, value: object) -> None:
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in kinds:
            raise Violation(f"{path}.type", f"value is not one of the allowed values {list(kinds)}")
        _PARTS[kind](path, value)

    def check(path: str, value: object) -> None:
        if isinstance(value, list):
            return array_of(check_part)(path, value)
        return string(path, value)

    return check


_CALLED = record({"name": string, "arguments": string}, ["name", "arguments"])
_TOOL_CALL = record(
    {"id": string, "type": string, "function": _CALLED, "index": nullable(integer())}, ["id", "type", "function"]
)
_ASSISTANT = {
    "role": string,
    "content": nullable(_content("text")),
    "name": nullable(string),
    "reasoning": nullable(string),
    "tool_calls": nullable(array_of(_TOOL_CALL)),
    "function_call": nullable(_CALLED),
}
_SYSTEM = {"role": string, "content": _content("text"), "name": nullable(string)}
_USER = {"role": string, "content": _content("text", "image_url", "document"), "name": nullable(string)}

_ROLES: Mapping[str, tuple[Mapping[str, Check], tuple[str, ...]]] = {
    "system": (_SYSTEM, ("content",)),
    "developer": (_SYSTEM, ("content",)),
    "user": (_USER, ("content",)),
    "assistant": (_ASSISTANT, ()),
    "tool": ({"role": string, "content": _content("text"), "tool_call_id": string}, ("content", "tool_call_id")),
    "function": ({"role": string, "content": nullable(string), "name": string}, ("name",)),
}
_check_role: Callable[[str, object], None] = one_of(*_ROLES)


@dataclass(frozen=True, slots=True)
class Messages:
    """The rules for the conversation."""

    refuse_names: bool

    def check(self, path: str, value: object) -> None:
        """Check the whole array.

        Raises:
            Violation: A rule is violated. The text names the role, as recorded: `'messages.0' : for 'role:user' the …`.
        """
        array_of(self._check_message, at_least=1)(path, value)

    def _check_message(self, path: str, value: object) -> None:
        if not isinstance(value, dict):
            raise Violation(path, "value must be an object")
        if "role" not in value:
            raise Violation(path, "discriminator property 'role' is missing")
        _check_role(f"{path}.role", value["role"])
        role = str(value["role"])
        try:
            self._check_members(path, value, role)
        except Violation as exc:
            text = f"for 'role:{role}' the following must be satisfied[({exc})]"
            raise Violation(path, text) from exc

    def _check_members(self, path: str, value: dict[str, object], role: str) -> None:
        fields, required = _ROLES[role]
        if self.refuse_names and role != "function":
            fields = {name: check for name, check in fields.items() if name != "name"}
        check_members(path, value, fields, required)
