"""Content of input items: text, images and text files, as chat content."""

import binascii
from base64 import b64decode
from typing import Any

from services.gateway.apis.checks import Rule, Schema, array_of, by_type, record, refusal, string, unsupported
from services.gateway.http.redaction import redacted
from services.gateway.requests.types import JSONObject

_DETAILS = {"auto": "auto", "low": "low", "high": "high", "original": "high"}
_NO_FILE_IDS = "files are not stored; send the content in the request"
_TEXT_PART = record({"text": string}, required=["text"])
_REFUSAL_PART = record({"refusal": string}, required=["refusal"])
_IMAGE_PART = record({"image_url": string, "detail": string}, required=["image_url"])
_FILE_PART = record({"file_data": string, "filename": string}, required=["file_data"])
_TEXT = {"input_text": _TEXT_PART, "output_text": _TEXT_PART, "text": _TEXT_PART}
_ASSISTANT = {**_TEXT, "refusal": _REFUSAL_PART}
_ALL = {**_TEXT, "input_image": _IMAGE_PART, "input_file": _FILE_PART}
_NOT_READ = {
    "input_audio": "the models do not accept audio",
    "input_video": "the models do not accept video",
    "file_url": "files are not fetched; send the text as `file_data`",
    "file_id": _NO_FILE_IDS,
}
_TYPED = record({"type": string}, required=["type"])
_TEXT_MEDIA_TYPES = ("text/", "application/json")


def _part_rule(rules: dict[str, Rule]) -> Rule:
    def check(path: str, part: Any) -> None:
        _TYPED(path, part)
        rule = rules.get(part["type"])
        if rule is None:
            raise _unknown_part(path, part["type"], list(rules))
        for name in ("file_id", "file_url"):
            if name in part and part[name] is not None and rules is _ALL:
                raise unsupported(f"{path}.{name}", _NOT_READ[name])
        rule(path, part)

    return Rule(check, {"anyOf": [_part_schema(name, rule) for name, rule in rules.items()]})


def _unknown_part(path: str, part_type: str, known: list[str]) -> Exception:
    if part_type in _NOT_READ:
        return unsupported(f"{path}.type", _NOT_READ[part_type])
    listed = ", ".join(f"'{name}'" for name in known)
    text = f"Invalid value: '{redacted(part_type)}'. Supported values are: {listed}."
    return refusal(text, f"{path}.type", "invalid_value")


def _part_schema(name: str, rule: Rule) -> Schema:
    properties = {"type": {"const": name}, **rule.schema["properties"]}
    if name in ("input_image", "input_file"):
        properties |= {"file_id": {"type": "null"}, "file_url": {"type": "null"}}
    return {**rule.schema, "properties": properties, "required": ["type", *rule.schema["required"]]}


def _content(rules: dict[str, Rule]) -> Rule:
    parts = array_of(_part_rule(rules), "an array of objects")
    return by_type("one of a string or array of objects", {str: string, list: parts})


CONTENT = _content(_ALL)
"""The rule for a user's content and for tool outputs."""
TEXT_CONTENT = _content(_TEXT)
"""The rule for content of system and developer messages."""
ASSISTANT_CONTENT = _content(_ASSISTANT)
"""The rule for content of assistant messages."""


def chat_content(path: str, content: str | list[JSONObject]) -> str | list[JSONObject]:
    """Return checked content as chat content; a single text becomes a string.

    Raises:
        InvalidRequest: A file is not text.
    """
    if isinstance(content, str):
        return content
    parts = [_chat_part(f"{path}[{index}]", part) for index, part in enumerate(content)]
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return parts


def assistant_text(content: str | list[JSONObject]) -> str:
    """Return the text of a checked assistant message, whose parts follow each other immediately."""
    if isinstance(content, str):
        return content
    return "".join(part["refusal"] if part["type"] == "refusal" else part["text"] for part in content)


def output_content(path: str, output: str | list[JSONObject]) -> tuple[str, list[JSONObject]]:
    """Return the text of a checked tool output, and its images as chat parts.

    Raises:
        InvalidRequest: A file is not text.
    """
    if isinstance(output, str):
        return output, []
    parts = [_chat_part(f"{path}[{index}]", part) for index, part in enumerate(output)]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join(texts), [part for part in parts if part["type"] != "text"]


def _chat_part(path: str, part: JSONObject) -> JSONObject:
    if part["type"] == "input_image":
        detail = _DETAILS.get(part.get("detail") or "")
        return {"type": "image_url", "image_url": {"url": part["image_url"]} | ({"detail": detail} if detail else {})}
    text = _file_text(f"{path}.file_data", part) if part["type"] == "input_file" else part["text"]
    return {"type": "text", "text": text}


def _file_text(path: str, part: JSONObject) -> str:
    """Return the text of a file under its name. `file_data` is a data URL."""
    head, separator, data = part["file_data"].partition(",")
    media_type = head.removeprefix("data:").split(";")[0].strip().lower()
    if not separator or not head.endswith(";base64") or not media_type.startswith(_TEXT_MEDIA_TYPES):
        raise unsupported(path, "only text files are supported, as `data:text/plain;base64,…`")
    try:
        text = b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError) as exc:
        raise refusal(f"Invalid '{path}': expected UTF-8 text in base64.", path, "invalid_value") from exc
    return f"{part.get('filename') or 'File'}:\n{text}"
