"""Answers are encoded before they are charged, so that encoding errors are found in time."""

from typing import Any

import msgspec
import pytest

from services.common.rpc.sizes import MESSAGE_BYTES_MAX
from services.inference.groq.encoding import ENCODED_BYTES_MAX, encode
from services.inference.groq.errors import UpstreamInvalid


def nested(depth: int) -> Any:
    """Return nested lists."""
    value: Any = 5
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("members", [{}, {"a": [1, {"b": "é"}]}, {"a": nested(200)}, {"a": [{}] * 1_000}])
def test_an_encodable_value_becomes_json(members: dict[str, Any]) -> None:
    assert msgspec.json.decode(encode(members)) == members


@pytest.mark.parametrize("depth", [930, 965, 5_000])
def test_a_value_nested_too_deeply_for_an_encoder_is_invalid(depth: int) -> None:
    with pytest.raises(UpstreamInvalid):
        encode({"a": nested(depth)})


def test_a_lone_surrogate_is_invalid() -> None:
    with pytest.raises(UpstreamInvalid):
        encode({"a": "\ud83d"})


def test_an_answer_larger_than_a_message_is_invalid() -> None:
    assert len(encode({"a": "x" * (ENCODED_BYTES_MAX - 8)})) == ENCODED_BYTES_MAX < MESSAGE_BYTES_MAX

    with pytest.raises(UpstreamInvalid):
        encode({"a": "\N{REPLACEMENT CHARACTER}" * (ENCODED_BYTES_MAX // 3)})
