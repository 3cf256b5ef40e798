"""Tool names are valid at Groq, unique, and lead back to the client's tool."""

import re

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.apis.translation.tool_names import ToolNames

_VALID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def test_valid_names_are_kept() -> None:
    names: ToolNames[str] = ToolNames()
    assert names.add("get_weather", "get_weather") == "get_weather"
    assert names.add("a" * 64, "a" * 64) == "a" * 64
    assert names.key("get_weather") == "get_weather"
    assert names.key("unknown") is None


def test_the_same_tool_has_the_same_name() -> None:
    names: ToolNames[str] = ToolNames()
    assert names.add("a.b", "a.b") == names.add("a.b", "a.b") == "a_b"


def test_long_and_colliding_names_get_a_hash() -> None:
    names: ToolNames[tuple[str, str]] = ToolNames()
    first = names.add(("ns", "child"), "ns__child")
    second = names.add(("", "ns__child"), "ns__child")
    long = names.add(("", "x" * 65), "x" * 65)
    assert first == "ns__child"
    assert second.startswith("ns__child_")
    assert long.startswith("x" * 55 + "_")
    assert len(long) == 64
    assert names.key(second) == ("", "ns__child")


@given(st.lists(st.text(max_size=130) | st.sampled_from(["a.b", "a_b", "a b", "x" * 64, "x" * 65, "x" * 66])))
def test_names_lead_back(given_names: list[str]) -> None:
    names: ToolNames[str] = ToolNames()
    sent = {name: names.add(name, name) for name in given_names}
    assert all(_VALID.fullmatch(name) for name in sent.values())
    assert all(names.key(name) == original for original, name in sent.items())
