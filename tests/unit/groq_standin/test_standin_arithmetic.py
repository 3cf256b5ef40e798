"""The stand-in's counting and encoding hold for every input."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.groq_standin import markers, prose
from tools.groq_standin.outlet import drops
from tools.groq_standin.script import Script
from tools.groq_standin.wire import encode, go_duration

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@given(TEXT)
def test_joined_pieces_are_the_text(text: str) -> None:
    assert "".join(prose.pieces(text)) == text


@given(TEXT)
def test_encoded_text_decodes_to_itself_and_holds_no_html(text: str) -> None:
    encoded = encode({"text": text})
    assert json.loads(encoded) == {"text": text}
    assert not set(b"<>&") & set(encoded)


@given(st.binary(max_size=60))
def test_joined_chunks_are_the_data_and_none_is_empty(data: bytes) -> None:
    found = list(drops(data))
    assert b"".join(found) == data
    assert all(found)


@given(st.integers(0, 5000), st.integers(1, 300))
def test_a_bulk_answer_has_exactly_its_size(size: int, piece: int) -> None:
    assert len("".join(prose.bulk(size, piece))) == size


@given(TEXT)
def test_text_without_a_marker_has_no_effect(text: str) -> None:
    assert markers.parse(text) == Script()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (0.4, "400ms"), (1.57, "1.57s"), (6, "6s"), (179.56, "2m59.56s"), (578.016, "9m38.016s")],
)
def test_durations_are_formatted_as_in_go(seconds: float, shown: str) -> None:
    assert go_duration(seconds) == shown


def test_an_hour_is_formatted_as_in_go() -> None:
    assert go_duration(3600) == "1h0m0s"
