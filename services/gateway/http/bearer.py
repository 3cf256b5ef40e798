"""The API key and client address of a request."""

from starlette.requests import Request

from services.common.errors import Unauthenticated

_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY). You can create one in the console under API Keys."
)


def bearer_token(request: Request) -> str:
    """Return the API key in the `Authorization` header, without validating it.

    Raises:
        Unauthenticated: The header is missing or has no bearer token.
    """
    scheme, _, api_key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not api_key.strip():
        raise Unauthenticated(_NO_KEY)
    return api_key.strip()


def client_address(request: Request) -> str:
    """Return the client's address, with forwarded headers of trusted proxies already applied; empty if unknown."""
    return request.client.host if request.client else ""
