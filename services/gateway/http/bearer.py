"""The API key and client address of a request."""

from starlette.requests import Request

from services.common.errors import Unauthenticated

_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY). You can create one in the console under API Keys."
)


def bearer_token(request: Request) -> str:
    """Return the API key in the `Authorization` header, or else in Anthropic's `x-api-key`, without validating it.

    Raises:
        Unauthenticated: There is no API key.
    """
    scheme, _, api_key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and api_key.strip():
        return api_key.strip()
    api_key = request.headers.get("x-api-key", "").strip()
    if not api_key:
        raise Unauthenticated(_NO_KEY)
    return api_key


def client_address(request: Request) -> str:
    """Return the client's address, with forwarded headers of trusted proxies already applied; empty if unknown."""
    return request.client.host if request.client else ""
