"""Many request bodies with something broken in them, made quickly and the same for the same seed."""

import json
import os
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

BODIES = int(os.environ.get("MUTATED_BODIES", "2000"))
"""Bodies of one test."""
_ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1e308,
    2**70,
    "",
    "a",
    "é\u2028\0",
    "x" * 10_000,
    "data:text/plain;base64,////",
    [],
    {},
    [None],
    [[]],
    {"": None},
    {"type": None},
    {"type": "function"},
    {"type": []},
    [{"type": "text", "text": "a"}],
    ["a"] * 300,
]
_MAKE_LARGE = 40


def mutated_bodies(seeds: list[Any], names: list[str], *, count: int = BODIES) -> Iterator[bytes]:
    """Return bodies made from `seeds`, of which some are still good.

    Args:
        seeds: JSON values.
        names: Names of members to add and rename to.
        count: The number of bodies.
    """
    random = Random(20)
    texts = [json.dumps(seed).encode() for seed in seeds]
    for _ in range(count):
        if random.random() < 0.25:
            yield _with_other_bytes(random, random.choice(texts))
            continue
        value = json.loads(random.choice(texts))
        for _ in range(random.randint(1, 3)):
            value = _with_one_change(random, value, names)
        yield json.dumps(value).encode()


def _with_other_bytes(random: Random, text: bytes) -> bytes:
    start = random.randrange(len(text))
    end = min(len(text), start + random.choice([0, 1, 1, 5, 50]))
    middle = random.choice([b"", b'"', b"\\ud800", b"\xff", b"{", b"]", b"null", b"1e999", b",", text[end : end + 20]])
    return text[:start] + middle + text[end:]


def _with_one_change(random: Random, value: Any, names: list[str]) -> Any:
    """Change `value` at a random place. Containers are changed in place."""
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or random.random() < 0.15:
        return _changed(random, value, names)
    place = random.choice(inner)
    if random.random() < 0.15:
        del value[place]
    else:
        value[place] = _with_one_change(random, value[place], names)
    return value


def _changed(random: Random, value: Any, names: list[str]) -> Any:
    if isinstance(value, dict) and random.random() < 0.7:
        value[random.choice(names)] = deepcopy(random.choice(_ODD))
        return value
    if isinstance(value, list) and value and random.random() < 0.7:
        return [deepcopy(one) for one in value * random.choice([2, _MAKE_LARGE])]
    if isinstance(value, str) and random.random() < 0.3:
        return random.choice(names)
    return deepcopy(random.choice(_ODD))
