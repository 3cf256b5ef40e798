"""Server-Sent Events, wherever the network cut the bytes."""

import itertools
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.sse import EventReader, ServerSentEvent

PROFILE = settings(max_examples=150, deadline=None, database=None)
names = st.sampled_from(["", "error", "message"])
values = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
events = st.lists(st.tuples(names, st.lists(values.map(json.dumps), min_size=1, max_size=3)), max_size=5)


def wire(sent: list[tuple[str, list[str]]], line_end: str) -> bytes:
    """Return events as a server writes them, with a comment before each."""
    text = ""
    for name, data in sent:
        lines = [": comment", *([f"event: {name}"] if name else []), *(f"data: {line}" for line in data)]
        text += line_end.join(lines) + line_end * 2
    return text.encode()


def expected(sent: list[tuple[str, list[str]]]) -> list[ServerSentEvent]:
    """Return what the events must be read as."""
    return [ServerSentEvent(name, "\n".join(data).encode()) for name, data in sent]


def read(raw: bytes, cuts: list[int]) -> list[ServerSentEvent]:
    """Feed bytes in pieces."""
    reader = EventReader()
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    return [event for start, end in itertools.pairwise(edges) for event in reader.feed(raw[start:end])]


@PROFILE
@given(sent=events, cuts=st.lists(st.integers(0, 10_000), max_size=12), line_end=st.sampled_from(["\n", "\r\n"]))
def test_any_cut_of_the_bytes_gives_the_same_events(
    sent: list[tuple[str, list[str]]], cuts: list[int], line_end: str
) -> None:
    assert read(wire(sent, line_end), cuts) == expected(sent)


@PROFILE
@given(sent=events, line_end=st.sampled_from(["\n", "\r\n"]))
def test_bytes_that_come_one_by_one_give_the_same_events(sent: list[tuple[str, list[str]]], line_end: str) -> None:
    raw = wire(sent, line_end)
    assert read(raw, list(range(len(raw)))) == expected(sent)


def test_an_event_leaves_with_the_byte_that_completes_it() -> None:
    reader = EventReader()

    assert reader.feed(b"data: 1\n\ndata: 2\n") == [ServerSentEvent("", b"1")]
    assert reader.feed(b"\n") == [ServerSentEvent("", b"2")]


def test_comments_and_events_without_data_are_passed_over() -> None:
    assert EventReader().feed(b": hello\n\nevent: ping\n\nid: 7\nretry: 10\n\ndata: x\n\n") == [
        ServerSentEvent("", b"x")
    ]


def test_only_one_blank_after_the_colon_is_no_part_of_the_data() -> None:
    assert EventReader().feed(b"data:  two\ndata:none\ndata\n\n") == [ServerSentEvent("", b" two\nnone\n")]


def test_what_no_blank_line_ends_is_no_event() -> None:
    assert EventReader().feed(b"data: half") == []
