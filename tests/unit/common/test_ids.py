"""Ids are created and recognised in one place."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.ids import Kind, is_id, new_id

_SERVICES = Path(__file__).parents[3] / "services"


@pytest.mark.parametrize("kind", Kind)
def test_a_new_id_is_of_its_own_kind_and_no_other(kind: Kind) -> None:
    made = new_id(kind)
    assert [other for other in Kind if is_id(made, other)] == [kind]
    assert made != new_id(kind)


@pytest.mark.parametrize(
    "text",
    [
        *("", "key", "key_", "key_1", "_01ARZ3NDEKTSV4RRFFQ69G5FAV", "key_01ARZ3NDEKTSV4RRFFQ69G5FA"),
        *("key_01ARZ3NDEKTSV4RRFFQ69G5FAVX", "key_01arz3ndektsv4rrffq69g5fav", "key_01ARZ3NDEKTSV4RRFFQ69G5FA\n"),
        *("key__1ARZ3NDEKTSV4RRFFQ69G5FAV", "evt_01ARZ3NDEKTSV4RRFFQ69G5FAV", "key_01ARZ3NDEKTSV4RRFFQ69G5FAV\0"),
        "key_" + "é" * 26,
    ],
)
def test_an_invalid_id_is_not_recognised(text: str) -> None:
    assert not is_id(text, Kind.KEY)


@given(st.text())
def test_arbitrary_text_raises_no_error(text: str) -> None:
    assert not is_id(text, Kind.KEY)
    assert not is_id(f"key_{text[:25]}", Kind.KEY)


def test_no_other_module_defines_an_id_pattern_or_creates_ids() -> None:
    """A page checked for `evt_` while ids started with `aud_`, so the audit log could not be paged."""
    own = re.compile(r"""["'](?:acc|aud|evt|key|req|ses)_(?:\[|\{|\\)""")
    found = [
        f"{path.relative_to(_SERVICES)}: {line.strip()}"
        for path in sorted(_SERVICES.rglob("*.py"))
        for line in path.read_text().splitlines()
        if own.search(line)
    ]
    assert found == []
