"""LiteLLM's custom authentication: one key with every limit that LiteLLM enforces without a database."""

from fastapi import Request
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

_KEY = "sk-bench"
_LIMIT = 1_000_000_000


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Return the key and its limits, none of which is reached."""
    if api_key != _KEY:
        raise ProxyException("Unknown key.", type="invalid_request_error", param="api_key", code=401)
    return UserAPIKeyAuth(
        api_key=_KEY,
        user_id="bench",
        rpm_limit=_LIMIT,
        tpm_limit=_LIMIT,
        tpd_limit=_LIMIT,
        max_parallel_requests=100_000,
        user_rpm_limit=_LIMIT,
        user_tpm_limit=_LIMIT,
    )
