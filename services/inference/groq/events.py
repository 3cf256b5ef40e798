"""Groq's stream events as our clients get them: our id, the model that was asked for, and each usage once.

Groq reports a stream's usage in up to three places: at the top and under `x_groq` of the chunk that finishes, and again
in a chunk without choices. It is counted once. Clients get it under `x_groq` of the finishing chunk always, since one
client reads only there, and at the top of one chunk: the one without choices when they asked for it, else the finishing
one.
"""

from services.inference.chat import JSONObject, Usage

_FRAME_FIELDS = ("object", "created", "system_fingerprint", "service_tier")
"""What every chunk of a stream repeats, beside the id and the model."""
_NO_OUTPUT = frozenset({"role", "channel"})
"""Members of a delta that are not output."""


class EventShaper:
    """Shapes the events of one attempt at a stream and remembers what they said."""

    def __init__(self, *, completion_id: str, model: str, asks_for_usage: bool) -> None:
        """Prepare for one stream."""
        self._id = completion_id
        self._model = model
        self._asks_for_usage = asks_for_usage
        self._usage: JSONObject | None = None
        self._finishing: JSONObject | None = None
        self._last: JSONObject = {}
        """The last event with choices, for what all repeat."""
        self._owes_usage_chunk = asks_for_usage
        self.upstream_id = ""
        """Groq's id of the request; empty until it says one."""
        self.output_chunks = 0
        """Events that carried output."""
        self._has_finished = False

    def shape(self, events: list[JSONObject]) -> list[JSONObject]:
        """Return what leaves for these events; a finishing chunk waits for a usage that Groq sends after it."""
        shaped: list[JSONObject] = []
        for event in events:
            self._shape_one(event, shaped)
        return shaped

    def finish(self) -> list[JSONObject]:
        """Return what was waiting when the stream ended, and the usage chunk that was asked for if Groq sent none."""
        frame = {name: self._last[name] for name in _FRAME_FIELDS if name in self._last}
        return self._release() + self._usage_chunk({**frame, "choices": []})

    @property
    def is_answer(self) -> bool:
        """Whether Groq said anything: output, or why there is none."""
        return self.output_chunks > 0 or self._has_finished

    @property
    def is_complete(self) -> bool:
        """Whether nothing but `[DONE]` can be missing."""
        return self._has_finished and self._usage is not None

    @property
    def reported_usage(self) -> Usage | None:
        """Groq's own count; None until it came."""
        return None if self._usage is None else Usage.reported(self._usage)

    def usage(self, *, body_bytes: int) -> Usage:
        """Return Groq's count, or an estimate where it never came."""
        return self.reported_usage or Usage.estimated(body_bytes=body_bytes, output_chunks=self.output_chunks)

    def _shape_one(self, event: JSONObject, shaped: list[JSONObject]) -> None:
        """Add to `shaped` what leaves for one event."""
        if "x_groq" in event or "usage" in event:
            self._learn(event)
        if self._finishing is not None:
            shaped += self._release()  # What came after it told its usage, or is of another choice.
        choices = event.get("choices")
        if not choices:
            shaped += self._usage_chunk(event)
            return
        event["id"], event["model"] = self._id, self._model
        self._last = event
        if not self._count(choices):
            shaped.append(event)
            return
        self._finishing = event
        if self._usage is not None:
            shaped += self._release()

    def _count(self, choices: list[JSONObject]) -> bool:
        """Count an event that carries output; return whether it finishes a choice."""
        has_output = is_finishing = False
        for choice in choices:
            has_output = has_output or _has_output(choice)
            is_finishing = is_finishing or bool(choice.get("finish_reason"))
        self.output_chunks += has_output
        self._has_finished = self._has_finished or is_finishing
        return is_finishing

    def _learn(self, event: JSONObject) -> None:
        extension = event.pop("x_groq", None) or {}
        self.upstream_id = self.upstream_id or extension.get("id") or ""
        usage = event.get("usage") or extension.get("usage")
        if usage:
            self._usage = usage

    def _release(self) -> list[JSONObject]:
        event, self._finishing = self._finishing, None
        if event is None:
            return []
        event.pop("usage", None)
        if self._usage is not None:
            event["x_groq"] = {"usage": self._usage}
            if not self._asks_for_usage:
                event["usage"] = self._usage
        return [event]

    def _usage_chunk(self, event: JSONObject) -> list[JSONObject]:
        if not self._owes_usage_chunk or self._usage is None:
            return []
        self._owes_usage_chunk = False
        event["id"], event["model"], event["usage"] = self._id, self._model, self._usage
        return [event]


def shape_completion(members: JSONObject, *, completion_id: str, model: str) -> JSONObject:
    """Return an answer in one piece as our clients get it: our id and the model that was asked for, no Groq ids."""
    members.pop("x_groq", None)
    members["id"], members["model"] = completion_id, model
    return members


def _has_output(choice: JSONObject) -> bool:
    delta = choice.get("delta")
    if not delta:
        return False
    return bool(delta.get("content")) or any(value for name, value in delta.items() if name not in _NO_OUTPUT)
