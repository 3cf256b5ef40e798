"""Mutual TLS: which callers are admitted, and what a renewal changes."""

import asyncio
import gc
import signal
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import ValidationError

from services.common.errors import PermissionDenied, StartError, Unavailable
from services.common.rpc import health
from services.common.rpc.channel import open_channel
from services.common.rpc.server import GrpcServer
from services.common.rpc.status import from_rpc
from services.common.rpc.tls import Certificates, identity
from services.common.rpc.types import Context
from services.common.runtime.settings import ServiceSettings
from tests.certificates import Issued
from tests.integration.common.grpc_world import SERVICE, handlers, stream, unary
from tests.logs import service_records
from tests.ports import free_port

CALLERS = {SERVICE: (identity("gateway"),)}


class World:
    """An authority, and a server named `auth` that trusts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.server = Issued(folder, "auth").issue(self.authority)
        self.address = f"127.0.0.1:{free_port()}"
        self.behaviours: dict[str, Any] = {"echo": _echo, "stream_echo": _stream_echo}

    def caller(self, name: str) -> Issued:
        """Return a caller with a valid certificate."""
        return Issued(self.folder, name).issue(self.authority)

    @asynccontextmanager
    async def running(self, callers: Mapping[str, Sequence[str]] = CALLERS, **settings: Any) -> AsyncIterator[None]:
        """Run the server for the block."""
        options = {**self.files, **settings}
        server = GrpcServer(self.address, ServiceSettings(drain_seconds=0, grace_seconds=2, **options), callers=callers)
        server.grpc.add_generic_rpc_handlers((handlers(**self.behaviours),))
        async with server:
            task = asyncio.create_task(server.run([]))
            await _until_ready(health.default_health_address(self.address))
            yield
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(task, 10)

    @property
    def files(self) -> dict[str, Any]:
        """The settings that name the server's files."""
        names = ("tls_certificate_file", "tls_key_file", "tls_ca_file")
        return dict(zip(names, self.server.environment.values(), strict=True))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A separate authority and server for each test."""
    return World(tmp_path)


async def _echo(request: bytes, context: Context) -> bytes:
    return request


async def _stream_echo(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield request
    yield request


async def _until_ready(target: str) -> None:
    async with open_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        while (await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=10)).status != 1:
            await asyncio.sleep(0.01)


async def _refusal(channel: aio.Channel) -> Exception:
    with pytest.raises(aio.AioRpcError) as refused:
        await unary(channel, "echo")(b"", timeout=5)
    return from_rpc(refused.value, unavailable_reason="unreachable")


async def test_an_expected_caller_is_answered_in_calls_and_streams(world: World) -> None:
    async with world.running(), open_channel(world.address, world.caller("gateway").certificates, service="auth") as it:
        assert await unary(it, "echo")(b"hello", timeout=5) == b"hello"
        assert [part async for part in stream(it, "stream_echo")(b"hello", timeout=5)] == [b"hello", b"hello"]


async def test_streams_in_both_directions_are_open_to_expected_callers_only(world: World) -> None:
    async def talk(requests: AsyncIterator[bytes], context: Context) -> None:
        while (request := await context.read()) is not aio.EOF:
            await context.write(request)

    world.behaviours["talk_echo"] = talk
    async with world.running():
        for name, is_expected in (("gateway", True), ("quota", False)):
            async with open_channel(world.address, world.caller(name).certificates, service="auth") as channel:
                talking: Any = channel.stream_stream(f"/{SERVICE}/talk_echo")(timeout=5)
                if is_expected:
                    await talking.write(b"hello")
                    assert await talking.read() == b"hello"
                    await talking.done_writing()
                    assert await talking.read() is aio.EOF
                else:
                    with pytest.raises(aio.AioRpcError, match="PERMISSION_DENIED"):
                        await talking.read()


async def test_a_caller_with_another_identity_is_refused_by_name(world: World) -> None:
    certificates = world.caller("quota").certificates
    async with world.running(), open_channel(world.address, certificates, service="auth") as channel:
        refusal = await _refusal(channel)
        with pytest.raises(aio.AioRpcError, match="PERMISSION_DENIED"):
            await anext(aiter(stream(channel, "stream_echo")(b"", timeout=5)))

    assert isinstance(refusal, PermissionDenied)
    assert (refusal.reason, "quota.stack.internal" in refusal.message) == ("caller_not_expected", True)


@pytest.mark.parametrize(("caller", "is_answered"), [("gateway", True), ("quota", False)])
async def test_reflection_over_mtls_is_for_expected_callers_and_health_for_all_trusted_ones(
    world: World, caller: str, is_answered: bool
) -> None:
    certificates = world.caller(caller).certificates
    async with world.running(), open_channel(world.address, certificates, service="auth") as channel:
        health_stub: Any = health_pb2_grpc.HealthStub(channel)
        reflection_stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        assert (await health_stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status == 1
        with nullcontext() if is_answered else pytest.raises(aio.AioRpcError, match="PERMISSION_DENIED"):
            await anext(aiter(reflection_stub.ServerReflectionInfo(iter([asked]), timeout=5)))


async def test_an_operator_can_configure_further_callers(world: World) -> None:
    more = {SERVICE: [identity("billing")]}
    certificates = world.caller("billing").certificates
    async with world.running(tls_callers=more), open_channel(world.address, certificates, service="auth") as channel:
        assert await unary(channel, "echo")(b"hello", timeout=5) == b"hello"


async def test_a_service_without_configured_callers_refuses_all(world: World) -> None:
    certificates = world.caller("gateway").certificates
    callers = {"another.Service": (identity("gateway"),)}
    async with world.running(callers=callers), open_channel(world.address, certificates, service="auth") as channel:
        assert isinstance(await _refusal(channel), PermissionDenied)


async def test_callers_without_a_certificate_and_of_another_authority_get_no_connection(world: World) -> None:
    other = Issued(world.folder / "elsewhere", "gateway").issue(trustme.CA(), world.authority)
    roots = grpc.ssl_channel_credentials(world.authority.cert_pem.bytes())
    async with world.running():
        for channel in (
            open_channel(world.address),
            aio.secure_channel(world.address, roots, [("grpc.ssl_target_name_override", identity("auth"))]),
            open_channel(world.address, other.certificates, service="auth"),
        ):
            async with channel:
                assert isinstance(await _refusal(channel), Unavailable)


async def test_a_caller_refuses_a_service_with_another_identity(world: World) -> None:
    certificates = world.caller("gateway").certificates
    async with world.running(), open_channel(world.address, certificates, service="inference") as channel:
        assert isinstance(await _refusal(channel), Unavailable)


async def test_only_health_is_answered_without_a_certificate_and_only_on_its_own_port(world: World) -> None:
    async with world.running(), open_channel(health.default_health_address(world.address)) as channel:
        for name in ("", health.LIVENESS):
            stub: Any = health_pb2_grpc.HealthStub(channel)
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status == 1
        with pytest.raises(aio.AioRpcError, match="UNIMPLEMENTED"):
            await unary(channel, "echo")(b"", timeout=5)


async def test_a_starting_service_is_alive_and_not_ready(world: World) -> None:
    # Like the kubelet: our own channels follow health themselves and would not connect.
    async with (
        GrpcServer(world.address, ServiceSettings(**world.files)),
        aio.insecure_channel(health.default_health_address(world.address)) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answers = [
            (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status
            for name in ("", health.LIVENESS)
        ]
    assert answers == [health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING]


@pytest.mark.long
async def test_a_change_of_authority_needs_no_restart_and_ends_no_call(world: World) -> None:
    """The order of every rotation: trust both, reissue, trust the new one alone."""
    caller, old, new = world.caller("gateway"), world.authority, trustme.CA()
    left_behind = Issued(world.folder / "left", "gateway").issue(old)
    async with world.running(), open_channel(world.address, caller.certificates, service="auth") as channel:
        running = aiter(stream(channel, "stream_echo")(b"hello", timeout=30))
        assert await anext(running) == b"hello"
        for issued in (world.server, caller):
            issued.trust(old, new)
        await _answers_for(channel, 1.2)
        for issued in (world.server, caller):
            issued.issue(new, old, new)
        await _answers_for(channel, 1.2)
        for issued in (world.server, caller):
            issued.trust(new)
        await _answers_for(channel, 1.2)

        assert [part async for part in running] == [b"hello"]
        async with open_channel(world.address, left_behind.certificates, service="auth") as behind:
            assert isinstance(await _refusal(behind), Unavailable)


async def test_a_stream_outlives_the_channel_that_it_began_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch lasts for days; the channel of a renewed certificate is dropped after minutes."""
    monkeypatch.setattr("services.common.rpc.forwarding_channel._RETIRE_SECONDS", 0.1)
    monkeypatch.setattr("services.common.rpc.tls._CHECK_SECONDS", 0.0)
    caller, going_on = world.caller("gateway"), asyncio.Event()

    async def stream_slow(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        await going_on.wait()
        yield b"two"

    world.behaviours["stream_slow"] = stream_slow
    async with world.running(), open_channel(world.address, caller.certificates, service="auth") as channel:
        first = weakref.ref(channel.current())  # type: ignore[attr-defined]
        parts = aiter(stream(channel, "stream_slow")(b"", timeout=30))
        assert await anext(parts) == b"one"
        caller.issue(world.authority)
        assert await unary(channel, "echo")(b"hello", timeout=5) == b"hello"
        async with asyncio.timeout(5):
            while first() is not None:
                gc.collect()
                await asyncio.sleep(0.05)

        going_on.set()
        assert [part async for part in parts] == [b"two"]


async def _answers_for(channel: aio.Channel, seconds: float) -> None:
    """Check that all calls during a period succeed; the files are checked once a second."""
    ends = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < ends:
        assert await unary(channel, "echo")(b"hello", timeout=5) == b"hello"
        await asyncio.sleep(0.05)


def test_unusable_files_are_logged_once_and_again_when_they_break_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    issued = Issued(tmp_path, "auth").issue(trustme.CA())
    monkeypatch.setattr("services.common.rpc.tls._CHECK_SECONDS", 0)
    certificates = Certificates(issued.files)
    key = issued.files.key.read_bytes()
    for _ in range(2):
        issued.files.key.unlink()
        for _ in range(5):
            certificates.current()
        issued.files.key.write_bytes(key)
        certificates.current()
    reported = [record.getMessage() for record in service_records(caplog) if record.levelname == "WARNING"]
    assert reported == ["Cannot use the TLS files; keeping the current ones"] * 2


def test_partly_replaced_files_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    issued = Issued(tmp_path, "auth").issue(authority)
    monkeypatch.setattr("services.common.rpc.tls._CHECK_SECONDS", 0)
    certificates = Certificates(issued.files)
    first = certificates.current()

    key = issued.files.key.read_bytes()
    issued.issue(authority)
    new_key = issued.files.key.read_bytes()
    issued.files.key.write_bytes(key)
    assert certificates.current() is first
    issued.files.key.unlink()
    assert certificates.current() is first

    issued.files.key.write_bytes(new_key)
    assert certificates.current().key == new_key


def test_unusable_files_stop_the_start_with_a_sentence(tmp_path: Path) -> None:
    issued = Issued(tmp_path, "auth").issue(trustme.CA())
    issued.files.key.write_text("no key")

    with pytest.raises(StartError, match="Cannot use the TLS files"):
        Certificates(issued.files)


def test_an_incomplete_mtls_configuration_is_refused() -> None:
    with pytest.raises(ValidationError, match="Set all three or none"):
        ServiceSettings(tls_certificate_file="tls.crt")


@pytest.mark.parametrize("listen", ["[::]:50051", "0.0.0.0:50051", "10.0.0.7:50051"])
async def test_plaintext_beyond_this_machine_must_be_enabled_explicitly(listen: str) -> None:
    with pytest.raises(StartError, match="can be reached from other machines and TLS is not configured"):
        GrpcServer(listen, ServiceSettings())

    GrpcServer(listen, ServiceSettings(plaintext_allowed=True))


@pytest.mark.parametrize("listen", ["127.0.0.1:50051", "unix:/run/auth.sock", "localhost:50051", "[::1]:50051"])
async def test_plaintext_on_this_machine_needs_no_setting(listen: str) -> None:
    GrpcServer(listen, ServiceSettings())
