"""Paths of the API: their aliases, what belongs to the console instead, and the route label of metrics."""

import re

_ALIAS = re.compile(
    # Without a prefix, paths such as `/key`, `/usage` and `/messages` are not paths of the API.
    r"(?:/api/v1|/openai/v1|/v1)*"
    r"(/chat|/chat/completions|/models(?:/.+)?"
    r"|(?<=/v1)/(?:key|usage(?:/[^/]+(?:/jws)?)?|completions|(?:responses|messages|images)(?:/.+)?|embeddings|moderations))"
)
KEY_SET_PATH = "/.well-known/jwks.json"
_API_ROOTS = frozenset((".well-known", "api", "v1", "openai", "healthz", "readyz"))
_ENDPOINTS = frozenset(("chat", "completions", "messages", "responses", "models", "key", "usage", "openapi.json"))
_CHATS = {
    f"{prefix}/{name}": f"/api/v1/{name}"
    for prefix in ("/api/v1", "/openai/v1", "/v1")
    for name in ("chat", "chat/completions", "completions", "messages", "responses")
}
"""Canonical paths of nearly all requests, by their usual aliases."""
CHAT_PATHS = frozenset(_CHATS.values())
_LABELED_ROOTS = frozenset(("static", "healthz", "readyz", "playground"))


def canonical_path(path: str) -> str:
    """Return the path `/api/v1/…` of which `path` is an alias, or else `path` itself.

    The aliases are `/v1`, `/openai/v1`, no prefix (only for chats and models), a repeated prefix and a trailing
    slash, since clients expect different base URLs.
    """
    if canonical := _CHATS.get(path):
        return canonical
    match = _ALIAS.fullmatch(path.rstrip("/"))
    return f"/api/v1{match[1]}" if match else path


def is_api_path(path: str) -> bool:
    """Return whether a canonical path belongs to the API. All other paths belong to the console."""
    return path[1:].partition("/")[0] in _API_ROOTS


def route_of(path: str) -> str:
    """Return the route label of a canonical path.

    Paths of the API get the name of their endpoint, or `unknown` if there is none. All other paths get `console`.
    """
    root, _, rest = path[1:].partition("/")
    if root in _LABELED_ROOTS:
        return root
    if path == KEY_SET_PATH:
        return "jwks"
    if root not in _API_ROOTS:
        return "console"
    version, _, rest = rest.partition("/")
    endpoint = rest.partition("/")[0]
    return endpoint if root == "api" and version == "v1" and endpoint in _ENDPOINTS else "unknown"
