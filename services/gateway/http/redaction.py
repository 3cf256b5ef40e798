"""Redaction of paths and names from requests, for logs and error messages.

Users paste API keys in place of ids, and clients with a wrong base URL put them into the path.
"""

import re
from collections.abc import Mapping

from services.gateway.http.paths import CHAT_PATHS

_CHARACTERS_MAX = 200
_MASK = "****"
_OWN_ID = r"(?:req|key|acc|resp|msg|rs|fc|ctc)_[0-9A-Z]{26}(?![0-9A-Za-z])"
_KEY = r"(?<![0-9A-Za-z])(?:sk|gsk|pk|rk|xai)[-_][0-9A-Za-z_-]{4,}"
_RANDOM = r"[0-9A-Za-z]{20,}"
"""A run of letters and digits that is too long for a word: a token, or a part of one without escaped characters."""
_SECRETS = re.compile(f"({_OWN_ID})|{_KEY}|{_RANDOM}", re.IGNORECASE)


def redacted(text: str) -> str:
    """Return `text` with everything that looks like a key or token masked, truncated to 200 characters.

    Public ids of requests, keys, accounts, responses and their items are kept.
    """
    # Mask before truncating: a truncated secret would be too short to be detected.
    shown = _SECRETS.sub(lambda match: match[1] or _MASK, text[: 4 * _CHARACTERS_MAX])
    return shown if len(shown) <= _CHARACTERS_MAX else shown[:_CHARACTERS_MAX] + "…"


def loggable_path(path: str, parameters: Mapping[str, str]) -> str:
    """Return a redacted path, with path parameters replaced by their names."""
    if not parameters and path in CHAT_PATHS:
        return path
    for name, value in parameters.items():
        before, found, after = path.rpartition(str(value))
        if found:
            path = f"{before}{{{name}}}{after}"
    return redacted(path)
