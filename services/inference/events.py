"""Groq's stream events as our clients get them: our id, the model that was asked for, and each usage once.

Groq reports a stream's usage in up to three places: at the top and under `x_groq` of the chunk that finishes, and again
in a chunk without choices. It is counted once. Clients get it under `x_groq` of the finishing chunk always, since one
client reads only there, and at the top of one chunk: the one without choices when they asked for it, else the finishing
one.
"""

from services.inference.chat import Members, Usage

_FRAME_FIELDS = ("object", "created", "system_fingerprint", "service_tier")
"""What every chunk of a stream repeats, beside the id and the model."""
_PIECE_FIELDS = ("content", "reasoning", "tool_calls", "executed_tools")


class EventShaper:
    """Shapes one stream's events and remembers what they told."""

    def __init__(self, *, completion_id: str, model: str, asks_for_usage: bool) -> None:
        """Prepare for one stream."""
        self._id = completion_id
        self._model = model
        self._asks_for_usage = asks_for_usage
        self._usage: Members | None = None
        self._finishing: Members | None = None
        self._frame: Members = {}
        self._owes_usage_chunk = asks_for_usage
        self.upstream_id = ""
        """Groq's id of the request; empty until it says one."""
        self.pieces = 0
        """Events that carried output."""

    def shape(self, events: list[Members]) -> list[Members]:
        """Return what leaves for these events; a finishing chunk waits for a usage that Groq sends after it."""
        return [out for event in events for out in self._shape_one(event)]

    def finish(self) -> list[Members]:
        """Return what was waiting when the stream ended, and the usage chunk that was asked for if Groq sent none."""
        return self._release() + self._usage_chunk({**self._frame, "choices": []})

    def usage(self, *, prompt_characters: int) -> Usage:
        """Return Groq's count, or an estimate where it never came."""
        if self._usage is not None:
            return Usage.reported(self._usage)
        return Usage.estimated(prompt_characters=prompt_characters, pieces=self.pieces)

    def _shape_one(self, event: Members) -> list[Members]:
        self._learn(event)
        choices = event.get("choices")
        if not choices:
            return self._release() + self._usage_chunk(event)
        event["id"], event["model"] = self._id, self._model
        self._frame = {name: event[name] for name in _FRAME_FIELDS if name in event}
        self.pieces += any(_has_output(choice) for choice in choices)
        if any(choice.get("finish_reason") for choice in choices):
            # One that waits already is of another choice.
            released, self._finishing = self._release(), event
            return released + (self._release() if self._usage is not None else [])
        return [*self._release(), event]

    def _learn(self, event: Members) -> None:
        extension = event.pop("x_groq", None) or {}
        self.upstream_id = self.upstream_id or extension.get("id") or ""
        usage = event.get("usage") or extension.get("usage")
        if usage:
            self._usage = usage

    def _release(self) -> list[Members]:
        event, self._finishing = self._finishing, None
        if event is None:
            return []
        event.pop("usage", None)
        if self._usage is not None:
            event["x_groq"] = {"usage": self._usage}
            if not self._asks_for_usage:
                event["usage"] = self._usage
        return [event]

    def _usage_chunk(self, event: Members) -> list[Members]:
        if not self._owes_usage_chunk or self._usage is None:
            return []
        self._owes_usage_chunk = False
        event["id"], event["model"], event["usage"] = self._id, self._model, self._usage
        return [event]


def shape_completion(members: Members, *, completion_id: str, model: str) -> Members:
    """Return an answer in one piece as our clients get it: our id and the model that was asked for, no Groq ids."""
    members.pop("x_groq", None)
    members["id"], members["model"] = completion_id, model
    return members


def _has_output(choice: Members) -> bool:
    delta = choice.get("delta") or {}
    return any(delta.get(name) for name in _PIECE_FIELDS)
