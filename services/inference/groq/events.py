"""Conversion of Groq's stream events for clients: own ids, the requested model name, and usage exactly once.

Groq reports a stream's usage in up to three places: in `usage` and `x_groq.usage` of the finishing chunk, and again in
a chunk without choices. It is counted once. Clients always get it in `x_groq.usage` of the finishing chunk, since one
client reads it only there, and in `usage` of one chunk: the one without choices if they set `include_usage`, otherwise
the finishing one.
"""

from services.inference.chat import JSONObject, Usage

_FRAME_FIELDS = ("object", "created", "system_fingerprint", "service_tier")
"""Members that every chunk of a stream repeats, in addition to the id and the model."""
_NO_OUTPUT = frozenset({"role", "channel"})
"""Members of a delta that do not count as output."""


class EventShaper:
    """Converts the events of one attempt at a stream, and collects usage and ids from them."""

    def __init__(self, *, completion_id: str, model: str, include_usage: bool) -> None:
        """Create a shaper for one attempt.

        Args:
            completion_id: Id of every event.
            model: Model name of every event.
            include_usage: Whether the client requested a usage chunk.
        """
        self._id = completion_id
        self._model = model
        self._include_usage = include_usage
        self._usage: JSONObject | None = None
        self._finishing: JSONObject | None = None
        self._last: JSONObject = {}
        """The last event with choices, from which the usage chunk copies `_FRAME_FIELDS`."""
        self._usage_chunk_pending = include_usage
        self.upstream_id = ""
        """Groq's request id; empty until it is known."""
        self.output_chunks = 0
        """Number of events with output."""
        self._has_finished = False

    def shape(self, event: JSONObject) -> list[JSONObject]:
        """Return the events to send for one of Groq's. A finishing chunk is held back until its usage is known."""
        if "x_groq" in event or "usage" in event:
            self._read_usage(event)
        # This event has the usage of a held-back one, or belongs to another choice.
        shaped = [] if self._finishing is None else self._release()
        choices = event.get("choices")
        if not choices:
            return shaped + self._usage_chunk(event)
        event["id"], event["model"] = self._id, self._model
        self._last = event
        if not self._count(choices):
            shaped.append(event)
            return shaped
        self._finishing = event
        return shaped if self._usage is None else shaped + self._release()

    def finish(self) -> list[JSONObject]:
        """Return the events to send at the end of the stream: a held-back chunk, and the usage chunk if still due."""
        frame = {name: self._last[name] for name in _FRAME_FIELDS if name in self._last}
        return self._release() + self._usage_chunk({**frame, "choices": []})

    @property
    def has_answer(self) -> bool:
        """Whether Groq sent output or a finish reason."""
        return self.output_chunks > 0 or self._has_finished

    @property
    def is_complete(self) -> bool:
        """Whether everything except `[DONE]` has arrived."""
        return self._has_finished and self._usage is not None

    @property
    def reported_usage(self) -> Usage | None:
        """Usage reported by Groq; None until it has arrived."""
        return None if self._usage is None else Usage.reported(self._usage)

    def usage(self, *, body_bytes: int) -> Usage:
        """Return the usage reported by Groq, or an estimate without one."""
        return self.reported_usage or Usage.estimated(body_bytes=body_bytes, output_chunks=self.output_chunks)

    def _count(self, choices: list[JSONObject]) -> bool:
        """Count an event with output and return whether the event finishes a choice."""
        has_output = is_finishing = False
        for choice in choices:
            delta = choice.get("delta")
            has_output = has_output or bool(delta and (delta.get("content") or _has_other_output(delta)))
            is_finishing = is_finishing or bool(choice.get("finish_reason"))
        self.output_chunks += has_output
        self._has_finished = self._has_finished or is_finishing
        return is_finishing

    def _read_usage(self, event: JSONObject) -> None:
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
            if not self._include_usage:
                event["usage"] = self._usage
        return [event]

    def _usage_chunk(self, event: JSONObject) -> list[JSONObject]:
        if not self._usage_chunk_pending or self._usage is None:
            return []
        self._usage_chunk_pending = False
        event["id"], event["model"], event["usage"] = self._id, self._model, self._usage
        return [event]


def shape_completion(members: JSONObject, *, completion_id: str, model: str) -> JSONObject:
    """Convert an answer without streaming: own id, the requested model name, and no Groq ids."""
    members.pop("x_groq", None)
    members["id"], members["model"] = completion_id, model
    return members


def _has_other_output(delta: JSONObject) -> bool:
    """Return whether a delta without content has a tool call, reasoning or anything else that a model wrote."""
    return any(value for name, value in delta.items() if name not in _NO_OUTPUT)
