"""The surfaces of the API: the same conversation as a request on each, and how a complete answer looks."""

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.contenders import Contender
from bench.mock import EVENTS_PER_STREAM
from bench.wire import NotAnswered, Reply

_SYSTEM = "You are a careful assistant. Answer in plain words and short sentences. " * 3
_QUESTION = "Explain how a token quota works, and what a client sees when it is used up."


@dataclass(frozen=True, slots=True)
class Surface:
    """One surface. The texts are searched in answers, which may be formatted in any way."""

    path: str
    """Path below `/v1/`, by which contenders name the surfaces that they serve."""
    content: bytes
    """Text that an answer has, and a stream in each event with content."""
    end: bytes
    """Text in the event that ends a complete stream."""
    contents_min: int = 1
    """Events with content that a complete stream has at least; some surfaces may merge events that arrive together."""

    def url(self, contender: Contender) -> str:
        """Return the contender's URL of this surface."""
        return contender.url.removesuffix(CHAT.path) + self.path

    def url_path(self, contender: Contender) -> str:
        """Return the path of that URL."""
        return urlsplit(self.url(contender)).path

    def body(self, contender: Contender, word: str = "", *, stream: bool = False) -> bytes:
        """Return the request body. `word` is appended to the question and selects the mock's stream."""
        question = f"{_QUESTION} {word}"
        members: dict[str, object] = {"model": contender.model, "temperature": 0.7} | _members(self.path, question)
        return json.dumps(members | ({"stream": True} if stream else {})).encode()

    def check(self, reply: Reply) -> None:
        """Check an answer that is not a stream.

        Raises:
            NotAnswered: It has another status than 200, or no content.
        """
        if reply.status != 200 or self.content not in reply.body:
            raise NotAnswered(f"{self.path} was answered with {reply.status}: {reply.body[:300]!r}")

    def check_stream(self, reply: Reply, *, contents_min: int | None = None) -> None:
        """Check that a stream is complete: enough events with content, and the one that ends it.

        Raises:
            NotAnswered: The stream was refused or is incomplete.
        """
        contents = reply.body.count(self.content)
        required = self.contents_min if contents_min is None else contents_min
        if reply.status != 200 or contents < required or self.end not in reply.body:
            found = f"{reply.status} and {contents} contents: {reply.body[-300:]!r}"
            raise NotAnswered(f"a stream of {self.path} ended with {found}")


CHAT = Surface("chat/completions", b'"content":', b"data: [DONE]", contents_min=EVENTS_PER_STREAM - 2)
RESPONSES = Surface("responses", b"output_text", b'response.completed"')
MESSAGES = Surface("messages", b'"text', b'message_stop"')
COMPLETIONS = Surface("completions", b'"text":', b"data: [DONE]")
OTHERS = (RESPONSES, MESSAGES, COMPLETIONS)
"""All surfaces but chat completions."""


def _members(path: str, question: str) -> dict[str, object]:
    """Return the members of a request that differ between surfaces."""
    user = {"role": "user", "content": question}
    return {
        CHAT.path: {"messages": [{"role": "system", "content": _SYSTEM}, user], "max_completion_tokens": 256},
        RESPONSES.path: {"instructions": _SYSTEM, "input": question, "max_output_tokens": 256},
        MESSAGES.path: {"system": _SYSTEM, "messages": [user], "max_tokens": 256},
        COMPLETIONS.path: {"prompt": f"{_SYSTEM}{question}", "max_tokens": 256},
    }[path]
