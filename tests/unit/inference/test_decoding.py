"""Groq's JSON is decoded from any bytes and validated at the boundary."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidRequest
from services.inference.chat import TOKENS_MAX, ChatCall, Usage
from services.inference.groq.decoding import ChunkDecoder, checked, decode_object
from services.inference.groq.errors import UpstreamInvalid
from services.inference.groq.refusals import from_status
from services.inference.metrics import IMPLAUSIBLE_COUNTS

ODD: list[Any] = [5, 1.5, True, "text", [], ["x"], {"a": 1}, None]


def outlined(members: dict[str, Any]) -> dict[str, Any]:
    """Return an answer after its validation."""
    raw = json.dumps(members).encode()
    return checked(decode_object(raw), len(raw))


@pytest.mark.parametrize(
    "members",
    [
        {"choices": ["odd"]},
        {"choices": [None]},
        {"choices": {}},
        {"choices": "text"},
        {"choices": [{"delta": "text"}]},
        {"choices": [{"message": []}]},
    ],
)
def test_an_answer_with_unreadable_choices_is_invalid(members: dict[str, Any]) -> None:
    with pytest.raises(UpstreamInvalid) as raised:
        outlined(members)

    assert raised.value.reason == "upstream_invalid"


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"choices": [], "usage": None, "x_groq": None},
        {"choices": [{"delta": {}, "message": None}], "usage": {}, "x_groq": {"id": "req_1"}},
    ],
)
def test_an_answer_as_documented_is_unchanged(members: dict[str, Any]) -> None:
    assert outlined(members) == members


@pytest.mark.parametrize("odd", ODD)
def test_optional_members_of_a_wrong_type_are_dropped(odd: Any) -> None:
    members = outlined({"choices": [], "usage": odd, "x_groq": {"id": odd, "usage": odd}})
    extension = outlined({"choices": [], "x_groq": odd})

    assert isinstance(members.get("usage"), dict | None)
    assert isinstance(members["x_groq"].get("id"), str | None)
    assert isinstance(members["x_groq"].get("usage"), dict | None)
    assert isinstance(extension.get("x_groq"), dict | None)


def test_an_id_of_any_length_fits_its_column() -> None:
    assert outlined({"x_groq": {"id": "r" * 100_000}})["x_groq"]["id"] == "r" * 128


@pytest.mark.parametrize("count", [2**31, 2**63 - 1, 2**63, 2**64, 10**30])
def test_a_count_beyond_a_billion_is_clamped_and_counted_in_the_metric(count: int) -> None:
    before = IMPLAUSIBLE_COUNTS._value.get()

    usage = Usage.reported(outlined({"usage": {"prompt_tokens": count, "completion_tokens": 3}})["usage"])

    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (TOKENS_MAX, 3)
    assert usage.total_tokens <= 2 * TOKENS_MAX
    assert IMPLAUSIBLE_COUNTS._value.get() == before + 1


@pytest.mark.parametrize("usage", [{}, {"queue_time": 0.1}, {"prompt_tokens_details": {"cached_tokens": 3}}])
def test_usage_without_any_count_is_none(usage: dict[str, Any]) -> None:
    assert Usage.reported(usage) is None


@pytest.mark.parametrize("odd", [-1, 1.5, "7", True, None, [], {}])
def test_a_missing_count_is_zero(odd: Any) -> None:
    usage = Usage.reported({"prompt_tokens": odd, "completion_tokens": 4, "total_tokens": odd})

    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (0, 4, 4)


@pytest.mark.parametrize(
    ("raw", "content"),
    [
        (b'{"content": "caf\xe9 \xff"}', "caf\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}"),
        (b'{"content": "a\\ud83d"}', "a\N{REPLACEMENT CHARACTER}"),
        (b'{"content": "\\udf89b"}', "\N{REPLACEMENT CHARACTER}b"),
        (b'{"content": "\\ud83c\\udf89"}', "\N{PARTY POPPER}"),
        (b'{"content": "\\ud83d", "\\ud83d": {"x": ["\\udc00"]}}', "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_invalid_characters_are_replaced_and_the_rest_is_kept(raw: bytes, content: str) -> None:
    members = decode_object(raw)

    assert members["content"] == content
    assert msgspec.json.encode(members)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"5",
        b"{",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b"<html>",
        b"\xff",
        b"[" * 100_000,
        b"9" * 9_000,
    ],
)
def test_a_value_that_is_not_a_json_object_is_invalid(raw: bytes) -> None:
    with pytest.raises(UpstreamInvalid):
        decode_object(raw)


def test_objects_nested_too_deeply_are_invalid() -> None:
    with pytest.raises(UpstreamInvalid):
        decode_object(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


FIELDS: dict[str, tuple[Any, ...]] = {
    "content": ("content",),
    "reasoning": ("reasoning",),
    "arguments": ("tool_calls", 0, "function", "arguments"),
    "function_call": ("function_call", "arguments"),
}


def with_text(field: str, text: str) -> dict[str, Any]:
    """Return a delta with a text in one of its fields."""
    match field:
        case "arguments":
            return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        case "function_call":
            return {"function_call": {"arguments": text}}
        case _:
            return {field: text}


def text_of(field: str, delta: dict[str, Any]) -> str:
    """Return the text of that field; empty when absent."""
    value: Any = delta
    for key in FIELDS[field]:
        value = value[key] if isinstance(value, list) and value else (value or {}).get(key)
        if value is None:
            return ""
    return str(value)


def streamed(field: str, texts: list[str], *, finishes: bool = True) -> str:
    """Return the text of a field after a stream of these deltas, each of which must be encodable."""
    decoder, out = ChunkDecoder(), ""
    deltas = [with_text(field, text) for text in texts] + ([{}] if finishes else [])
    for number, delta in enumerate(deltas):
        is_last = finishes and number == len(texts)
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if is_last else None}
        chunk = decoder.decode(json.dumps({"choices": [choice]}).encode())
        msgspec.json.encode(chunk)
        out += text_of(field, chunk["choices"][0]["delta"])
    return out


@pytest.mark.parametrize("field", FIELDS)
def test_a_surrogate_pair_split_over_two_deltas_is_joined(field: str) -> None:
    assert streamed(field, ["a\ud83c", "\udf89b"]) == "a\N{PARTY POPPER}b"


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("texts", ["first", "second", "first, then nothing"])
def test_an_unpaired_surrogate_is_replaced_and_the_stream_continues(field: str, texts: str) -> None:
    halves = {"first": ["a\ud83c", "b"], "second": ["a\udf89", "b"], "first, then nothing": ["a\ud83c", "", "b"]}

    assert streamed(field, halves[texts]) == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize("field", FIELDS)
def test_an_unpaired_surrogate_at_the_end_is_replaced_in_the_final_chunk(field: str) -> None:
    assert streamed(field, ["a\ud83c"]) == "a\N{REPLACEMENT CHARACTER}"


@settings(max_examples=200, deadline=None, database=None)
@given(
    texts=st.lists(st.text(st.characters(), max_size=4), max_size=6),
    field=st.sampled_from(list(FIELDS)),
)
def test_a_stream_yields_the_same_text_as_a_single_answer(texts: list[str], field: str) -> None:
    whole = "".join(texts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    assert streamed(field, texts) == whole


def test_surrogates_of_two_choices_or_two_fields_are_not_joined() -> None:
    decoder = ChunkDecoder()
    high = [{"index": 0, "delta": {"content": "\ud83c"}}, {"index": 1, "delta": {"reasoning": "\ud83d"}}]
    low = [{"index": 1, "delta": {"reasoning": "\ude00"}}, {"index": 0, "delta": {"content": "\udf89"}}]
    decoder.decode(json.dumps({"choices": high}).encode())

    chunk = decoder.decode(json.dumps({"choices": low}).encode())

    deltas = [choice["delta"] for choice in chunk["choices"]]
    assert deltas == [{"reasoning": "\N{GRINNING FACE}"}, {"content": "\N{PARTY POPPER}"}]


@pytest.mark.parametrize("odd", ["text", 5, None, [], [5], [None], {"tool_calls": "text"}])
def test_a_last_chunk_of_another_shape_breaks_nothing(odd: Any) -> None:
    decoder = ChunkDecoder()
    first = {"index": 0, "delta": with_text("arguments", "\ud83c")}
    decoder.decode(json.dumps({"choices": [first]}).encode())

    chunk = decoder.decode(json.dumps({"choices": [{"index": 0, "delta": odd, "finish_reason": "stop"}]}).encode())

    assert msgspec.json.encode(chunk)


INDEXES: list[Any] = [[1], {"a": 1}]


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("where", ["choice", "tool call"])
def test_a_chunk_with_an_invalid_index_is_invalid_where_surrogates_are_joined(index: Any, where: str) -> None:
    call = {"index": index, "function": {"arguments": "\ud83d"}}
    choice = {"index": index, "delta": {"content": "\ud83d"}}
    odd = choice if where == "choice" else {"index": 0, "delta": {"tool_calls": [call]}}

    with pytest.raises(UpstreamInvalid):
        ChunkDecoder().decode(json.dumps({"choices": [odd]}).encode())


@pytest.mark.parametrize("depth", [500, 600, 900, 980, 5_000])
def test_invalid_characters_nested_deeply_are_replaced_or_the_answer_is_invalid(depth: int) -> None:
    raw = b'{"choices":[{"index":0,"delta":{"content":"\\ud83d","x":%b}}]}' % (b"[" * depth + b"]" * depth)
    for decode in (decode_object, ChunkDecoder().decode):
        with suppress(UpstreamInvalid):
            decode(raw)


@pytest.mark.parametrize(
    "text", [b"caf\xe9", b"\\ud83d", b"\\\\ud83d\\ud83d", b"\\ud83d\\ude00\\ude00", b"\\uD83D\\ud83d\\ude00"]
)
@pytest.mark.parametrize("size", [0, 100_000])
def test_a_large_chunk_is_decoded_like_a_small_one(text: bytes, size: int) -> None:
    raw = b'{"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":"stop"}],"x":"%b"}' % (text, b"x" * size)

    content = ChunkDecoder().decode(raw)["choices"][0]["delta"]["content"]

    expected = json.loads(b'"%b"' % text.replace(b"\xe9", b"\\ufffd"))
    assert content == expected.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_an_unpaired_surrogate_before_a_large_chunk_is_dropped_and_the_stream_continues() -> None:
    decoder = ChunkDecoder()
    halves = [json.dumps({"choices": [{"index": 0, "delta": {"content": one}}]}).encode() for one in ("a\ud83d", "b")]
    decoder.decode(halves[0])

    decoder.decode(halves[1] + b" " * 100_000)

    assert decoder.decode(halves[1])["choices"][0]["delta"]["content"] == "b"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"x":"\xff%b"}' % (b"x" * 2_000_000),
        b'{"x":[%b0]}' % (b"0," * 300_000),
        b'{"x":"\0\xff"}',
    ],
)
def test_a_value_that_would_take_long_to_parse_is_invalid(raw: bytes) -> None:
    for decode in (decode_object, ChunkDecoder().decode):
        with pytest.raises(UpstreamInvalid):
            decode(raw)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("too large in organization `org_01abc` service tier `on_demand` on tokens", "too large on tokens"),
        ("bad (request req_01k) project_01abc", "bad (request)"),
        ("see https://console.groq.com/docs/deprecations for more", "see for more"),
        ("'temperature' : value must be a number", "'temperature' : value must be a number"),
    ],
)
def test_the_operators_account_id_is_removed_from_messages(message: str, shown: str) -> None:
    error = from_status(400, {}, {"error": {"message": message, "type": "invalid_request_error"}})
    assert isinstance(error, InvalidRequest)
    assert error.message == shown


@pytest.mark.parametrize("text", [",", "[", "{", '"', "\\"])
def test_separators_in_the_text_of_an_answer_do_not_count_as_values(text: str) -> None:
    """Text of empty CSV cells has several commas per token."""
    members = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text * 300_000}}]}
    assert outlined(members) == members


def test_an_answer_limit_out_of_range_is_estimated_at_the_largest_count() -> None:
    call = ChatCall({"max_completion_tokens": 10**400}, "m", include_usage=False, size_bytes=40)
    assert call.tokens == call.tokens_max < 200_000
