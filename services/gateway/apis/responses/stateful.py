"""Responses requests while the operator may have switched on the storage of responses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.common.errors import ErrorDetails, InvalidRequest, NotFound, TooLarge
from services.common.rpc.sizes import MESSAGE_BYTES_MAX
from services.gateway.apis.responses.input_items import is_reasoning, item_not_found, item_type
from services.gateway.apis.responses.limits import check_input_limits
from services.gateway.apis.responses.parameters import STORED_PARAMETERS, check_parameters, previous_not_found
from services.gateway.apis.responses.renderer import ResponsesRenderer
from services.gateway.apis.responses.request import (
    input_items,
    parse_members,
    read_members,
    renderer_of,
    translated,
)
from services.gateway.apis.responses.stored_response import (
    StoredResponse,
    decode,
    encode,
    input_item,
    is_response_id,
    response_id,
    response_of_item,
)
from services.gateway.apis.surface import Context
from services.gateway.requests.ports import ResponseStore
from services.gateway.requests.surface import SurfaceRequest
from services.gateway.requests.types import JSONObject, Principal

_RESPONSES_READ_MAX = 64
"""Maximum stored responses that one request reads. Clients that refer to items need one, since a response contains the
items of those before it."""

_CONTENT_BYTES_MAX = MESSAGE_BYTES_MAX - 1_024
"""Maximum size of what is stored: a gRPC message without the ids."""


class StatefulParser:
    """Parses Responses requests, and stores their answers if the operator has switched it on."""

    def __init__(self, store: ResponseStore, context: Callable[[], Context], *, bytes_max: int) -> None:
        """Create a parser.

        Args:
            store: Stores responses.
            context: Returns what a parser may know.
            bytes_max: Maximum size of a body and the stored responses that it refers to.
        """
        self._store = store
        self._context = context
        self._bytes_max = bytes_max

    async def __call__(self, body: bytes, principal: Principal) -> SurfaceRequest:
        """Parse a body. The storage is checked before the request is counted, unless it needs none.

        Raises:
            InvalidRequest: The body is not a valid request, or the previous response is not stored.
            NotFound: An item refers to an item that is not stored.
            Unavailable: The storage is needed and cannot be used.
        """
        context = self._context()
        members = read_members(body, context)
        if not _needs_storage(members) or not await self._store.is_enabled():
            return parse_members(members, context, body_bytes=len(body))
        check_parameters(members, STORED_PARAMETERS)
        reader = _Reader(self._store, principal.account_id, self._bytes_max - len(body))
        earlier = await reader.conversation(members.get("previous_response_id"))
        items = await reader.resolved(input_items(members))
        check_input_limits({"input": earlier + items}, context.limits)
        size = len(body) + reader.bytes_read
        chat, table = translated(members, items, context, body_bytes=size, stored_items=earlier)
        is_stored = members.get("store", True)
        renderer = renderer_of(members, table, context, is_stored=is_stored)
        answer = _Answer(self._store, principal.account_id, renderer, earlier, items)
        return SurfaceRequest(chat, renderer, answer.store if is_stored else None)


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer that will be stored."""

    responses: ResponseStore
    account_id: str
    renderer: ResponsesRenderer
    earlier: list[JSONObject]
    items: list[JSONObject]

    async def store(self) -> None:
        """Store the answer, unless it was cut."""
        response, suffix = self.renderer.close(), self.renderer.id_suffix
        if response is None:
            return
        content = encode(response, self.earlier + self._own_items(suffix))
        if len(content) > _CONTENT_BYTES_MAX:
            message = f"The response is larger than {_CONTENT_BYTES_MAX:,} bytes with its input, and cannot be stored."
            raise TooLarge(f'{message} Send "store": false, or a shorter input.')
        await self.responses.store(self.account_id, response_id(suffix), content)

    def _own_items(self, suffix: str) -> list[JSONObject]:
        """Return the items of the request's input, with an id that no other item of the conversation has."""
        taken = {item["id"] for item in self.earlier}
        own = []
        for index, item in enumerate(self.items):
            if item_type(item) != "item_reference":
                own.append(input_item(item, index, suffix, taken=taken))
                taken.add(own[-1]["id"])
        return own


@dataclass(slots=True)
class _Reader:
    """Reads the stored responses that one request refers to."""

    store: ResponseStore
    account_id: str
    bytes_left: int
    bytes_read: int = 0
    _responses: dict[str, StoredResponse | None] = field(default_factory=dict)

    async def conversation(self, previous: str | None) -> list[JSONObject]:
        """Return the items of a response and of those before it.

        Raises:
            InvalidRequest: It is not stored, or too large.
        """
        if previous is None:
            return []
        stored = await self._read(previous)
        if stored is None:
            raise previous_not_found(previous)
        return stored.items

    async def resolved(self, items: Sequence[JSONObject]) -> list[JSONObject]:
        """Return items with the stored ones in place of references. References to lost reasoning stay.

        Raises:
            InvalidRequest: The items are of too many responses, or of too large ones.
            NotFound: An item is not stored.
        """
        references = [item["id"] for item in items if item_type(item) == "item_reference"]
        found: dict[str, JSONObject] = {}
        searched: set[str] = set()
        # The latest response contains the items of the responses before it.
        for item_id in reversed(references):
            response = response_of_item(item_id) or ""
            if item_id not in found and response not in searched:
                searched.add(response)
                stored = await self._read(response)
                found |= {item["id"]: item for item in stored.items} if stored else {}
            if item_id not in found and not is_reasoning(item_id):
                raise item_not_found(item_id)
        return [found.get(item["id"], item) if item_type(item) == "item_reference" else item for item in items]

    async def _read(self, name: str) -> StoredResponse | None:
        if not is_response_id(name):
            return None
        if name not in self._responses:
            self._responses[name] = await self._fetched(name)
        return self._responses[name]

    async def _fetched(self, name: str) -> StoredResponse | None:
        if len(self._responses) >= _RESPONSES_READ_MAX:
            raise _too_large(f"The input refers to more than {_RESPONSES_READ_MAX} stored responses.")
        try:
            content = await self.store.get(self.account_id, name)
        except NotFound:
            return None
        self.bytes_read += len(content)
        if self.bytes_read > self.bytes_left:
            raise _too_large("The input and the stored responses that it refers to are too large.")
        return decode(content)


def _needs_storage(members: JSONObject) -> bool:
    if members.get("store") is not False or "previous_response_id" in members:
        return True
    items = members.get("input")
    return isinstance(items, list) and any(
        isinstance(one, dict) and item_type(one) == "item_reference" for one in items
    )


def _too_large(message: str) -> InvalidRequest:
    remedy = " Send a shorter conversation as `input`, without references."
    return InvalidRequest(message + remedy, details=ErrorDetails(param="input", code="context_length_exceeded"))
