"""Error messages for invalid API keys."""

from services.common.errors import Unauthenticated

_REMEDY = "You can find and create API keys in the console under API Keys."
_MESSAGES = {
    "revoked": f"This API key has been revoked: {{key}}. {_REMEDY}",
    "expired": f"This API key has expired: {{key}}. {_REMEDY}",
    "suspended": "The account of this API key is suspended: {key}. Contact the operator of this service.",
    "paused": "This API key is paused: {key}. Its owner can resume it in the console under API Keys.",
}
_STREAM_ENDED = f"This API key has been revoked, or its account suspended: {{key}}. {_REMEDY}"
_INCORRECT = f"Incorrect API key provided: {{key}}. {_REMEDY}"


def refused(api_key: str, reason: str) -> Unauthenticated:
    """Return the error for a key that is `malformed`, `unknown`, `revoked`, `expired`, `paused` or `suspended`."""
    return _error(api_key, reason, _MESSAGES.get(reason, _INCORRECT))


def stream_refused(api_key: str) -> Unauthenticated:
    """Return the error for streams of a key that was revoked, or whose account was suspended."""
    return _error(api_key, "revoked", _STREAM_ENDED)


def _error(api_key: str, reason: str, message: str) -> Unauthenticated:
    return Unauthenticated(message.format(key=_masked(api_key)), reason=reason)


def _masked(api_key: str) -> str:
    """Return the first 7 and last 4 characters of a key, for its owner to recognise it."""
    shown = api_key.isascii() and api_key.isprintable() and len(api_key) > 20
    return f"{api_key[:7]}****{api_key[-4:]}" if shown else "****"
