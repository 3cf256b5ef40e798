"""The markers by which a request asks the stand-in to behave in a certain way.

`MODES` is the one list of them; the package's docstring repeats it as a table and a test holds the two together.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tools.groq_standin import errors
from tools.groq_standin.script import EVERYWHERE, Fault, Flaky, Script

Values = Mapping[str, Any]
"""A marker's parameters: integers where the default is one, else strings."""

_MARKER = re.compile(r"\[\[standin:([\w-]+)((?:\s+\w+=[^\s\]]+)*)\s*\]\]")
_COUNT_MAX = 10_000_000


@dataclass(frozen=True, slots=True)
class Mode:
    """One marker: its parameters with their defaults, what it does, and how it changes the script."""

    name: str
    effect: str
    apply: Callable[[Script, Values], Script]
    defaults: Values = field(default_factory=dict)
    not_streamed: str = "the same"
    """What it does to an answer that is not streamed."""

    @property
    def syntax(self) -> str:
        """The marker with every parameter at its default."""
        return f"[[standin:{' '.join([self.name, *(f'{key}={value}' for key, value in self.defaults.items())])}]]"

    def as_wire(self) -> dict[str, object]:
        """Return the mode as `GET /modes` lists it."""
        return {
            "name": self.name,
            "syntax": self.syntax,
            "parameters": dict(self.defaults),
            "effect": self.effect,
            "not_streamed": self.not_streamed,
        }


class MarkerError(ValueError):
    """A marker that is not in the list, or a parameter it does not have."""


def parse(text: str) -> Script:
    """Return what the markers in `text` ask for.

    Raises:
        MarkerError: A marker is unknown or malformed: a typo must not turn a failure test into a plain answer.
    """
    script = Script()
    if "[[standin:" not in text:
        return script
    found = _MARKER.findall(text)
    if len(found) != text.count("[[standin:"):
        raise MarkerError("malformed stand-in marker; write [[standin:NAME key=value]], see GET /modes")
    for name, parameters in found:
        script = _applied(script, name, parameters)
    return script


def named(name: str) -> Script:
    """Return the script of one mode with its defaults.

    Raises:
        MarkerError: There is no such mode.
    """
    return _applied(Script(), name, "")


def without_markers(text: str) -> str:
    """Return what the user said besides the markers."""
    return _MARKER.sub("", text).strip()


def _applied(script: Script, name: str, parameters: str) -> Script:
    mode = MODES.get(name)
    if mode is None:
        raise MarkerError(f"unknown stand-in mode '{name}', see GET /modes")
    values = dict(mode.defaults)
    for key, _, raw in (pair.partition("=") for pair in parameters.split()):
        if key not in mode.defaults:
            raise MarkerError(f"stand-in mode '{name}' has no parameter '{key}', see GET /modes")
        values[key] = _value(key, raw) if isinstance(mode.defaults[key], int) else raw
    return replace(mode.apply(script, values), names=(*script.names, name))


def _value(key: str, raw: str) -> int:
    if not raw.isdecimal() or int(raw) > _COUNT_MAX:
        raise MarkerError(f"stand-in parameter '{key}' must be a number from 0 to {_COUNT_MAX}, not '{raw}'")
    return int(raw)


def _fault(kind: Fault) -> Callable[[Script, Values], Script]:
    return lambda script, v: replace(script, fault=kind, after=v.get("after", 0), error_status=v.get("status", 400))


def _cut(script: Script, values: Values) -> Script:
    if values["how"] not in ("close", "end"):
        raise MarkerError("stand-in parameter 'how' must be close or end")
    return replace(script, fault="cut" if values["how"] == "close" else "end", after=values["after"])


def _usage(script: Script, values: Values) -> Script:
    only = values["only"]
    if only not in {"all", "none"} | EVERYWHERE:
        raise MarkerError("stand-in parameter 'only' must be all, x_groq, top, last or none")
    places = EVERYWHERE if only == "all" else frozenset({only}) & EVERYWHERE
    return replace(script, usage_places=places)


def _flaky(script: Script, values: Values) -> Script:
    if values["status"] not in MODES:
        raise MarkerError("stand-in parameter 'status' must be the name of a mode, see GET /modes")
    return replace(script, flaky=Flaky(values["id"], values["times"], values["status"]))


def _refusing(name: str) -> Mode:
    return Mode(name, f"refuses: {name}", lambda script, _: replace(script, refusal=name))


_AFTER = {"after": 3}
_HALF = "the body stops half way"
_LIST = [
    Mode(
        "reasoning",
        "thinks for N tokens before it answers, whatever the model",
        lambda script, v: replace(script, reasoning_tokens=v["tokens"]),
        {"tokens": 12},
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
    Mode("unicode", "answers multi-byte text, <>& and emoji", lambda script, _: replace(script, is_unicode=True)),
    Mode(
        "big",
        "answers N bytes of text",
        lambda script, v: replace(script, content_bytes=v["bytes"], piece_bytes=max(1, v["piece"])),
        {"bytes": 100_000, "piece": 256},
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
        lambda script, v: replace(script, refusal="429", retry_after_seconds=v["retry_after"]),
        {"retry_after": 2},
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
        "fails with x_groq.error inside a chunk, then [DONE]",
        _fault("x_groq_error"),
        _AFTER,
        "a whole answer with x_groq.error",
    ),
    Mode("cut", "closes the connection in the middle of the stream", _cut, _AFTER | {"how": "close"}, _HALF),
    Mode("no_done", "leaves [DONE] out", _fault("no_done"), not_streamed="no effect"),
    Mode("hang", "never answers", _fault("hang")),
    Mode("hang_stream", "falls silent after N tokens", _fault("hang_stream"), _AFTER, f"{_HALF} and nothing follows"),
    Mode("reset", "resets the connection before headers", _fault("reset")),
    Mode("reset_stream", "resets the connection after N tokens", _fault("reset_stream"), _AFTER, f"{_HALF}, TCP reset"),
    Mode(
        "flaky",
        "fails the first N requests with that id, then answers",
        _flaky,
        {"times": 1, "status": "503", "id": "default"},
    ),
    Mode(
        "usage",
        "reports usage in one place only",
        _usage,
        {"only": "all"},
        "none leaves usage out, any other value changes nothing",
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
"""Every mode by its name."""
