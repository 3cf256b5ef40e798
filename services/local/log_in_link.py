"""One-time link to choose the password of the first account, which is created without one."""

from services.common.errors import NotFound
from services.common.rpc.channel import open_channel
from services.common.rpc.status import rpc_errors
from services.local.first_key import CALL_OPTIONS
from stack.auth.v1 import accounts_pb2, accounts_pb2_grpc


async def log_in_link(email: str, *, auth_target: str, admin_token: str) -> str:
    """Return a link that is valid once, for an hour; empty if a link was used before or the account was deleted.

    Using a link verifies the account's e-mail, so an unverified e-mail means that no link was used.

    Raises:
        ServiceError: A call to auth failed.
    """
    metadata = (("authorization", f"Bearer {admin_token}"),)
    async with open_channel(auth_target) as channel:
        stub = accounts_pb2_grpc.AccountServiceStub(channel)
        try:
            with rpc_errors(unavailable_reason="auth_unavailable"):
                asked = accounts_pb2.GetAccountRequest(account=email)
                account = (await stub.GetAccount(asked, metadata=metadata, **CALL_OPTIONS)).account
        except NotFound:
            return ""
        if account.HasField("email_verified_at"):
            return ""
        with rpc_errors(unavailable_reason="auth_unavailable"):
            reset = accounts_pb2.CreatePasswordResetRequest(account=account.id)
            return (await stub.CreatePasswordReset(reset, metadata=metadata, **CALL_OPTIONS)).url
