"""Messages as nearly all clients send them, as types: msgspec holds a whole conversation against them at C speed.

What fits is acceptable. What does not may be acceptable too, and if not it is owed an exact error: then the rules of
`messages.py` decide. So these types accept nothing that the rules refuse, which a property test holds.
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


class _Said(msgspec.Struct, gc=False):
    content: _Content
    name: str | None = None


class _Instructed(msgspec.Struct, gc=False):
    content: _TextContent
    name: str | None = None


class _System(_Instructed, tag="system", tag_field="role", gc=False):
    pass


class _Developer(_Instructed, tag="developer", tag_field="role", gc=False):
    pass


class _User(_Said, tag="user", tag_field="role", gc=False):
    pass


class _Tool(_Said, tag="tool", tag_field="role", kw_only=True, gc=False):
    tool_call_id: str


class _Assistant(msgspec.Struct, tag="assistant", tag_field="role", gc=False):
    content: _TextContent | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    reasoning: str | None = None


_Messages = Annotated[list[_System | _Developer | _User | _Tool | _Assistant], msgspec.Meta(min_length=1)]


def fits(messages: Any) -> bool:
    """Whether messages have the common form, which is acceptable."""
    try:
        msgspec.convert(messages, _Messages)
    except msgspec.ValidationError:
        return False
    return True
