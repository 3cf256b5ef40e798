"""A body that is refused unparsed gets an error that names the fault."""

import pytest

from services.common.errors import InvalidRequest
from services.gateway.apis.chat_completions.request import parse_chat

_CHAT = '{"messages":[{"role":"user","content":"%s"}],"seed":%s}'


def _refusal(text: str, number: str = "1") -> str:
    with pytest.raises(InvalidRequest) as refused:
        parse_chat((_CHAT % (text, number)).encode("utf-8", "surrogateescape"))
    return refused.value.message


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 5_000, "-" + "1" * 400 + ".5"])
def test_a_number_out_of_range_is_not_reported_as_malformed_json(number: str) -> None:
    assert _refusal("hi", number).startswith("The JSON body contains a number that is out of range.")


@pytest.mark.parametrize(
    ("text", "escape"),
    [
        (r"\ud83d", r"\ud83d"),
        (r"a\uD83Db", r"\uD83D"),
        (r"\ude00", r"\ude00"),
        (r"\ud83d\u0041", r"\ud83d"),
        (r"\\\ud83d", r"\ud83d"),
        (r"\ud83d\ude00\ude00", r"\ude00"),
    ],
)
def test_half_a_surrogate_pair_is_reported_with_its_position(text: str, escape: str) -> None:
    place = (_CHAT % (text, 1)).rindex(escape)
    assert f"not valid Unicode: {escape} at byte {place} is half of a surrogate pair" in _refusal(text)


def test_bytes_that_are_not_utf_8_are_reported_with_their_position() -> None:
    place = _CHAT.index("%s")
    assert _refusal("\udcff") == f"The JSON body is not valid UTF-8 at byte {place}. Encode the body in UTF-8."


@pytest.mark.parametrize("text", [r"\\ud83d", r"\ud83d\ude00", r"\\\ud83d\ude00"])
def test_complete_pairs_and_escaped_backslashes_are_accepted(text: str) -> None:
    assert parse_chat((_CHAT % (text, 1)).encode()).members["messages"][0]["role"] == "user"


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b'{"messages": [NaN]}', b'{"a": "\\\\ud83d"'])
def test_a_body_that_is_not_json_is_reported_as_such(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="was not valid JSON"):
        parse_chat(body)
