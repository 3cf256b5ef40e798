"""The kinds of requests that a seed draws from, and whether each counts when undisturbed.

A kind is defined by what the Groq stand-in is asked to do (`tools/groq_standin`).
"""

from dataclasses import dataclass
from enum import StrEnum


class Charge(StrEnum):
    """Whether an undisturbed request counts."""

    YES = "yes"
    NO = "no"
    AFTER_OUTPUT = "after_output"
    """Only where output had begun before it failed, hence only in a stream."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request."""

    name: str
    marker: str
    """`ID` in it stands for the request."""
    charge: Charge
    weight: int
    is_bad: bool = False
    """Refused at the edge, before a slot is held."""
    has_id: bool = True
    """Whether the upstream sends an id, so that a row can be found by it."""


def _marked(name: str, charge: Charge, weight: int, *markers: str) -> Kind:
    marker = " ".join(f"[[standin:{one}]]" for one in markers)
    return Kind(name, marker, charge, weight, has_id="odd_id" not in marker)


_SHORT = "tokens count=5"
_ORDINARY = (
    _marked("plain", Charge.YES, 60, _SHORT),
    _marked("slow stream", Charge.YES, 30, "slow first_ms=40 token_ms=15", "tokens count=20"),
    _marked("late headers", Charge.YES, 12, "slow headers_ms=350"),
    _marked("cached", Charge.YES, 2, _SHORT, "cached tokens=2"),
    _marked("tool call", Charge.YES, 2, "tool_call"),
    _marked("function call", Charge.YES, 3, "function_call pieces=4"),
    _marked("big", Charge.YES, 2, "big bytes=1500000 piece=500000"),
)
_REFUSED = (
    _marked("429", Charge.NO, 8, "429"),
    _marked("429 with milliseconds", Charge.NO, 2, "429", "retry_after ms=60 form=ms"),
    _marked("429 with a date", Charge.NO, 2, "429", "retry_after ms=60 form=date"),
    _marked("503 with a fraction", Charge.NO, 2, "503", "retry_after ms=60 form=fraction"),
    _marked("500", Charge.NO, 8, "500"),
    _marked("400", Charge.NO, 6, "400"),
    _marked("413", Charge.NO, 4, "413"),
    _marked("blocked model", Charge.NO, 2, "model_blocked"),
    _marked("retired model", Charge.NO, 2, "decommissioned"),
    _marked("refused key", Charge.NO, 2, "401"),
    _marked("long error", Charge.NO, 2, "400", "long_message bytes=1000000 alphabet=ascii"),
    _marked("long error, Chinese", Charge.NO, 2, "400", "long_message bytes=20000 alphabet=cjk"),
    _marked("long error, emoji", Charge.NO, 2, "503", "long_message bytes=7000 alphabet=emoji"),
    _marked("unclean error", Charge.NO, 2, "unclean text=utf8 where=error"),
    _marked("lone surrogate in an error", Charge.NO, 2, "unclean text=surrogate where=error"),
)
_NO_ANSWER = tuple(
    _marked(f"no answer: {what}", Charge.NO, 1, f"no_answer what={what}")
    for what in ("object", "error", "null", "empty", "text", "done")
)
_BROKEN = (
    _marked("reset", Charge.NO, 8, "reset"),
    _marked("finish chunk alone", Charge.NO, 2, "finish_only"),
    _marked("too big", Charge.NO, 1, "big bytes=9000000 piece=9000000"),
    _marked("cut", Charge.AFTER_OUTPUT, 8, "cut after=3"),
    _marked("error event", Charge.AFTER_OUTPUT, 8, "error_event after=3 status=400"),
    _marked("long error event", Charge.AFTER_OUTPUT, 2, "error_event", "long_message bytes=30000 alphabet=cjk"),
    _marked("reset stream", Charge.AFTER_OUTPUT, 6, "reset_stream after=3"),
    _marked("bad chunk", Charge.AFTER_OUTPUT, 3, "bad_chunk after=3"),
    _marked("stops early", Charge.AFTER_OUTPUT, 2, _SHORT, "x_groq_error after=3"),
    _marked("stops early, with usage", Charge.AFTER_OUTPUT, 3, _SHORT, "x_groq_error after=3 usage=1"),
    _marked("function call, cut", Charge.AFTER_OUTPUT, 2, "function_call", "cut after=3"),
)
_ODD = (
    _marked("broken, then answered", Charge.YES, 4, "flaky times=1 status=finish_only id=ID"),
    _marked("failed, then answered", Charge.YES, 4, "flaky times=2 status=503 id=ID"),
    _marked("no DONE", Charge.YES, 3, _SHORT, "no_done"),
    _marked("no DONE, closed", Charge.YES, 3, _SHORT, "no_done how=close"),
    _marked("not UTF-8", Charge.YES, 2, "unclean text=utf8"),
    _marked("split emoji", Charge.YES, 3, "unclean text=emoji"),
    _marked("lone surrogate", Charge.YES, 2, "unclean text=surrogate where=reasoning"),
    _marked("lone surrogate in arguments", Charge.YES, 2, "unclean text=surrogate where=arguments"),
    _marked("SSE with CR", Charge.YES, 2, _SHORT, "sse form=cr", "sse form=bom", "sse form=empty", "drip"),
    _marked("SSE with CRLF", Charge.YES, 2, _SHORT, "sse form=crlf", "sse form=comments", "sse form=lines"),
    _marked("usage at the end", Charge.YES, 2, _SHORT, "usage only=last"),
    _marked("no usage", Charge.YES, 2, _SHORT, "usage only=none"),
    _marked("huge counts", Charge.YES, 3, _SHORT, "odd_usage counts=huge"),
    _marked("empty usage", Charge.YES, 2, _SHORT, "odd_usage counts=empty"),
    _marked("counts as text", Charge.YES, 2, _SHORT, "odd_usage counts=text"),
    _marked("id is a number", Charge.YES, 3, _SHORT, "odd_id form=number"),
    _marked("id is an object", Charge.YES, 2, _SHORT, "odd_id form=object"),
    _marked("long id", Charge.YES, 2, _SHORT, "odd_id form=long"),
)
_SLOW = (
    # Past a stream's time-out for the first event, within the request's.
    _marked("late answer", Charge.YES, 5, "slow headers_ms=900", _SHORT),
    _marked("hang", Charge.NO, 2, "hang"),
    _marked("stall", Charge.AFTER_OUTPUT, 3, "hang_stream after=2"),
    # Longer than the request's time-out, with steady output.
    _marked("endless", Charge.AFTER_OUTPUT, 4, "slow token_ms=250", "tokens count=30"),
)
_BAD = (
    Kind("bad role", "", Charge.NO, 4, is_bad=True),
    Kind("bad json", "", Charge.NO, 4, is_bad=True),
)
KINDS = (*_ORDINARY, *_REFUSED, *_NO_ANSWER, *_BROKEN, *_ODD, *_SLOW, *_BAD)
PROBE = _ORDINARY[0]
RESET = next(kind for kind in KINDS if kind.name == "reset")
MODEL_LISTS = ("unclean", "text", "object", "big", "503", "hang")
"""Kinds of model lists other than an ordinary one."""
