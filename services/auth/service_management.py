"""AccountService and KeyService: what operators, the console and `stackctl` ask."""

import hmac
from datetime import UTC, datetime

from services.auth import accounts, keys
from services.auth.accounts import AccountStore
from services.auth.changes import ChangeFeed
from services.auth.keys import Key, KeyId, KeyStore
from services.auth.pepper import Pepper
from services.auth.service import timestamp
from services.common.clock import Clock
from services.common.errors import PermissionDenied, Unauthenticated
from services.common.rpc import Context
from stack.auth.v1 import accounts_pb2, accounts_pb2_grpc, keys_pb2, keys_pb2_grpc

_SCHEME = "Bearer "


class AdminToken:
    """What callers of the management API must show."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def demand(self, context: Context) -> None:
        """Return when the call carries the token.

        Raises:
            Unauthenticated: The call carries none.
            PermissionDenied: The call carries another.
        """
        shown = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not isinstance(shown, str) or not shown.startswith(_SCHEME):
            raise Unauthenticated(
                "this call needs the metadata `authorization: Bearer STACK_ADMIN_TOKEN`", reason="admin_token_missing"
            )
        if not hmac.compare_digest(shown.removeprefix(_SCHEME).encode(), self._token):
            raise PermissionDenied(
                "the admin token is wrong; use the STACK_ADMIN_TOKEN that auth was started with",
                reason="admin_token_wrong",
            )


class AccountService(accounts_pb2_grpc.AccountServiceServicer):
    """Manages accounts."""

    def __init__(self, store: AccountStore, *, admin_token: AdminToken, clock: Clock) -> None:
        self._store = store
        self._admin_token = admin_token
        self._clock = clock

    async def CreateAccount(
        self, request: accounts_pb2.CreateAccountRequest, context: Context
    ) -> accounts_pb2.CreateAccountResponse:
        """Open an account on the free plan."""
        self._admin_token.demand(context)
        account = accounts.open_account(request.email, now=_now(self._clock))
        await self._store.add(account)
        message = accounts_pb2.Account(
            id=account.id, email=account.email, plan=account.plan, created_at=timestamp(account.created_at)
        )
        return accounts_pb2.CreateAccountResponse(account=message)


class KeyService(keys_pb2_grpc.KeyServiceServicer):
    """Manages keys, and tells the feed of changes so that watchers of this process learn of them at once."""

    def __init__(
        self, store: KeyStore, *, feed: ChangeFeed, pepper: Pepper, admin_token: AdminToken, clock: Clock
    ) -> None:
        self._store = store
        self._feed = feed
        self._pepper = pepper
        self._admin_token = admin_token
        self._clock = clock

    async def CreateKey(self, request: keys_pb2.CreateKeyRequest, context: Context) -> keys_pb2.CreateKeyResponse:
        """Mint a key; the answer alone holds its secret."""
        self._admin_token.demand(context)
        daily_limit = request.daily_limit if request.HasField("daily_limit") else None
        minted = keys.mint(request.name, daily_limit=daily_limit, pepper=self._pepper, clock=self._clock)
        key = await self._store.add(accounts.normalised_email(request.email), minted.key)
        self._feed.kick()
        return keys_pb2.CreateKeyResponse(key=_message(key), secret=minted.secret)

    async def GetKey(self, request: keys_pb2.GetKeyRequest, context: Context) -> keys_pb2.GetKeyResponse:
        """Read one key."""
        self._admin_token.demand(context)
        return keys_pb2.GetKeyResponse(key=_message(await self._store.get(KeyId(request.key_id))))

    async def ListKeys(self, request: keys_pb2.ListKeysRequest, context: Context) -> keys_pb2.ListKeysResponse:
        """List an account's keys, oldest first."""
        self._admin_token.demand(context)
        listed = await self._store.of_account(accounts.normalised_email(request.email))
        return keys_pb2.ListKeysResponse(keys=[_message(key) for key in listed])

    async def RevokeKey(self, request: keys_pb2.RevokeKeyRequest, context: Context) -> keys_pb2.RevokeKeyResponse:
        """End a key for good."""
        self._admin_token.demand(context)
        key = await self._store.revoke(KeyId(request.key_id), at=_now(self._clock))
        self._feed.kick()
        return keys_pb2.RevokeKeyResponse(key=_message(key))

    async def SetKeyLimit(self, request: keys_pb2.SetKeyLimitRequest, context: Context) -> keys_pb2.SetKeyLimitResponse:
        """Give a key a limit of its own, or its plan's."""
        self._admin_token.demand(context)
        daily_limit = keys.checked_limit(request.daily_limit if request.HasField("daily_limit") else None)
        key = await self._store.set_limit(KeyId(request.key_id), daily_limit)
        self._feed.kick()
        return keys_pb2.SetKeyLimitResponse(key=_message(key))


def _message(key: Key) -> keys_pb2.Key:
    return keys_pb2.Key(
        id=key.id,
        account_id=key.account_id,
        name=key.name,
        prefix=key.prefix,
        daily_limit=key.daily_limit,
        created_at=timestamp(key.created_at),
        revoked_at=timestamp(key.revoked_at),
        expires_at=timestamp(key.expires_at),
    )


def _now(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.now(), UTC)
