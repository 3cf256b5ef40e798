"""gRPC servicer of stored responses."""

import re

from services.common.errors import InvalidRequest
from services.common.rpc.types import Context
from services.inference.ledger.checks import check_required_id
from services.inference.responses.model import ResponseStore, enabled
from stack.inference.v1 import responses_pb2, responses_pb2_grpc

_RESPONSE_ID = re.compile(r"resp_[0-9A-Za-z]{1,64}")


class StoredResponseService(responses_pb2_grpc.StoredResponseServiceServicer):
    """Stores, returns and deletes responses."""

    def __init__(self, store: ResponseStore | None) -> None:
        """Use `store`; None means that responses are not stored."""
        self._store = store

    async def GetStatus(
        self, request: responses_pb2.GetStatusRequest, context: Context
    ) -> responses_pb2.GetStatusResponse:
        """Return whether responses are stored."""
        if self._store is not None:
            await self._store.check()
        return responses_pb2.GetStatusResponse(enabled=self._store is not None)

    async def StoreResponse(
        self, request: responses_pb2.StoreResponseRequest, context: Context
    ) -> responses_pb2.StoreResponseResponse:
        """Store a response."""
        await self._checked(request.account_id, request.response_id).store(
            request.account_id, request.response_id, request.content
        )
        return responses_pb2.StoreResponseResponse()

    async def GetResponse(
        self, request: responses_pb2.GetResponseRequest, context: Context
    ) -> responses_pb2.GetResponseResponse:
        """Return a response."""
        store = self._checked(request.account_id, request.response_id)
        return responses_pb2.GetResponseResponse(content=await store.get(request.account_id, request.response_id))

    async def DeleteResponse(
        self, request: responses_pb2.DeleteResponseRequest, context: Context
    ) -> responses_pb2.DeleteResponseResponse:
        """Delete a response."""
        await self._checked(request.account_id, request.response_id).delete(request.account_id, request.response_id)
        return responses_pb2.DeleteResponseResponse()

    async def DeleteResponses(
        self, request: responses_pb2.DeleteResponsesRequest, context: Context
    ) -> responses_pb2.DeleteResponsesResponse:
        """Delete all responses of an account."""
        await self._checked(request.account_id).delete_account(request.account_id)
        return responses_pb2.DeleteResponsesResponse()

    def _checked(self, account_id: str, response_id: str | None = None) -> ResponseStore:
        """Return the store for a call with valid ids.

        Raises:
            InvalidRequest: An id is invalid.
            FailedPrecondition: Responses are not stored.
        """
        store = enabled(self._store)
        check_required_id("account_id", account_id)
        if response_id is not None and not _RESPONSE_ID.fullmatch(response_id):
            raise InvalidRequest("response_id: expected `resp_` and letters and digits")
        return store
