"""Paths and names from requests, made fit for logs and error texts: bounded, and without what may be a secret.

People paste API keys where an id belongs, and a client with a broken base URL puts them into the path.
"""

import re
from collections.abc import Mapping

_CHARACTERS_MAX = 200
_MASK = "****"
_OWN_ID = r"(?:req|key|acc)_[0-9A-Z]{26}(?![0-9A-Za-z])"
_KEY = r"(?<![0-9A-Za-z])(?:sk|gsk|pk|rk|xai)[-_][0-9A-Za-z_-]{4,}"
_RANDOM = r"[0-9A-Za-z]{20,}"
"""A run of letters and digits as long as no word is: a token, or the part of one that is not escaped."""
_SECRETS = re.compile(f"({_OWN_ID})|{_KEY}|{_RANDOM}", re.IGNORECASE)


def redacted(text: str) -> str:
    """Return `text` cut to 200 characters, with everything that looks like a key or token masked; our own ids stay."""
    # A secret that is cut in two at the end would be too short to be seen as one.
    shown = _SECRETS.sub(lambda match: match[1] or _MASK, text[: 4 * _CHARACTERS_MAX])
    return shown if len(shown) <= _CHARACTERS_MAX else shown[:_CHARACTERS_MAX] + "…"


def loggable_path(path: str, parameters: Mapping[str, str]) -> str:
    """Return a request's path with the names of its route's parameters in place of their values, and redacted."""
    for name, value in parameters.items():
        before, found, after = path.rpartition(str(value))
        if found:
            path = f"{before}{{{name}}}{after}"
    return redacted(path)
