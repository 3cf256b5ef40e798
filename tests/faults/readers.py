"""Reads the answers of each surface, and notes what differs from its form."""

import json
from collections.abc import Mapping
from typing import Any

from tests.faults.answers import CODES, Answer, anthropic_tokens, code_of, known, openai_tokens, responses_tokens
from tests.faults.surfaces import Surface

_OUTPUT = ("content", "reasoning", "tool_calls", "function_call")
"""Members of a chat delta with content."""
_ERROR = {"message", "type", "param", "code"}
_OPTIONAL = {"failed_generation", "resets_at"}
"""Members that some errors of OpenAI's form have."""
_TYPES = {
    400: "invalid_request_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Types of Anthropic's errors by status."""


class ChatReader:
    """Reads chat completions, whole or event by event. `DONE` is the last event of a successful stream."""

    DONE: str | None = "[DONE]"

    def __init__(self, answer: Answer) -> None:
        """Read into `answer`, whose status and request id are known."""
        self.answer = answer

    def whole(self, body: Any) -> None:
        """Read the JSON value of an answer that is not a stream."""
        if self.answer.status == 200:
            self._whole(body)
            return
        error = body.get("error") if isinstance(body, dict) else None
        if not error:
            self._odd("a failure without an error", body)
            return
        self._failed(error)
        self._check_envelope(body, error)

    def event(self, name: str, data: str) -> None:
        """Read an event: its name, empty if it has none, and its data."""
        if self.answer.is_done or self.answer.error:
            self._odd("an event after the end", data)
        if data == self.DONE:
            self.answer.is_done = True
        else:
            self._event(name, json.loads(data))

    def end(self) -> None:
        """Note that the stream ended without a broken connection."""
        if not self.answer.is_done and not self.answer.error:
            self.answer.oddities.append("the stream ended in order without its last event and without an error")

    def _whole(self, body: Any) -> None:
        if not body.get("choices"):
            self._odd("200 without an answer", body)
        self.answer.tokens = known(openai_tokens(body.get("usage")))

    def _event(self, name: str, body: Any) -> None:
        answer = self.answer
        for choice in body.get("choices") or ():
            has_output = self._has_output(choice)
            if answer.has_finished and has_output:
                self._odd("output after the finish reason", body)
            answer.has_output = answer.has_output or has_output
            answer.has_finished = answer.has_finished or bool(choice.get("finish_reason"))
        answer.tokens = known(openai_tokens(body.get("usage"))) or answer.tokens
        if error := body.get("error"):
            self._failed(error)
            self._check_envelope(body, error)

    def _has_output(self, choice: Mapping[str, Any]) -> bool:
        return any(choice["delta"].get(name) for name in _OUTPUT)

    def _check_envelope(self, body: Mapping[str, Any], error: Mapping[str, Any]) -> None:
        if set(body) != {"error"} or set(error) - _OPTIONAL != _ERROR:
            self._odd("an error of another form", body)

    def _failed(self, error: dict[str, Any]) -> None:
        self.answer.error = error
        self.answer.code = str(error.get("code") or "")
        if self.answer.code in CODES.values() and not code_of(error):
            self._odd(f"a message of {self.answer.code} that is not known", error)

    def _odd(self, fault: str, body: object) -> None:
        self.answer.oddities.append(f"{fault}: {str(body)[:200]}")


class CompletionsReader(ChatReader):
    """Reads legacy completions."""

    def _has_output(self, choice: Mapping[str, Any]) -> bool:
        return bool(choice["text"])


class MessagesReader(ChatReader):
    """Reads Anthropic's messages, whose last event is `message_stop`. Its errors have no codes."""

    DONE = None

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self._has_started = False
        self._blocks = 0
        self._is_open = False
        """Whether the last block is open."""

    def _whole(self, body: Any) -> None:
        if body.get("type") != "message" or not isinstance(body.get("content"), list) or not body.get("stop_reason"):
            self._odd("200 without a message", body)
        self.answer.tokens = anthropic_tokens(body.get("usage"))

    def _event(self, name: str, body: Any) -> None:
        if name != body["type"]:
            self._odd(f"an event named {name!r}", body)
        if self._has_started is (name == "message_start") and name != "error":
            self._odd("an event before the start, or a second start", body)
        match body["type"]:
            case "message_start":
                self._has_started = True
            case "error":
                self._failed(body["error"])
                self._check_id(body)
            case "message_delta":
                self._finish(body)
            case "message_stop":
                self._stop(body)
            case "ping":
                pass
            case _:
                self._block(body)

    def _block(self, body: Mapping[str, Any]) -> None:
        starts = body["type"] == "content_block_start"
        if self.answer.has_finished or starts is self._is_open or body["index"] != self._blocks - (not starts):
            self._odd("an event out of order", body)
        self._is_open = body["type"] != "content_block_stop"
        self._blocks += starts
        piece = body.get("delta") or body.get("content_block") or {}
        is_piece = piece.get("type") == "tool_use" or any(piece.get(name) for name in ("text", "thinking"))
        self.answer.has_output = self.answer.has_output or is_piece

    def _finish(self, body: Mapping[str, Any]) -> None:
        if self._is_open or self.answer.has_finished or not body["delta"]["stop_reason"]:
            self._odd("a finish out of order", body)
        self.answer.has_finished = True
        self.answer.tokens = anthropic_tokens(body["usage"])

    def _stop(self, body: Mapping[str, Any]) -> None:
        if not self.answer.has_finished:
            self._odd("a last event without a finish reason", body)
        self.answer.is_done = True

    def _failed(self, error: dict[str, Any]) -> None:
        self.answer.error = error
        self.answer.code = code_of(error)

    def _check_envelope(self, body: Mapping[str, Any], error: Mapping[str, Any]) -> None:
        if error.get("type") != _TYPES.get(self.answer.status or 0):
            self._odd(f"another type than that of status {self.answer.status}", body)
        self._check_id(body)

    def _check_id(self, body: Mapping[str, Any]) -> None:
        if body.get("type") != "error" or body.get("request_id") != self.answer.request_id:
            self._odd("an error of another form, or of another request", body)


class ResponsesReader(ChatReader):
    """Reads responses. Clients take `response.completed` for the end; `[DONE]` follows it.

    The error of a failed stream has one of OpenAI's codes in place of ours.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self._sequence_number = 0
        self._has_last_line = False

    def event(self, name: str, data: str) -> None:
        if data != self.DONE:
            super().event(name, data)
            return
        if not self.answer.is_done or self._has_last_line:
            self._odd("[DONE] without a completed response", data)
        self._has_last_line = True

    def end(self) -> None:
        super().end()
        if self.answer.is_done is not self._has_last_line:
            self.answer.oddities.append("the stream ended in order without [DONE]")

    def _whole(self, body: Any) -> None:
        self._check_response(body, {"completed", "incomplete"})
        self.answer.tokens = responses_tokens(body.get("usage"))

    def _event(self, name: str, body: Any) -> None:
        if name != body["type"] or body["sequence_number"] != self._sequence_number:
            self._odd(f"expected {name!r} with the number {self._sequence_number}", body)
        if (self._sequence_number == 0) is not (name == "response.created"):
            self._odd("an event before the first, or a second first one", body)
        self._sequence_number += 1
        answer, last = self.answer, name.removeprefix("response.")
        if last in ("completed", "incomplete"):
            answer.is_done = answer.has_finished = True
            answer.tokens = responses_tokens(body["response"]["usage"])
            self._check_response(body["response"], {last})
        elif last == "failed":
            self._check_response(body["response"], {last})
            error = body["response"]["error"]
            answer.error = error
            answer.code = code_of(error) or error["code"]
        elif last == "error":
            self._odd("an event of another surface", body)
        answer.has_output = answer.has_output or (name.endswith(".delta") and bool(body["delta"]))

    def _check_response(self, response: Mapping[str, Any], statuses: set[str]) -> None:
        has_error = bool(response.get("error"))
        if response.get("object") != "response" or response.get("status") not in statuses:
            self._odd("another response", response)
        if has_error is not (response.get("status") == "failed") or not isinstance(response.get("output"), list):
            self._odd("a response that contradicts itself", response)


READERS: Mapping[Surface, type[ChatReader]] = {
    Surface.CHAT: ChatReader,
    Surface.CHAT_COMPLETIONS: ChatReader,
    Surface.COMPLETIONS: CompletionsReader,
    Surface.MESSAGES: MessagesReader,
    Surface.RESPONSES: ResponsesReader,
}
