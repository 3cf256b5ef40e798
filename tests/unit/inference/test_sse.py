"""Server-Sent Events by the grammar of the HTML standard, wherever the network splits the bytes."""

import itertools
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.groq.errors import UpstreamInvalid
from services.inference.groq.sse import EventReader, ServerSentEvent

PROFILE = settings(max_examples=150, deadline=None, database=None)
LINE_ENDS = [["\n"], ["\r\n"], ["\r"], ["\n", "\r\n"], ["\r", "\r\n"]]
"""Line endings, in turn. A CR directly followed by an LF would be one line ending, so no set has both."""
names = st.sampled_from(["", "error", "message"])
values = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
events = st.lists(st.tuples(names, st.lists(values.map(json.dumps), min_size=1, max_size=3)), max_size=5)
Sent = list[tuple[str, list[str]]]


def wire(sent: Sent, line_ends: list[str], *, mark: str = "", space: str = " ") -> bytes:
    """Return events as a server may encode them, with a comment before each and alternating line endings."""
    ends = itertools.cycle(line_ends)
    text = mark
    for name, data in sent:
        lines = [": comment", *([f"event:{space}{name}"] if name else []), *(f"data:{space}{line}" for line in data)]
        text += "".join(line + next(ends) for line in [*lines, ""])
    return text.encode()


def expected(sent: Sent) -> list[ServerSentEvent]:
    """Return how the events must be parsed."""
    return [ServerSentEvent(name, "\n".join(data).encode()) for name, data in sent]


def read(raw: bytes, cuts: list[int]) -> list[ServerSentEvent]:
    """Feed the bytes in chunks."""
    reader = EventReader(event_bytes_max=100_000)
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    return [event for start, end in itertools.pairwise(edges) for event in reader.feed(raw[start:end])]


@PROFILE
@given(
    sent=events,
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    line_ends=st.sampled_from(LINE_ENDS),
    mark=st.sampled_from(["", "\ufeff"]),
    space=st.sampled_from(["", " "]),
)
def test_any_split_of_any_valid_encoding_gives_the_same_events(
    sent: Sent, cuts: list[int], line_ends: list[str], mark: str, space: str
) -> None:
    raw = wire(sent, line_ends, mark=mark, space=space)

    assert read(raw, cuts) == expected(sent)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line_ends", LINE_ENDS)
def test_a_stream_that_is_split_at_every_byte_gives_the_same_events(line_ends: list[str], mark: str) -> None:
    sent: Sent = [("", ['{"a": "ä🎉"}']), ("error", ["1", "2"]), ("", ["[DONE]"])]
    raw = wire(sent, line_ends, mark=mark)

    assert read(raw, list(range(len(raw)))) == expected(sent)
    for cut in range(len(raw)):
        assert read(raw, [cut]) == expected(sent)


def test_an_event_is_emitted_with_the_byte_that_completes_it() -> None:
    reader = EventReader(event_bytes_max=1_000)

    assert reader.feed(b"data: 1\n\ndata: 2\n") == [ServerSentEvent("", b"1")]
    assert reader.feed(b"\n") == [ServerSentEvent("", b"2")]


def test_comments_other_fields_and_events_without_data_are_skipped() -> None:
    raw = b": hello\n\nevent: ping\n\nid: 7\nretry: 10\n\ndata:\n\ndata\n\n\n\n\ndata: x\n\n"

    assert EventReader(event_bytes_max=1_000).feed(raw) == [ServerSentEvent("", b"x")]


def test_one_space_after_the_colon_is_stripped_and_no_more() -> None:
    events = EventReader(event_bytes_max=1_000).feed(b"data:  two\ndata:none\ndata\n\n")

    assert events == [ServerSentEvent("", b" two\nnone\n")]


def test_an_event_without_a_final_empty_line_is_dropped() -> None:
    assert EventReader(event_bytes_max=1_000).feed(b"data: half") == []


def test_an_event_beyond_the_limit_is_refused_before_it_ends() -> None:
    reader = EventReader(event_bytes_max=1_000)
    for _ in range(9):
        assert reader.feed(b"x" * 100) == []

    with pytest.raises(UpstreamInvalid):
        reader.feed(b"x" * 200)


@pytest.mark.parametrize("before", [b"", b"data: half", b"data: whole\n\ndata: half"])
def test_an_oversized_event_is_refused_however_it_arrives(before: bytes) -> None:
    """An oversized event in a single large read used to be accepted."""
    reader = EventReader(event_bytes_max=1_000)
    reader.feed(before)

    with pytest.raises(UpstreamInvalid):
        reader.feed(b"data: " + b"x" * 1_500 + b"\n\n")


def test_many_events_may_arrive_together() -> None:
    assert len(EventReader(event_bytes_max=1_000).feed(b"data: x\n\n" * 1_000)) == 1_000


def test_parsing_an_event_in_many_chunks_takes_linear_time() -> None:
    def seconds(output_chunks: int) -> float:
        reader = EventReader(event_bytes_max=64 * 1024 * 1024)
        began = time.process_time()
        for _ in range(output_chunks):
            assert reader.feed(b"x" * 1_000) == []
        assert len(reader.feed(b"\n\ndata: 1\n\n")) == 1
        return time.process_time() - began

    seconds(1_000)
    # Eight times the bytes; searching from the start for each chunk would be 64 times the work.
    assert seconds(8_000) < 30 * max(seconds(1_000), 0.0005)
