"""Bodies of answers: JSON documents and the chunks of streams, in Groq's key order."""

import hashlib
import secrets
import time
import uuid
from dataclasses import dataclass
from functools import lru_cache

from tools.groq_standin.completion import FUNCTION_NAME, Answer, ToolCall
from tools.groq_standin.wire import document, encode

DONE = b"data: [DONE]\n\n"
"""The last event of a stream."""
ODD_IDS: dict[str, object] = {"number": 12345, "object": {"id": "req_1"}, "long": "r" * 100_000}
"""Replacements for `x_groq.id`, by form."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The ids and metadata of an answer."""

    request_id: str
    """The `x-request-id` header, and usually `x_groq.id`."""
    completion_id: str
    model: str
    seed: int
    service_tier: str
    x_groq_id: object
    """`x_groq.id`: the request's id, or one of `ODD_IDS`."""

    @property
    def x_groq(self) -> dict[str, object]:
        """The `x_groq` object of a whole answer or of the first chunk."""
        return {"id": self.x_groq_id, "seed": self.seed}


def identity(
    request_id: str, model: str, seed: int | None, service_tier: str | None, odd_id: str | None = None
) -> Identity:
    """Return new ids for an answer. A request without a seed gets a random one, as at Groq."""
    tier = service_tier if service_tier in ("flex", "performance") else "on_demand"
    chosen = secrets.randbelow(2**31) if seed is None else seed
    x_groq_id = ODD_IDS[odd_id] if odd_id else request_id
    return Identity(request_id, f"chatcmpl-{uuid.uuid4()}", model, chosen, tier, x_groq_id)


@lru_cache(maxsize=64)
def fingerprint(model: str) -> str:
    """Return the `system_fingerprint` of a model, which is constant."""
    return "fp_" + hashlib.sha256(model.encode()).hexdigest()[:10]


def whole(identity: Identity, answer: Answer, *, usage: dict[str, object] | None, error: str | None = None) -> bytes:
    """Return the body of an answer that is not streamed. None omits `usage`."""
    choice = {"index": 0, "message": _message(answer), "logprobs": None, "finish_reason": answer.finish_reason}
    body: dict[str, object] = {
        "id": identity.completion_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": identity.model,
        "choices": [choice],
    }
    if usage is not None:
        body["usage"] = usage
    body["usage_breakdown"] = None
    body["system_fingerprint"] = fingerprint(identity.model)
    body["x_groq"] = identity.x_groq | ({"error": error} if error else {})
    body["service_tier"] = identity.service_tier
    return document(body)


def _message(answer: Answer) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant"}
    if answer.calls_function:
        message["content"] = None
        message["function_call"] = {"name": FUNCTION_NAME, "arguments": "".join(answer.content)}
    elif answer.content or not answer.tool_calls:
        message["content"] = "".join(answer.content)
    if answer.reasoning and answer.shows_reasoning:
        message["reasoning"] = "".join(answer.reasoning)
    if answer.tool_calls:
        message["tool_calls"] = [call.as_wire() for call in answer.tool_calls]
    return message


class Chunks:
    """Creates the events of one stream. Repeated parts are encoded once."""

    def __init__(self, identity: Identity, *, names_channel: bool) -> None:
        self._identity = identity
        self._head = b'data: {"id":"%s","object":"chat.completion.chunk","created":' % identity.completion_id.encode()
        model, print_ = encode(identity.model), encode(fingerprint(identity.model))
        self._middle = b',"model":%s,"system_fingerprint":%s,"choices":[' % (model, print_)
        self._after_reasoning = b',"channel":"analysis"}' if names_channel else b"}"

    def role(self, answer: Answer) -> bytes:
        """Return the first chunk. `content` is null before a call; a `function_call` starts here with its name."""
        content = b"null" if answer.tool_calls or answer.calls_function else b'""'
        call = b',"function_call":{"name":"%s","arguments":""}' % FUNCTION_NAME.encode()
        delta = b'{"role":"assistant","content":%s%s}' % (content, call if answer.calls_function else b"")
        return self._chunk(delta, tail=b',"x_groq":' + encode(self._identity.x_groq))

    def token(self, key: str, text: str) -> bytes:
        """Return the chunk of one token of `content`, `reasoning` or `function_call`."""
        if key == "function_call":
            return self._chunk(b'{"function_call":{"arguments":%s}}' % encode(text))
        end = self._after_reasoning if key == "reasoning" else b"}"
        return self._chunk(b'{"%s":%s%s' % (key.encode(), encode(text), end))

    def tool_call(self, call: ToolCall, index: int) -> bytes:
        """Return the chunk with a complete tool call."""
        return self._chunk(encode({"tool_calls": [call.as_wire() | {"index": index}]}))

    def finish(self, reason: str, usage: dict[str, object], places: frozenset[str]) -> bytes:
        """Return the finish chunk, with usage in `x_groq` and at the top level if `places` has them."""
        x_groq = {"id": self._identity.x_groq_id} | ({"usage": usage} if "x_groq" in places else {})
        tail = b',"x_groq":' + encode(x_groq)
        if "top" in places:
            tail += b',"usage":' + encode(usage)
        return self._chunk(b"{}", encode(reason), tail)

    def usage(self, usage: dict[str, object]) -> bytes:
        """Return the chunk without choices that `stream_options.include_usage` requests."""
        tail = b'],"usage":%s,"service_tier":%s}\n\n' % (encode(usage), encode(self._identity.service_tier))
        return b"%s%d%s%s" % (self._head, time.time(), self._middle, tail)

    def error(self, text: str, usage: dict[str, object] | None) -> bytes:
        """Return a chunk with `x_groq.error`, which ends a stream early. None omits the usage."""
        x_groq = {"id": self._identity.x_groq_id, "error": text} | ({} if usage is None else {"usage": usage})
        return self._chunk(b"{}", tail=b',"x_groq":' + encode(x_groq))

    def _chunk(self, delta: bytes, reason: bytes = b"null", tail: bytes = b"") -> bytes:
        # `created` is the time of the chunk, not of the stream: it increases within recorded streams.
        choice = b'{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}]' % (delta, reason)
        return b"%s%d%s%s%s}\n\n" % (self._head, time.time(), self._middle, choice, tail)
