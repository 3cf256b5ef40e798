"""gRPC client for the services: addresses, credentials and error messages."""

import asyncio
import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
from grpc import aio
from pydantic import ValidationError

from services.cli.failures import Failure, Unreachable
from services.cli.usage_errors import Mistake
from services.common.errors import InvalidRequest, ServiceError, StartError
from services.common.rpc.channel import open_channel
from services.common.rpc.status import rpc_errors
from services.common.rpc.tls import Certificates
from services.common.runtime.settings import TLSSettings

CALL_SECONDS_MAX = 5.0
_OPERATOR_CHARACTERS_MAX, _TOKEN_CHARACTERS_MAX = 200, 1_024
"""Keeps the metadata below gRPC's limit of 8 KB."""
_UNREACHABLE_REASON = "unreachable"

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True, slots=True)
class Service:
    """A service to call."""

    name: str
    target: str
    """gRPC target, such as `127.0.0.1:50051` or `dns:///auth.stack.svc:50051`."""
    setting: str
    """Environment variable that sets the target, for error messages."""
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    """gRPC metadata of each call."""


@dataclass(frozen=True, slots=True)
class Backends:
    """Addresses of the services, from the command line and the environment."""

    auth_target: str
    quota_target: str
    inference_target: str
    data_dir: Path

    def auth(self) -> Service:
        """Return the auth service, with the admin token that its management API requires.

        Raises:
            Failure: There is no usable token.
        """
        metadata = (("authorization", f"Bearer {_admin_token(self.data_dir)}"), *_operator(_operator_name()))
        return Service("auth", self.auth_target, "AUTH_TARGET", metadata)

    def any_auth(self) -> Service:
        """Return the auth service, for calls that need no admin token."""
        return Service("auth", self.auth_target, "AUTH_TARGET")

    def quota(self) -> Service:
        """Return the quota service."""
        return Service("quota", self.quota_target, "QUOTA_TARGET")

    def inference(self) -> Service:
        """Return the inference service."""
        return Service("inference", self.inference_target, "INFERENCE_TARGET")


class Connection:
    """A connection to a service, for several calls."""

    def __init__(self, service: Service, channel: aio.Channel, runner: asyncio.Runner) -> None:
        """Call `service` over `channel`, which was opened in `runner`."""
        self._service = service
        self._channel = channel
        self._runner = runner

    def call(
        self,
        method: Callable[[aio.Channel], "aio.UnaryUnaryMultiCallable[Request, Response]"],
        request: Request,
        *,
        timeout_seconds: float = CALL_SECONDS_MAX,
    ) -> Response:
        """Make a call and return its response; see `call`."""

        async def run() -> Response:
            with rpc_errors(unavailable_reason=_UNREACHABLE_REASON):
                return await method(self._channel)(request, timeout=timeout_seconds, metadata=self._service.metadata)

        try:
            return self._runner.run(run())
        except ServiceError as exc:
            raise _failure(self._service, exc) from exc


@contextmanager
def connected(service: Service) -> Iterator[Connection]:
    """Yield a connection to a service.

    Raises:
        Failure: The certificates cannot be used.
    """
    certificates = _certificates()

    async def opened() -> aio.Channel:
        return await stack.enter_async_context(open_channel(service.target, certificates, service=service.name))

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield Connection(service, runner.run(opened()), runner)
        finally:
            runner.run(stack.aclose())


def call(
    service: Service,
    method: Callable[[aio.Channel], "aio.UnaryUnaryMultiCallable[Request, Response]"],
    request: Request,
    *,
    timeout_seconds: float = CALL_SECONDS_MAX,
) -> Response:
    """Make a call and return its response.

    Args:
        service: The service to call.
        method: Returns the RPC of a channel, for example `lambda channel: KeyServiceStub(channel).GetKey`.
        request: The request message.
        timeout_seconds: Deadline of the call.

    Raises:
        Failure: The call was rejected or failed. It is a `Mistake` if the request was invalid.
        Unreachable: The service did not respond in time.
    """
    with connected(service) as connection:
        return connection.call(method, request, timeout_seconds=timeout_seconds)


def _certificates() -> Certificates | None:
    try:
        return TLSSettings().certificates()
    except ValidationError as exc:
        mistake = exc.errors()[0]
        raise Failure(f"setting {mistake['loc'][0]}: {mistake['msg'].removeprefix('Value error, ')}") from exc
    except StartError as exc:
        raise Failure(str(exc)) from exc


def _failure(service: Service, error: ServiceError) -> Failure:
    if error.reason == _UNREACHABLE_REASON:
        return Unreachable(
            f"The {service.name} service does not respond at {service.target}. Start it, or set {service.setting} to "
            "its address."
        )
    cause = error.__cause__
    if isinstance(cause, aio.AioRpcError) and cause.code() is grpc.StatusCode.UNIMPLEMENTED:
        return Failure(
            f"The service at {service.target} does not know this command: it is an earlier version of {service.name}, "
            f"or another service. Update it, or set {service.setting} to the address of {service.name}."
        )
    return Mistake(error.message) if isinstance(error, InvalidRequest) else Failure(error.message)


def _operator(name: str) -> tuple[tuple[str, str | bytes], ...]:
    """Return the metadata with the operator's name for the audit log.

    Text in metadata is ASCII. A name with other characters is also sent as bytes, which an older auth ignores.
    """
    text = ("stack-operator", name.encode("ascii", "replace").decode())
    return (text,) if name.isascii() else (text, ("stack-operator-bin", name.encode("utf-8", "replace")))


def _operator_name() -> str:
    name = os.environ.get("STACK_OPERATOR", "").strip()
    if not name:
        try:
            name = getpass.getuser()
        except (OSError, KeyError):  # A container's user may have no name.
            name = str(os.getuid())
    return "".join(character for character in name if character.isprintable())[:_OPERATOR_CHARACTERS_MAX]


def _admin_token(data_dir: Path) -> str:
    token = os.environ.get("STACK_ADMIN_TOKEN", "").strip() or _token_from_file(data_dir / "admin-token")
    if not (token.isascii() and token.isprintable()):
        raise Failure("The admin token has characters that are not printable ASCII. Check STACK_ADMIN_TOKEN.")
    if len(token) > _TOKEN_CHARACTERS_MAX:
        raise Failure(f"The admin token has over {_TOKEN_CHARACTERS_MAX:,} characters. Check STACK_ADMIN_TOKEN.")
    return token


def _token_from_file(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        problem = exc.strerror if isinstance(exc, OSError) else "not text"
        raise Failure(
            f"There is no admin token: STACK_ADMIN_TOKEN is not set, and {path} cannot be read ({problem}). "
            "Set STACK_ADMIN_TOKEN or DATA_DIR."
        ) from exc
    if not token:
        raise Failure(
            f"There is no admin token: STACK_ADMIN_TOKEN is not set, and {path} is empty. Set STACK_ADMIN_TOKEN."
        )
    return token
