"""Response formats go to Groq as they are, or as an instruction if the request has tools."""

import pytest

from services.gateway.apis.translation.formats import set_response_format
from services.gateway.requests.types import JSONObject

_USER = {"role": "user", "content": "hi"}
_SCHEMA_FORMAT: JSONObject = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


@pytest.mark.parametrize("tools", [{}, {"tools": []}])
def test_without_tools_the_format_is_sent(tools: JSONObject) -> None:
    members: JSONObject = {"messages": [_USER], **tools}
    set_response_format(members, _SCHEMA_FORMAT)
    assert members == {"messages": [_USER], **tools, "response_format": _SCHEMA_FORMAT}


@pytest.mark.parametrize(
    ("response_format", "ending"),
    [
        (_SCHEMA_FORMAT, 'JSON Schema:\n{"type":"object"}'),
        ({"type": "json_object"}, "without a code fence."),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "without a code fence."),
    ],
)
def test_with_tools_it_is_the_last_system_message(response_format: JSONObject, ending: str) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    members: JSONObject = {"messages": [_USER], "tools": tools}
    set_response_format(members, response_format)
    assert members["messages"][0] == _USER
    assert members["messages"][1]["role"] == "system"
    assert members["messages"][1]["content"].endswith(ending)
    assert "response_format" not in members
