"""The API key that an HTTP request shows."""

from starlette.requests import Request

from services.common.errors import Unauthenticated

_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY). You can create one in the console under API Keys."
)


def shown_key(request: Request) -> str:
    """Return the key of the `Authorization` header, which nobody has looked at yet.

    Raises:
        Unauthenticated: There is none.
    """
    scheme, _, api_key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not api_key.strip():
        raise Unauthenticated(_NO_KEY)
    return api_key.strip()
