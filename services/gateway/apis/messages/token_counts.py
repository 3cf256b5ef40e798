"""`POST /v1/messages/count_tokens`: the tokens of a request, without sending it to a model.

The count is exact for texts if a tokenizer of the model is installed (tokenizers.py); what the model's chat template
adds is estimated. Estimates are rounded up, because clients that see too few tokens shorten the conversation too late.
"""

from collections.abc import Iterable

from msgspec.json import Encoder

from services.gateway.apis.messages.parameters import COUNT_REQUIRED
from services.gateway.apis.messages.request import chat_members, read_members
from services.gateway.apis.surface import Context, served_model
from services.gateway.apis.tokenizers import text_tokens
from services.gateway.apis.translation.tool_names import ToolNames
from services.gateway.requests.types import JSONObject

_encode = Encoder().encode
_IMAGE_TOKENS = 1_500
"""Estimate for an image. Models count 250 to 2,900 tokens, by its size."""
_MESSAGE_TOKENS = 6
"""Tokens that the chat template adds to each message, such as its role and end."""


def count_tokens(body: bytes, context: Context) -> bytes:
    """Return the JSON answer to a request to count tokens, which has the members of a message request.

    Raises:
        InvalidRequest: The body is not a valid request.
        NotFound: The model is one of Anthropic's, and no alias is set for it.
    """
    members = read_members(body, context, COUNT_REQUIRED)
    chat = chat_members(members, context, ToolNames())
    model = served_model(chat["model"], context.model(chat["model"]))
    return _encode({"input_tokens": _tokens(chat, model)})


def _tokens(chat: JSONObject, model: str) -> int:
    parts = [part for message in chat["messages"] for part in _parts(message)]
    images = sum(1 for part in parts if part["type"] != "text")
    texts = [part["text"] for part in parts if part["type"] == "text"]
    texts += [text for message in chat["messages"] for text in _other_texts(message)]
    texts += [_encode(tool["function"]).decode() for tool in chat.get("tools", ())]
    framing = _MESSAGE_TOKENS * (len(chat["messages"]) + len(chat.get("tools", ())))
    return text_tokens(model, "\n".join(texts)) + _IMAGE_TOKENS * images + framing


def _parts(message: JSONObject) -> list[JSONObject]:
    content: str | list[JSONObject] = message.get("content") or []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _other_texts(message: JSONObject) -> Iterable[str]:
    if message.get("reasoning"):
        yield message["reasoning"]
    for call in message.get("tool_calls", ()):
        yield call["function"]["name"]
        yield call["function"]["arguments"]
