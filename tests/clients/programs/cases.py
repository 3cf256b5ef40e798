"""Cases of the clients of `/v1/responses`, `/v1/messages` and `/v1/completions`: their prompts and what they return.

Every prompt ends with the tail of the key's secret, by which the test finds the requests that reached Groq. Like
report.py, this file needs only Python.
"""

import base64
import json
import struct
import zlib
from typing import Any
from urllib.parse import quote

from tests.clients.programs.report import SEVEN_TOKENS

SEEING_MODEL = "qwen/qwen3.8-27b"
"""A model that reads images."""
CITIES = ("Paris", "Rome")
_LOOK_TWICE: Any = {
    "reasoning": "I look twice.",
    "calls": [
        {"name": "get_weather", "arguments": {"city": city, "days": days}} for days, city in enumerate(CITIES, 1)
    ],
}
_CUT = "[[standin:tokens count=9]] [[standin:cut after=3]]"


def _case(text: str, secret: str) -> str:
    return f"{text} Case {secret[-12:]}"


def _play(*turns: Any) -> str:
    return f"[[standin:play turns={quote(json.dumps(turns))}]]"


def hello(secret: str) -> str:
    """Return a prompt that is answered with seven words."""
    return _case(SEVEN_TOKENS, secret)


def look_twice(secret: str) -> str:
    """Return a prompt that is answered with two calls of `get_weather`, and then with "Both are sunny."."""
    return _case(f"Compare. {_play(_LOOK_TWICE, {'content': 'Both are sunny.'})}", secret)


def weather_question(secret: str) -> str:
    """Return a prompt that is answered with a sample of the schema."""
    return _case("How is the weather?", secret)


def first_of_two(secret: str) -> str:
    """Return a prompt of two turns: the second answer is "Welcome back." only if the first is in the history."""
    turns = {"reasoning": "A greeting.", "content": "Good morning."}, {"content": "Welcome back."}
    return _case(f"Hello. {_play(*turns)}", secret)


def cut(secret: str) -> str:
    """Return a prompt whose answer is cut after three of nine words."""
    return _case(f"Count. {_CUT}", secret)


def weather(city: str, days: int) -> str:
    """Return what the tool `get_weather` returns."""
    return f"sunny in {city} for {days} days"


def png() -> bytes:
    """Return a red image of 32 by 32 pixels."""
    rows = (b"\0" + b"\xff\0\0" * 32) * 32
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def png_base64() -> str:
    """Return the image as base64."""
    return base64.b64encode(png()).decode()
