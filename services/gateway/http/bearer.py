"""Whom an HTTP request comes from: the API key that it shows, and its client's address."""

from starlette.requests import Request

from services.common.errors import Unauthenticated

_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY). You can create one in the console under API Keys."
)


def bearer_token(request: Request) -> str:
    """Return the key of the `Authorization` header, which nobody has looked at yet.

    Raises:
        Unauthenticated: There is none.
    """
    scheme, _, api_key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not api_key.strip():
        raise Unauthenticated(_NO_KEY)
    return api_key.strip()


def client_address(request: Request) -> str:
    """Return the client's address, which forwarded headers of trusted proxies have told by now; empty for none."""
    return request.client.host if request.client else ""
