"""Reasoning survives as an opaque string; foreign, damaged and oversized strings are ignored cheaply."""

import time
import zlib
from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.apis.translation.reasoning import ReasoningDecoder, encode_reasoning


def _value(data: bytes) -> str:
    return "stkReas1" + b64encode(data).decode()


@given(st.text())
def test_text_survives(text: str) -> None:
    value = encode_reasoning(text)
    assert b64decode(value, validate=True)
    assert ReasoningDecoder().decode(value) == text


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "",
        "gAAAAABo",
        "stkReas1",
        "stkReas1!",
        "stkReas1é",
        _value(b"no zlib"),
        _value(zlib.compress(b"cut short")[:-2]),
        _value(zlib.compress(b"\xff")),
    ],
)
def test_foreign_and_damaged_values_are_ignored(value: object) -> None:
    assert ReasoningDecoder().decode(value) is None


def test_the_size_is_bounded_for_all_values_of_a_request() -> None:
    decoder = ReasoningDecoder(bytes_max=1_000)
    assert decoder.decode(encode_reasoning("a" * 600)) == "a" * 600
    assert decoder.decode(encode_reasoning("a" * 600)) is None
    assert decoder.decode(encode_reasoning("a")) is None


@pytest.mark.parametrize("damage", [0, 1], ids=["whole", "damaged"])
def test_bombs_are_cheap(damage: int) -> None:
    data = bytearray(zlib.compress(b"\0" * 4_000_000))
    data[-1] ^= damage
    bomb = _value(bytes(data))
    decoder = ReasoningDecoder()
    began = time.process_time()
    for _ in range(1_000):
        decoder.decode(bomb)
    assert time.process_time() - began < 0.5
