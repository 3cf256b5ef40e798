"""What the holder of an API key is told that is no good."""

from services.common.errors import Unauthenticated

_REMEDY = "You can find and create API keys in the console under API Keys."
_MESSAGES = {
    "revoked": f"This API key has been revoked: {{key}}. {_REMEDY}",
    "expired": f"This API key has expired: {{key}}. {_REMEDY}",
}
_INCORRECT = f"Incorrect API key provided: {{key}}. {_REMEDY}"


def refused(api_key: str, reason: str) -> Unauthenticated:
    """Return the refusal of a key that is `malformed`, `unknown`, `revoked` or `expired`."""
    return Unauthenticated(_MESSAGES.get(reason, _INCORRECT).format(key=_masked(api_key)), reason=reason)


def _masked(api_key: str) -> str:
    """Return as much of a key as its owner needs to recognise it, and no more."""
    shown = api_key.isascii() and api_key.isprintable() and len(api_key) > 20
    return f"{api_key[:7]}****{api_key[-4:]}" if shown else "****"
