"""Images of tool results become one user message after the last tool message of a run."""

from services.gateway.apis.translation.tool_results import ToolResult, tool_messages

_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_texts_become_tool_messages() -> None:
    parts = [{"type": "text", "text": "b"}]
    assert tool_messages([ToolResult("1", "a"), ToolResult("2", parts), ToolResult("3", "")]) == [
        {"role": "tool", "tool_call_id": "1", "content": "a"},
        {"role": "tool", "tool_call_id": "2", "content": parts},
        {"role": "tool", "tool_call_id": "3", "content": ""},
    ]


def test_images_follow_the_last_tool_message() -> None:
    assert tool_messages([ToolResult("1", "a", [_IMAGE]), ToolResult("2", [], [_IMAGE, _IMAGE])]) == [
        {"role": "tool", "tool_call_id": "1", "content": "a"},
        {"role": "tool", "tool_call_id": "2", "content": "The image is in the next user message."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Image from tool call 1:"},
                _IMAGE,
                {"type": "text", "text": "Image from tool call 2:"},
                _IMAGE,
                _IMAGE,
            ],
        },
    ]
