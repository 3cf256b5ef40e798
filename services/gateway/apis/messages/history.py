"""The messages of a request as chat messages."""

from itertools import count

from msgspec.json import Encoder

from services.gateway.apis.checks import refusal
from services.gateway.apis.messages.content import content_of, parts_of, result_of
from services.gateway.apis.translation.reasoning import ReasoningDecoder
from services.gateway.apis.translation.tool_names import ToolNames
from services.gateway.apis.translation.tool_results import ToolResult, tool_messages
from services.gateway.http.redaction import redacted
from services.gateway.requests.types import JSONObject

_encode = Encoder().encode
_Content = str | list[JSONObject] | None


class History:
    """Chat messages, built from valid messages in one pass.

    Attributes:
        messages: Chat messages.
        loaded: Names of deferred tools that the conversation has loaded.
        removed: Names of tools that the conversation has removed.
        defined: Tools that the conversation has defined.
    """

    def __init__(self, names: ToolNames[str]) -> None:
        self.messages: list[JSONObject] = []
        self.loaded: set[str] = set()
        self.removed: set[str] = set()
        self.defined: list[JSONObject] = []
        self._names = names
        self._reasoning = ReasoningDecoder()
        self._calls: dict[str, int] = {}
        """Number of the last tool call with each id. Some models use the same ids in each turn."""
        self._numbers = count()
        self._results: list[ToolResult] = []
        """Results since the last other message."""

    def add_all(self, messages: list[JSONObject]) -> None:
        """Add the messages of a request.

        Raises:
            InvalidRequest: A tool result belongs to no tool call.
        """
        last_user = max((index for index, one in enumerate(messages) if one["role"] == "user"), default=-1)
        for index, message in enumerate(messages):
            content = message.get("content")
            if message["role"] == "user":
                self._add_user(f"messages[{index}].content", content)
            elif message["role"] == "assistant":
                self._add_assistant(content)
            else:
                is_cleared = message.get("clear_at") == "next_user_message" and index < last_user
                self._add_system(content, is_shown=not is_cleared)
        self._flush()

    def _add_user(self, path: str, content: _Content) -> None:
        blocks: list[JSONObject] = content if isinstance(content, list) else []
        results = [(index, block) for index, block in enumerate(blocks) if block["type"] == "tool_result"]
        for index, block in results:
            self._add_result(f"{path}[{index}].tool_use_id", block)
        parts = parts_of([one for one in blocks if one["type"] != "tool_result"] if results else content)
        if parts or not results:
            self._append({"role": "user", "content": content_of(parts)})

    def _add_result(self, path: str, block: JSONObject) -> None:
        call_id = block["tool_use_id"]
        if call_id not in self._calls:
            text = (
                f"{path}: unexpected `tool_use_id` found in `tool_result` blocks: {redacted(call_id)}. "
                "Each `tool_result` block must have a corresponding `tool_use` block in a previous message."
            )
            raise refusal(text, path, "tool_use_not_found")
        self._results.append(result_of(block))
        content = block.get("content")
        if isinstance(content, list):
            self.loaded.update(one["tool_name"] for one in content if one["type"] == "tool_reference")

    def _add_assistant(self, content: _Content) -> None:
        blocks: list[JSONObject] = content if isinstance(content, list) else []
        parts = parts_of(content)
        reasoning = "\n".join(filter(None, (self._thinking(one) for one in blocks if one["type"] == "thinking")))
        calls = [self._call(one) for one in blocks if one["type"] == "tool_use"]
        if not (parts or reasoning or calls):
            return
        message: JSONObject = {"role": "assistant", "content": content_of(parts) if parts or not calls else None}
        if reasoning:
            message["reasoning"] = reasoning
        if calls:
            message["tool_calls"] = calls
        self._append({name: value for name, value in message.items() if value is not None})

    def _thinking(self, block: JSONObject) -> str | None:
        return block.get("thinking") or self._reasoning.decode(block.get("signature"))

    def _call(self, block: JSONObject) -> JSONObject:
        self._calls[block["id"]] = next(self._numbers)
        function = {
            "name": self._names.add(block["name"], block["name"]),
            "arguments": _encode(block["input"]).decode(),
        }
        return {"id": block["id"], "type": "function", "function": function}

    def _add_system(self, content: _Content, *, is_shown: bool) -> None:
        self._change_tools(content)
        parts = parts_of(content) if is_shown else []
        if parts:
            self._append({"role": "system", "content": content_of(parts)})

    def _change_tools(self, content: _Content) -> None:
        for block in content if isinstance(content, list) else ():
            if block["type"] == "tool_addition":
                self._add_tool(block["tool"])
            elif block["type"] == "tool_removal":
                self.removed.add(_name_of(block["tool"]))

    def _add_tool(self, tool: JSONObject) -> None:
        if tool["type"] == "tool_definition":
            self.defined.append(tool["definition"])
        self.loaded.add(_name_of(tool))
        self.removed.discard(_name_of(tool))

    def _append(self, message: JSONObject) -> None:
        self._flush()
        self.messages.append(message)

    def _flush(self) -> None:
        """Append the results since the last other message, in the order of their calls."""
        if self._results:
            self._results.sort(key=lambda result: self._calls[result.call_id])
            self.messages += tool_messages(self._results)
            self._results = []


def _name_of(tool: JSONObject) -> str:
    name: str = tool["definition"]["name"] if tool["type"] == "tool_definition" else tool["name"]
    return name
