"""Content blocks as chat content parts. The blocks are valid."""

from collections.abc import Iterable
from typing import Any

from services.gateway.apis.translation.tool_results import ToolResult
from services.gateway.requests.types import JSONObject

_BILLING_HEADER = "x-anthropic-billing-header:"
"""Start of Claude Code's first system block, which changes with each request and is not meant for the model."""
_ERROR = "Error: "


def system_text(system: str | list[JSONObject] | None) -> str:
    """Return the `system` member as one text; empty if there is none."""
    blocks = [system] if isinstance(system, str) else [block["text"] for block in system or ()]
    return "\n\n".join(text for text in blocks if text and not text.startswith(_BILLING_HEADER))


def parts_of(content: str | list[JSONObject] | None) -> list[JSONObject]:
    """Return chat content parts, without empty texts and blocks of other types than text, image and document."""
    if not content:
        return []
    if isinstance(content, str):
        return [_text(content)]
    return [part for block in content for part in _parts_of_block(block)]


def content_of(parts: list[JSONObject]) -> str | list[JSONObject]:
    """Return parts as the content of a message: a string if there is at most one, and it is text."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return parts


def result_of(block: JSONObject) -> ToolResult:
    """Return a `tool_result` block as a tool result."""
    parts = parts_of(block.get("content"))
    texts = [part for part in parts if part["type"] == "text"]
    images = [part for part in parts if part["type"] != "text"]
    if block.get("is_error"):
        texts = _marked_as_error(texts)
    return ToolResult(block["tool_use_id"], content_of(texts), images)


def _marked_as_error(texts: list[JSONObject]) -> list[JSONObject]:
    first = texts[0]["text"] if texts else ""
    marked = first if first.startswith(_ERROR) else _ERROR + first
    return [_text(marked), *texts[1:]]


def _parts_of_block(block: JSONObject) -> Iterable[JSONObject]:
    match block["type"]:
        case "text":
            return [_text(block["text"])] if block["text"] else ()
        case "image":
            return [_image(block["source"])]
        case "document":
            return _document(block)
        case "search_result":
            return [_search_result(block)]
        case "tool_reference":
            return [_text(f"Tool {block['tool_name']} loaded.")]
        case "compaction":
            return parts_of(block.get("content"))
        case _:
            return ()


def _text(text: str) -> JSONObject:
    return {"type": "text", "text": text}


def _image(source: JSONObject) -> JSONObject:
    is_url = source["type"] == "url"
    url = source["url"] if is_url else f"data:{source['media_type']};base64,{source['data']}"
    return {"type": "image_url", "image_url": {"url": url}}


def _document(block: JSONObject) -> list[JSONObject]:
    source, title = block["source"], block.get("title")
    content: Any = source["data"] if source["type"] == "text" else source["content"]
    parts = parts_of(content)
    if title and parts and parts[0]["type"] == "text":
        return [_text(f"{title}\n\n{parts[0]['text']}"), *parts[1:]]
    return [_text(title), *parts] if title else parts


def _search_result(block: JSONObject) -> JSONObject:
    texts = (one["text"] for one in block["content"])
    return _text("\n".join(text for text in (block["title"], block["source"], *texts) if text))
