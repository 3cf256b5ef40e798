"""gRPC service KeyService: management of API keys by operators."""

from services.auth import messages
from services.auth.accounts.model import checked_reference
from services.auth.callers import AdminToken
from services.auth.keys.manager import KeyManager
from services.auth.keys.verifier import KeyVerifier
from services.common.errors import InvalidRequest
from services.common.ids import Kind
from services.common.rpc.types import Context
from stack.auth.v1 import keys_pb2, keys_pb2_grpc

_TEXT_CHARACTERS_MAX = 100


class KeyService(keys_pb2_grpc.KeyServiceServicer):
    """Manages API keys for operators."""

    def __init__(self, key_manager: KeyManager, verifier: KeyVerifier, *, admin_token: AdminToken) -> None:
        self._key_manager = key_manager
        self._verifier = verifier
        self._admin_token = admin_token

    async def CreateKey(self, request: keys_pb2.CreateKeyRequest, context: Context) -> keys_pb2.CreateKeyResponse:
        """Create a key. Only this response contains its secret."""
        operator = self._admin_token.require(context)
        key, secret = await self._key_manager.create(
            checked_reference(request.email),
            request.name,
            by=operator,
            daily_limit=request.daily_limit if request.HasField("daily_limit") else None,
            expires_at=messages.moment(request, "expires_at"),
            models=request.models,
            limits=messages.limits(request.limits),
            deduplicate_retries=request.deduplicate_retries,
        )
        return keys_pb2.CreateKeyResponse(key=messages.key(key), secret=secret)

    async def GetKey(self, request: keys_pb2.GetKeyRequest, context: Context) -> keys_pb2.GetKeyResponse:
        """Return a key."""
        self._admin_token.require(context)
        return keys_pb2.GetKeyResponse(
            key=messages.key(await self._key_manager.store.get(messages.key_id(request.key_id)))
        )

    async def ListKeys(self, request: keys_pb2.ListKeysRequest, context: Context) -> keys_pb2.ListKeysResponse:
        """Return a page of an account's keys, oldest first."""
        self._admin_token.require(context)
        listed = await self._key_manager.store.of_account(
            checked_reference(request.email),
            after=messages.cursor(request.after, "after", Kind.KEY),
            limit=messages.page_size(request.page_size),
        )
        return keys_pb2.ListKeysResponse(keys=[messages.key(key) for key in listed])

    async def FindKeys(self, request: keys_pb2.FindKeysRequest, context: Context) -> keys_pb2.FindKeysResponse:
        """Find keys by id, name, visible start of the secret, or secret."""
        self._admin_token.require(context)
        page_size = messages.page_size(request.page_size)
        if bool(request.text) == bool(request.secret) or len(request.text) > _TEXT_CHARACTERS_MAX:
            raise InvalidRequest(
                f"Give either a text of 1 to {_TEXT_CHARACTERS_MAX} characters or a secret to find.",
                reason="invalid_search",
            )
        if request.secret:
            key = await self._verifier.find(request.secret)
            return keys_pb2.FindKeysResponse(keys=[messages.key(key)] if key else [])
        if not request.text.isprintable():
            raise InvalidRequest("The text to find has characters that no name has.", reason="invalid_search")
        found = await self._key_manager.store.search(request.text, limit=page_size)
        return keys_pb2.FindKeysResponse(keys=[messages.key(key) for key in found])

    async def RenameKey(self, request: keys_pb2.RenameKeyRequest, context: Context) -> keys_pb2.RenameKeyResponse:
        """Rename a key."""
        operator = self._admin_token.require(context)
        key = await self._key_manager.rename(messages.key_id(request.key_id), request.name, by=operator)
        return keys_pb2.RenameKeyResponse(key=messages.key(key))

    async def RevokeKey(self, request: keys_pb2.RevokeKeyRequest, context: Context) -> keys_pb2.RevokeKeyResponse:
        """Revoke a key permanently."""
        operator = self._admin_token.require(context)
        key = await self._key_manager.revoke(messages.key_id(request.key_id), by=operator)
        return keys_pb2.RevokeKeyResponse(key=messages.key(key))

    async def SetKeyLimit(self, request: keys_pb2.SetKeyLimitRequest, context: Context) -> keys_pb2.SetKeyLimitResponse:
        """Set a key's own daily limit; without one, restore its plan's."""
        operator = self._admin_token.require(context)
        daily_limit = request.daily_limit if request.HasField("daily_limit") else None
        key = await self._key_manager.set_limit(messages.key_id(request.key_id), daily_limit, by=operator)
        return keys_pb2.SetKeyLimitResponse(key=messages.key(key))

    async def ChangeKeyLimits(
        self, request: keys_pb2.ChangeKeyLimitsRequest, context: Context
    ) -> keys_pb2.ChangeKeyLimitsResponse:
        """Change a key's own limits."""
        operator = self._admin_token.require(context)
        key_id = messages.key_id(request.key_id)
        if (changes := messages.limit_changes(request.limits, request.removed_limits)) is None:
            raise InvalidRequest("There is no limit to change. Set limits or removed_limits.", reason="invalid_limit")
        key = await self._key_manager.change_limits(key_id, changes, by=operator)
        return keys_pb2.ChangeKeyLimitsResponse(key=messages.key(key))

    async def SetKeyDeduplication(
        self, request: keys_pb2.SetKeyDeduplicationRequest, context: Context
    ) -> keys_pb2.SetKeyDeduplicationResponse:
        """Set whether automatic retries of SDKs are deduplicated."""
        operator = self._admin_token.require(context)
        key = await self._key_manager.set_deduplication(
            messages.key_id(request.key_id), deduplicate_retries=request.deduplicate_retries, by=operator
        )
        return keys_pb2.SetKeyDeduplicationResponse(key=messages.key(key))

    async def RotateKey(self, request: keys_pb2.RotateKeyRequest, context: Context) -> keys_pb2.RotateKeyResponse:
        """Replace a key with a new one. Only this response contains its secret."""
        operator = self._admin_token.require(context)
        new, secret, replaced = await self._key_manager.rotate(
            messages.key_id(request.key_id), request.grace_seconds, by=operator
        )
        return keys_pb2.RotateKeyResponse(key=messages.key(new), secret=secret, replaced=messages.key(replaced))
