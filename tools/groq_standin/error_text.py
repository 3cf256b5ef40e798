"""Changes of error messages: length and invalid Unicode."""

from dataclasses import replace
from typing import Any

import msgspec

from tools.groq_standin.encodings import corrupt, unclean_pieces
from tools.groq_standin.errors import Refusal
from tools.groq_standin.script import LongMessage, Script
from tools.groq_standin.wire import document

_UNITS = {"ascii": "abcd efg ", "cjk": "日本語の文", "emoji": "🦔🚀"}
ALPHABETS = frozenset(_UNITS)
"""Alphabets of long messages."""


def altered_refusal(refusal: Refusal, script: Script) -> Refusal:
    """Return a refusal with the error text of the script. HTML pages are unchanged."""
    if not _is_altered(script) or refusal.is_from_edge:
        return refusal
    return replace(refusal, body=altered(msgspec.json.decode(refusal.body), script))


def altered(envelope: dict[str, Any], script: Script) -> bytes:
    """Return an error as JSON, with the error text of the script."""
    error = dict(envelope["error"])
    if script.long_message:
        error["message"] = _long(script.long_message)
    if script.unclean and script.unclean.where == "error":
        text = "".join(unclean_pieces(script.unclean.text))
        error |= {"message": f"Failed: {text}", "failed_generation": text}
    return corrupt(document({"error": error}))


def _is_altered(script: Script) -> bool:
    return script.long_message is not None or script.unclean is not None


def _long(message: LongMessage) -> str:
    """Return a text with the requested size in UTF-8, rounded down to a whole character."""
    unit = _UNITS[message.alphabet]
    times = message.size_bytes // len(unit.encode()) + 1
    return (unit * times).encode()[: message.size_bytes].decode(errors="ignore")
