"""Creation of the first account and API key of a new installation, over gRPC."""

import os
from pathlib import Path
from typing import Any

from services.common.errors import AlreadyExists, StartError
from services.common.rpc.channel import open_channel
from services.common.rpc.status import rpc_errors
from services.common.runtime.private_files import open_private
from services.local.first_account import EMAIL, FILE, FirstKey
from stack.auth.v1 import accounts_pb2, accounts_pb2_grpc, auth_pb2, auth_pb2_grpc, keys_pb2, keys_pb2_grpc

CALL_OPTIONS: dict[str, Any] = {"timeout": 30.0, "wait_for_ready": True}
"""Options of calls to auth: wait up to 30 seconds for a worker that is not ready yet."""


async def first_key(data_dir: Path, *, auth_target: str, admin_token: str) -> FirstKey:
    """Return the first key. It is created on the first start and stored in a file that only its owner can read.

    Raises:
        ServiceError: A call to auth failed.
        StartError: The file cannot be written.
    """
    path = data_dir / FILE
    if not path.exists():
        _write(path, await _create(auth_target, admin_token))
    secret = path.read_text(encoding="ascii", errors="replace").strip()
    return FirstKey(secret, denial=await _denial(auth_target, secret))


async def _create(auth_target: str, admin_token: str) -> str:
    metadata = (("authorization", f"Bearer {admin_token}"),)
    async with open_channel(auth_target) as channel:
        accounts = accounts_pb2_grpc.AccountServiceStub(channel)
        keys = keys_pb2_grpc.KeyServiceStub(channel)
        try:
            with rpc_errors(unavailable_reason="auth_unavailable"):
                account = accounts_pb2.CreateAccountRequest(email=EMAIL)
                await accounts.CreateAccount(account, metadata=metadata, **CALL_OPTIONS)
        except AlreadyExists:
            pass  # The key's file was removed. The account keeps its keys and gets another one.
        with rpc_errors(unavailable_reason="auth_unavailable"):
            key = keys_pb2.CreateKeyRequest(email=EMAIL, name="first key")
            return (await keys.CreateKey(key, metadata=metadata, **CALL_OPTIONS)).secret


async def _denial(auth_target: str, secret: str) -> str:
    async with open_channel(auth_target) as channel:
        with rpc_errors(unavailable_reason="auth_unavailable"):
            request = auth_pb2.AuthenticateRequest(api_key=secret)
            answer = await auth_pb2_grpc.AuthServiceStub(channel).Authenticate(request, **CALL_OPTIONS)
    if answer.WhichOneof("outcome") == "principal":
        return ""
    return auth_pb2.DenialReason.Name(answer.denial.reason).removeprefix("DENIAL_REASON_").lower()


def _write(path: Path, secret: str) -> None:
    try:
        descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secret + "\n")
    except OSError as exc:
        raise StartError(f"Cannot write {path}: {exc.strerror}. Set DATA_DIR to a writable folder.") from exc
