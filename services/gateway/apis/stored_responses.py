"""The endpoints of stored responses. They do not count against the limit."""

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from services.common.errors import ErrorDetails, InvalidRequest, NotFound
from services.gateway.apis.checks import refusal
from services.gateway.apis.responses.stored_response import StoredResponse, decode, is_response_id
from services.gateway.http.bearer import bearer_token, client_address
from services.gateway.http.redaction import redacted
from services.gateway.http.responses import json_response
from services.gateway.requests.ports import Authenticator, ResponseStore
from services.gateway.requests.types import JSONObject

_encode = msgspec.json.Encoder().encode
_PAGE_DEFAULT, _PAGE_MAX = 20, 100
_ORDERS = ("asc", "desc")
_FALSE = ("", "false", "0")
_NOT_STORED = (
    "This service does not store responses, as if each request had `store: false`. Send the whole conversation as "
    "`input`."
)


class StoredResponses:
    """The endpoints of stored responses. All of them answer 404 while responses are not stored."""

    def __init__(self, authenticator: Authenticator, store: ResponseStore) -> None:
        """Create the endpoints.

        Args:
            authenticator: Authenticates API keys.
            store: The responses.
        """
        self._authenticator = authenticator
        self._store = store

    async def one(self, request: Request) -> Response:
        """`GET` and `DELETE /api/v1/responses/{id}`: return or delete a response. Every POST is a 404."""
        account_id, name = await self._owned(request)
        if request.method == "DELETE":
            await self._store.delete(account_id, name)
            return json_response(_encode({"id": name, "object": "response", "deleted": True}))
        if request.query_params.get("stream", "").lower() not in _FALSE:
            message = (
                "Stored responses cannot be streamed, because their events are not stored. Leave out `stream` to get "
                "the whole response."
            )
            raise refusal(message, "stream", "unsupported_parameter")
        return json_response(bytes((await self._read(account_id, name)).response))

    async def input_items(self, request: Request) -> Response:
        """`GET /api/v1/responses/{id}/input_items`: list the items that a response was made from."""
        account_id, name = await self._owned(request)
        limit, order = _limit(request), _order(request)
        items = (await self._read(account_id, name)).input
        return json_response(_encode(_page(items, limit, order, request.query_params.get("after"))))

    async def _owned(self, request: Request) -> tuple[str, str]:
        """Return the ids of the caller's account and of the response.

        Raises:
            NotFound: The endpoint is one that stored responses do not have, they are not stored, or the id is not one
                of theirs.
            HTTPException: The URL is unknown.
        """
        principal = await self._authenticator.authenticate(bearer_token(request), address=client_address(request))
        path: str = request.path_params["id"]
        if request.method == "POST":
            raise _unsupported_endpoint(request.scope["path"])
        if "/" in path:
            raise HTTPException(404)
        if not await self._store.is_enabled():
            raise NotFound(f"{_not_found(path)} {_NOT_STORED}")
        if not is_response_id(path):
            raise NotFound(_not_found(path))
        return principal.account_id, path

    async def _read(self, account_id: str, name: str) -> StoredResponse:
        return decode(await self._store.get(account_id, name))


def _not_found(path: str) -> str:
    return f"Response with id '{redacted(path)}' not found."


def _unsupported_endpoint(path: str) -> NotFound:
    message = (
        f"{redacted(path)} is not available: responses cannot be compacted or cancelled here, nor their input tokens "
        "counted. Use POST /v1/responses, or /v1/messages/count_tokens to count tokens."
    )
    return NotFound(message, details=ErrorDetails(code="unsupported_endpoint"))


def _page(items: list[JSONObject], limit: int, order: str, after: str | None) -> JSONObject:
    listed = items if order == "asc" else items[::-1]
    ids = [item["id"] for item in listed]
    if after is not None and after not in ids:
        raise _invalid("after", "Expected the id of an item of this response.")
    start = 0 if after is None else ids.index(after) + 1
    page = listed[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(listed),
    }


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(_PAGE_DEFAULT))
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= _PAGE_MAX):
        raise _invalid("limit", f"Expected an integer from 1 to {_PAGE_MAX}.")
    return int(text)


def _order(request: Request) -> str:
    text = request.query_params.get("order", "desc")
    if text not in _ORDERS:
        raise _invalid("order", "Expected 'asc' or 'desc'.")
    return text


def _invalid(name: str, expected: str) -> InvalidRequest:
    return refusal(f"Invalid value for '{name}'. {expected}", name, "invalid_value")
