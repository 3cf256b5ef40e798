"""Types of the most common messages, with which msgspec validates a whole conversation in C.

Messages that match are valid. Other messages are validated by the slower rules of `messages.py`, which accept more and
return exact errors. The types must not accept anything that those rules reject; a property test checks this.
"""

from typing import Annotated, Any

import msgspec


class _Text(msgspec.Struct, tag="text", tag_field="type", gc=False):
    text: str


class _ImageURL(msgspec.Struct, gc=False):
    url: str
    detail: str | None = None


class _Image(msgspec.Struct, tag="image_url", tag_field="type", gc=False):
    image_url: _ImageURL


_Parts = Annotated[list[_Text | _Image], msgspec.Meta(min_length=1)]
_Content = str | _Parts
_TextContent = str | Annotated[list[_Text], msgspec.Meta(min_length=1)]


class _Function(msgspec.Struct, gc=False):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct, gc=False):
    id: str
    function: _Function
    type: str | None = None


class _TextOrImageMessage(msgspec.Struct, gc=False):
    content: _Content
    name: str | None = None


class _TextMessage(msgspec.Struct, gc=False):
    content: _TextContent
    name: str | None = None


class _System(_TextMessage, tag="system", tag_field="role", gc=False):
    pass


class _Developer(_TextMessage, tag="developer", tag_field="role", gc=False):
    pass


class _User(_TextOrImageMessage, tag="user", tag_field="role", gc=False):
    pass


class _Tool(_TextOrImageMessage, tag="tool", tag_field="role", kw_only=True, gc=False):
    tool_call_id: str


class _Assistant(msgspec.Struct, tag="assistant", tag_field="role", gc=False):
    content: _TextContent | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    reasoning: str | None = None


_Messages = Annotated[list[_System | _Developer | _User | _Tool | _Assistant], msgspec.Meta(min_length=1)]


def fits(messages: Any) -> bool:
    """Return whether messages have the common form. If so, they are valid."""
    try:
        msgspec.convert(messages, _Messages)
    except msgspec.ValidationError:
        return False
    return True
