"""The fast check of messages accepts nothing that the rules refuse."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidRequest
from services.gateway.apis.chat_completions.message_shapes import fits
from services.gateway.apis.chat_completions.messages import MESSAGES
from tests.properties.chat_bodies import GOOD_BODIES, JSON_VALUES, broken_bodies

_COMMON: list[Any] = [
    {"role": "system", "content": "a"},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "b"}}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "content": "4", "tool_call_id": "a"},
    {"role": "assistant", "content": "done", "reasoning": "because", "refusal": None},
]


def _is_acceptable(messages: Any) -> bool:
    try:
        MESSAGES("messages", messages)
    except InvalidRequest:
        return False
    return True


def test_common_conversations_pass_the_fast_check() -> None:
    assert fits(_COMMON)
    assert _is_acceptable(_COMMON)


@settings(max_examples=250, deadline=None)
@given((GOOD_BODIES | broken_bodies()).map(lambda body: body.get("messages") if isinstance(body, dict) else body))
@example([])
@example([{"role": "user", "content": []}])
@example([{"role": "assistant", "content": []}])
@example([{"role": "tool", "content": "a", "tool_call_id": None}])
@example([{"role": "user", "content": None}])
@example([{"role": "user", "content": [{"type": "text", "text": None}]}])
@example([{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}])
def test_messages_that_pass_the_fast_check_are_acceptable(messages: Any) -> None:
    assert _is_acceptable(messages) or not fits(messages)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_one_changed_member_is_judged_as_strictly(data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(_COMMON) - 1))
    name = data.draw(st.sampled_from(["role", "content", "name", "tool_calls", "tool_call_id", "reasoning"]))
    changed = [*_COMMON[:index], {**_COMMON[index], name: data.draw(JSON_VALUES)}, *_COMMON[index + 1 :]]
    assert _is_acceptable(changed) or not fits(changed)


@pytest.mark.parametrize("messages", [None, 1, "a", {}, [1], [None], [{}], [{"role": 1}], [{"role": "robot"}]])
def test_a_value_that_is_not_a_list_of_messages_does_not_pass(messages: Any) -> None:
    assert not fits(messages)
