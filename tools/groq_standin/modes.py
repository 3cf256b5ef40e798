"""The list of modes, which requests select with markers.

The docstring of the package documents them in a table. A test keeps the two consistent.
"""

from collections.abc import Callable
from dataclasses import replace

import msgspec

from tools.groq_standin import encodings, error_text, errors, no_answer, turns, usage
from tools.groq_standin.chunks import ODD_IDS
from tools.groq_standin.mode import MarkerError, Mode, Values
from tools.groq_standin.script import EVERYWHERE, Fault, Flaky, LongMessage, RetryAfter, Script, Unclean


def _fault(kind: Fault) -> Callable[[Script, Values], Script]:
    return lambda script, v: replace(
        script,
        fault=kind,
        after=v.get("after", 0),
        error_status=v.get("status", 400),
        error_has_usage=bool(v.get("usage", 0)),
    )


def _cut(script: Script, values: Values) -> Script:
    return replace(script, fault="cut" if values["how"] == "close" else "end", after=values["after"])


def _usage(script: Script, values: Values) -> Script:
    only = values["only"]
    places = EVERYWHERE if only == "all" else frozenset({only}) & EVERYWHERE
    return replace(script, usage_places=places)


def _flaky(script: Script, values: Values) -> Script:
    if values["status"] not in MODES:
        raise MarkerError("stand-in parameter 'status' must be the name of a mode, see GET /modes")
    return replace(script, flaky=Flaky(values["id"], values["times"], values["status"]))


def _play(script: Script, values: Values) -> Script:
    try:
        return replace(script, turns=turns.parsed(values["turns"]))
    except msgspec.DecodeError as exc:
        raise MarkerError(f"stand-in parameter 'turns' must be a percent-encoded JSON array of turns: {exc}") from exc


def _unclean(script: Script, values: Values) -> Script:
    unclean = Unclean(values["text"], values["where"])
    fails = unclean.where == "error" and not script.refusal and not script.fault
    return replace(
        script,
        unclean=unclean,
        calls_tool=script.calls_tool or unclean.where == "arguments",
        refusal="tool_use_failed" if fails else script.refusal,
    )


def _refusing(name: str) -> Mode:
    return Mode(name, f"refuses: {name}", lambda script, _: replace(script, refusal=name))


