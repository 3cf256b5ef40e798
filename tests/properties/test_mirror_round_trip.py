"""Any JSON object shaped around our messages survives JSON → protobuf → JSON, and the wire in between."""

import json
from typing import Any

import msgspec
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.rpc import json_codec
from stack.inference.v1 import chat_pb2

PROFILE = settings(max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck))
MESSAGES = [chat_pb2.ChatRequest, chat_pb2.ChatCompletion, chat_pb2.ChatChunk, chat_pb2.Model]

Strategy = st.SearchStrategy[Any]

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | text
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, -1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1])
    | st.floats(allow_nan=False, allow_infinity=False)
)
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=6
)


def objects(descriptor: Any) -> Strategy:
    """Return JSON objects around a message type: its members well typed or not, and members it does not know."""
    named = {name: fitting | junk for name, fitting in _members(descriptor).items()}
    # Names of the mirror's own making are members like any other.
    named |= {field.name: junk for field in descriptor.fields if field.name not in named}
    known = st.fixed_dictionaries({}, optional=named)
    return st.builds(lambda stranger, own: {**stranger, **own}, st.dictionaries(text, junk, max_size=2), known)


def _members(descriptor: Any) -> dict[str, Strategy]:
    found: dict[str, Strategy] = {}
    for field in descriptor.fields:
        union = field.containing_oneof
        if field.name == "extra_json":
            continue
        if union is not None and len(union.fields) > 1:
            found[union.name] = found.get(union.name, st.nothing()) | _value(field)
        elif field.type == FieldDescriptor.TYPE_STRING and field.name.endswith("_json"):
            found[field.name.removesuffix("_json")] = junk
        else:
            found[field.name] = _value(field)
    return found


def _value(field: FieldDescriptor) -> Strategy:
    if field.is_repeated:
        return st.lists(_one(field), max_size=2)
    return _one(field)


def _one(field: FieldDescriptor) -> Strategy:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        inner = field.message_type
        assert inner is not None
        if [part.name for part in inner.fields] == ["items"]:
            return st.lists(_one(inner.fields[0]), max_size=3)
        return st.deferred(lambda: objects(inner))
    return {
        FieldDescriptor.TYPE_STRING: text,
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
    }[field.type]


def same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal; a boolean is no number, though Python thinks so."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.parametrize("kind", MESSAGES)
def test_any_json_object_survives_the_mirror_and_the_wire(kind: type[Message]) -> None:
    @PROFILE
    @given(original=objects(kind.DESCRIPTOR))
    def survives(original: dict[str, Any]) -> None:
        message = kind()
        # What comes over HTTP is what msgspec reads.
        json_codec.to_message(message, msgspec.json.decode(json.dumps(original)))
        received = kind.FromString(message.SerializeToString())

        assert same(json.loads(json_codec.encode(message)), original)
        assert same(json.loads(json_codec.encode(received)), original)

    survives()


@PROFILE
@given(original=objects(chat_pb2.ChatRequest.DESCRIPTOR))
def test_what_was_mirrored_can_be_mirrored_again_without_a_difference(original: dict[str, Any]) -> None:
    first, second = chat_pb2.ChatRequest(), chat_pb2.ChatRequest()
    json_codec.to_message(first, original)

    json_codec.to_message(second, json.loads(json_codec.encode(first)))

    assert same(json.loads(json_codec.encode(second)), original)
