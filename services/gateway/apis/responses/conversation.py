"""Chat messages, built item by item. Consecutive items of the assistant become one message."""

import msgspec

from services.common.errors import ErrorDetails, InvalidRequest
from services.gateway.apis.responses.tools import ToolKey, ToolTable
from services.gateway.apis.translation.tool_results import ToolResult, tool_messages
from services.gateway.http.redaction import redacted
from services.gateway.requests.types import JSONObject

_encode = msgspec.json.Encoder().encode
_THINK, _END_THINK = "<think>\n", "\n</think>"


class Conversation:
    """The messages of one request.

    Reasoning, text and calls of the assistant go into one message, which ends at the next message of another role or
    at a tool output. Consecutive tool outputs are one run.
    """

    def __init__(self, table: ToolTable) -> None:
        """Create an empty conversation. `table` has the names of the tools that its calls use."""
        self._table = table
        self._messages: list[JSONObject] = []
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[JSONObject] = []
        self._results: list[ToolResult] = []
        self._call_ids: set[str] = set()

    def add_message(self, role: str, content: str | list[JSONObject]) -> None:
        """Add a message of any role except the assistant."""
        self._end_assistant()
        self._end_results()
        self._messages.append({"role": role, "content": content})

    def add_text(self, text: str) -> None:
        """Add a text of the assistant. A text that is only thinking in tags, as pydantic-ai sends it, is reasoning."""
        self._end_results()
        thinking = _thinking(text)
        if thinking:
            self._reasoning.append(thinking)
        elif text:
            self._texts.append(text)

    def add_reasoning(self, text: str) -> None:
        """Add reasoning of the assistant. It is dropped if neither text nor a call follows or precedes it."""
        self._end_results()
        if text:
            self._reasoning.append(text)

    def add_call(self, call_id: str, key: ToolKey, arguments: str) -> None:
        """Add a tool call of the assistant. `arguments` is a JSON text."""
        self._end_results()
        self._call_ids.add(call_id)
        function = {"name": self._table.name(key), "arguments": arguments}
        self._calls.append({"id": call_id, "type": "function", "function": function})

    def add_custom_call(self, call_id: str, key: ToolKey, text: str) -> None:
        """Add a call of a custom tool, whose input is a text."""
        self.add_call(call_id, key, _encode({"input": text}).decode())

    def add_result(self, result: ToolResult) -> None:
        """Add a tool output.

        Raises:
            InvalidRequest: No call has its id.
        """
        if result.call_id not in self._call_ids:
            message = f"No tool call found for function call output with call_id {redacted(result.call_id)}."
            raise InvalidRequest(message, details=ErrorDetails(param="input"))
        self._end_assistant()
        self._results.append(result)

    def end(self) -> list[JSONObject]:
        """Return the messages."""
        self._end_assistant()
        self._end_results()
        return self._messages

    def _end_assistant(self) -> None:
        if self._texts or self._calls:
            message: JSONObject = {"role": "assistant"}
            message |= {"content": "\n".join(self._texts)} if self._texts else {}
            message |= {"reasoning": "\n".join(self._reasoning)} if self._reasoning else {}
            message |= {"tool_calls": self._calls} if self._calls else {}
            self._messages.append(message)
        self._texts, self._reasoning, self._calls = [], [], []

    def _end_results(self) -> None:
        if self._results:
            self._messages += tool_messages(self._results)
            self._results = []


def _thinking(text: str) -> str:
    """Return the thinking of a text that is wholly inside one pair of tags; empty if it is not."""
    if not text.startswith(_THINK):
        return ""
    thinking, end, rest = text.removeprefix(_THINK).partition(_END_THINK)
    return thinking if end and not rest.strip() else ""