_AFTER = {"after": 3}
_HALF = "the body stops half way"
_LIST = [
    Mode(
        "reasoning",
        "reasons for N tokens before the answer, with any model",
        lambda script, v: replace(script, reasoning_tokens=v["tokens"]),
        {"tokens": 12},
    ),
    Mode(
        "play",
        "plays these turns, one for each answer since this message; then the ordinary answers follow",
        _play,
        {"turns": "%5B%5D"},
    ),
    Mode("tool_call", "calls the first tool of the request", lambda script, _: replace(script, calls_tool=True)),
    Mode(
        "length",
        "stops after N tokens of content with finish_reason length",
        lambda script, v: replace(script, length_tokens=v["tokens"]),
        {"tokens": 5},
    ),
    Mode(
        "tokens",
        "answers exactly N completion tokens",
        lambda script, v: replace(script, content_tokens=v["count"]),
        {"count": 20},
    ),
    Mode(
        "function_call",
        "calls a function with the deprecated function_call, with its arguments in N + 2 pieces",
        lambda script, v: replace(script, function_call_pieces=max(1, v["pieces"])),
        {"pieces": 6},
    ),
    Mode("unicode", "answers multi-byte text, <>& and emoji", lambda script, _: replace(script, is_unicode=True)),
    Mode(
        "big",
        "answers N bytes of text",
        lambda script, v: replace(script, content_bytes=v["bytes"], piece_bytes=max(1, v["piece"])),
        {"bytes": 100_000, "piece": 256},
    ),
    Mode(
        "unclean",
        "has invalid Unicode text; where=error fails with tool_use_failed unless a preceding marker selects an error",
        _unclean,
        {"text": "utf8", "where": "content"},
        choices={
            "text": encodings.UNCLEAN_TEXTS,
            "where": frozenset({"content", "reasoning", "arguments", "error"}),
        },
    ),
    Mode(
        "cached",
        "reports N cached prompt tokens",
        lambda script, v: replace(script, cached_tokens=v["tokens"]),
        {"tokens": 8},
    ),
    Mode(
        "slow",
        "waits before headers, before the first token and between tokens",
        lambda script, v: replace(script, **v),
        {"headers_ms": 0, "first_ms": 0, "token_ms": 0},
        "waits as long as the stream would have taken, before the headers",
    ),
    *(_refusing(name) for name in errors.REFUSALS if name != "429"),
    Mode(
        "429",
        "refuses: 429 per minute",
        lambda script, v: replace(script, refusal="429", retry_after=RetryAfter(v["retry_after"] * 1_000, "seconds")),
        {"retry_after": 2},
    ),
    Mode(
        "retry_after",
        "adds retry-after to the refusal of a preceding marker",
        lambda script, v: replace(script, retry_after=RetryAfter(v["ms"], v["form"])),
        {"ms": 2_000, "form": "seconds"},
        choices={"form": frozenset({"seconds", "fraction", "date", "ms"})},
    ),
    Mode(
        "long_message",
        "gives the error a message of N bytes",
        lambda script, v: replace(script, long_message=LongMessage(v["bytes"], v["alphabet"])),
        {"bytes": 20_000, "alphabet": "ascii"},
        choices={"alphabet": error_text.ALPHABETS},
    ),
    Mode(
        "error_event",
        "fails with an error event inside the stream",
        _fault("error_event"),
        _AFTER | {"status": 400},
        "refuses with that status",
    ),
    Mode(
        "x_groq_error",
        "fails with x_groq.error inside a chunk, then [DONE]; usage=1 reports the usage in that chunk",
        _fault("x_groq_error"),
        _AFTER | {"usage": 0},
        "a whole answer with x_groq.error",
    ),
    Mode(
        "no_answer",
        "answers 200 without an answer",
        lambda script, v: replace(script, no_answer=v["what"]),
        {"what": "object"},
        choices={"what": no_answer.KINDS},
    ),
    Mode(
        "cut",
        "closes the connection in the middle of the stream",
        _cut,
        _AFTER | {"how": "close"},
        _HALF,
        {"how": frozenset({"close", "end"})},
    ),
    Mode(
        "no_done",
        "leaves [DONE] out and ends the body, or closes the connection",
        lambda script, v: replace(script, fault="no_done", ends_abruptly=v["how"] == "close"),
        {"how": "end"},
        "no effect",
        {"how": frozenset({"close", "end"})},
    ),
    Mode("finish_only", "sends only a finish chunk and closes the connection", _fault("finish_only"), {}, _HALF),
    Mode("bad_chunk", "sends an invalid chunk size and closes the connection", _fault("bad_chunk"), _AFTER, _HALF),
    Mode("hang", "never answers", _fault("hang")),
    Mode(
        "hang_stream",
        "sends nothing more after N tokens",
        _fault("hang_stream"),
        _AFTER,
        f"{_HALF} and nothing follows",
    ),
    Mode("reset", "resets the connection before headers", _fault("reset")),
    Mode("reset_stream", "resets the connection after N tokens", _fault("reset_stream"), _AFTER, f"{_HALF}, TCP reset"),
    Mode(
        "flaky",
        "fails the first N requests with this id, then answers",
        _flaky,
        {"times": 1, "status": "503", "id": "default"},
    ),
    Mode(
        "usage",
        "reports usage in one place only",
        _usage,
        {"only": "all"},
        "none leaves usage out, any other value changes nothing",
        {"only": frozenset({"all", "none"}) | EVERYWHERE},
    ),
    Mode(
        "odd_usage",
        "reports counts of 2**62 and more, an empty usage, or counts that are text",
        lambda script, v: replace(script, odd_counts=v["counts"]),
        {"counts": "huge"},
        choices={"counts": usage.ODD_COUNTS},
    ),
    Mode(
        "odd_id",
        "has a number, an object or 100,000 characters for x_groq.id",
        lambda script, v: replace(script, odd_id=v["form"]),
        {"form": "number"},
        choices={"form": frozenset(ODD_IDS)},
    ),
    Mode(
        "sse",
        "writes the stream in another legal form; may be repeated for several",
        lambda script, v: replace(script, sse_forms=script.sse_forms | {v["form"]}),
        {"form": "crlf"},
        "no effect",
        {"form": encodings.SSE_FORMS},
    ),
    Mode(
        "burst",
        "sends N events in one write",
        lambda script, v: replace(script, burst=max(1, v["size"])),
        {"size": 8},
        "no effect",
    ),
    Mode(
        "drip",
        "splits each event over several writes",
        lambda script, _: replace(script, drips=True, is_unicode=True),
        not_streamed="splits the body over several writes",
    ),
]

MODES = {mode.name: mode for mode in _LIST}
"""Modes by name."""
