"""The auth service over gRPC, as the console and operators call it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
from grpc import aio

from services.common.rpc.channel import open_channel
from stack.auth.v1 import accounts_pb2, keys_pb2, owner_pb2, sessions_pb2
from stack.auth.v1.account_sessions_pb2_grpc import AccountSessionServiceStub
from stack.auth.v1.accounts_pb2_grpc import AccountServiceStub
from stack.auth.v1.audit_pb2_grpc import AuditServiceStub
from stack.auth.v1.auth_pb2_grpc import AuthServiceStub
from stack.auth.v1.keys_pb2_grpc import KeyServiceStub
from stack.auth.v1.mail_pb2_grpc import MailServiceStub
from stack.auth.v1.owner_pb2_grpc import OwnerServiceStub
from stack.auth.v1.plans_pb2_grpc import PlanServiceStub
from stack.auth.v1.sessions_pb2_grpc import SessionServiceStub
from tests.integration.auth_process import ADMIN_TOKEN, Metadata

PASSWORD = "correct horse battery"
ADDRESS = "192.0.2.7"


@dataclass(frozen=True, slots=True)
class AuthAPI:
    """Typed stubs of all of auth's services on one channel."""

    auth: AuthServiceStub
    accounts: AccountServiceStub
    keys: KeyServiceStub
    plans: PlanServiceStub
    audit: AuditServiceStub
    sessions: SessionServiceStub
    owner: OwnerServiceStub
    mail: MailServiceStub
    account_sessions: AccountSessionServiceStub

    async def sign_up(self, email: str, *, password: str = PASSWORD, address: str = ADDRESS) -> str:
        """Create an account and return its first session's token."""
        request = sessions_pb2.SignUpRequest(email=email, password=password)
        return (await self.sessions.SignUp(request, metadata=from_address(address))).session.token

    async def log_in(self, email: str, *, password: str = PASSWORD, address: str = ADDRESS, replaced: str = "") -> str:
        """Open a session and return its token."""
        request = sessions_pb2.LogInRequest(email=email, password=password, replaced_token=replaced)
        return (await self.sessions.LogIn(request, metadata=from_address(address))).session.token

    async def device(self, email: str, *, password: str = PASSWORD, address: str = ADDRESS) -> str:
        """Log in and return the token of the device."""
        request = sessions_pb2.LogInRequest(email=email, password=password)
        return (await self.sessions.LogIn(request, metadata=from_address(address))).session.device_token

    async def log_in_with(self, device_token: str, email: str, *, password: str = PASSWORD, address: str) -> str:
        """Open a session from a known device and return its token."""
        request = sessions_pb2.LogInRequest(email=email, password=password, device_token=device_token)
        return (await self.sessions.LogIn(request, metadata=from_address(address))).session.token

    async def session(self, token: str) -> sessions_pb2.Session:
        """Return the account of a session token."""
        return (await self.sessions.GetSession(sessions_pb2.GetSessionRequest(token=token))).session

    async def create_key(self, token: str, name: str = "laptop") -> owner_pb2.CreateOwnKeyResponse:
        """Create a key as its owner."""
        return await self.owner.CreateOwnKey(owner_pb2.CreateOwnKeyRequest(name=name), metadata=bearer(token))

    async def create_key_for(self, email: str, **fields: object) -> keys_pb2.CreateKeyResponse:
        """Create a key as an operator."""
        return await self.keys.CreateKey(keys_pb2.CreateKeyRequest(email=email, **fields), metadata=bearer())  # type: ignore[arg-type]

    async def open_account(self, email: str) -> accounts_pb2.Account:
        """Create an account as an operator."""
        request = accounts_pb2.CreateAccountRequest(email=email)
        return (await self.accounts.CreateAccount(request, metadata=bearer())).account


def bearer(token: str = ADMIN_TOKEN) -> Metadata:
    """Return the metadata with a token."""
    return (("authorization", f"Bearer {token}"),)


def from_address(address: str) -> Metadata:
    """Return the metadata with which a gateway passes its client's address."""
    return (("stack-client-address", address),)


@asynccontextmanager
async def auth_api_of(target: str) -> AsyncIterator[AuthAPI]:
    """Yield stubs on a channel that is closed at the end of the block."""
    async with open_channel(target) as channel:
        yield AuthAPI(
            AuthServiceStub(channel),
            AccountServiceStub(channel),
            KeyServiceStub(channel),
            PlanServiceStub(channel),
            AuditServiceStub(channel),
            SessionServiceStub(channel),
            OwnerServiceStub(channel),
            MailServiceStub(channel),
            AccountSessionServiceStub(channel),
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call was refused."""

    code: grpc.StatusCode
    message: str


async def refusal(call: object) -> Refusal:
    """Return how a call is refused; it must be."""
    with pytest.raises(aio.AioRpcError) as raised:
        await call  # type: ignore[misc]
    return Refusal(raised.value.code(), raised.value.details() or "")
