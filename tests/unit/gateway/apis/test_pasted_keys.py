"""An API key that a client sends in place of an id or a type is not in the error."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from services.common.errors import ServiceError
from services.gateway.apis import messages, responses
from services.gateway.apis.surface import Context, ModelFacts

_KEY = "sk_stk_a7Kq0ZxW3bN9vT5rY1mC8dE2fG4hJ6kLpQsUt0Rz"
_USER = {"role": "user", "content": "hi"}
_RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": _KEY}]}


@pytest.mark.parametrize(
    ("parse", "members"),
    [
        (responses.parse, {"previous_response_id": _KEY}),
        (responses.parse, {"input": [{"type": "item_reference", "id": _KEY}]}),
        (responses.parse, {"input": [{"type": "function_call_output", "call_id": _KEY, "output": ""}]}),
        (responses.parse, {"input": [{"type": _KEY}]}),
        (responses.parse, {"input": [{"role": "user", "content": [{"type": _KEY}]}]}),
        (responses.parse, {"tools": [{"type": _KEY}]}),
        (responses.parse, {"tool_choice": {"type": _KEY}}),
        (responses.parse, {"tool_choice": {"type": "function", "name": _KEY}}),
        (responses.parse, {"truncation": _KEY}),
        (messages.parse, {"messages": [_USER, _RESULT]}),
        (messages.parse, {"tools": [{"type": _KEY}]}),
        (messages.parse, {"tool_choice": {"type": "tool", "name": _KEY}}),
        (messages.parse, {"model": f"claude-{_KEY}"}),
    ],
)
def test_a_key_in_place_of_an_id_is_masked(parse: Callable[[bytes, Context], object], members: dict[str, Any]) -> None:
    body = {"model": "m", "input": "hi"} if parse is responses.parse else {"model": "m", "max_tokens": 1}
    default = {} if parse is responses.parse else {"messages": [_USER]}
    with pytest.raises(ServiceError) as refused:
        parse(json.dumps({**body, **default, **members}).encode(), Context(models={"m": ModelFacts()}))
    assert "****" in refused.value.message
    assert _KEY[7:20] not in refused.value.message
