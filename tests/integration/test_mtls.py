"""The four services over mTLS, as in a cluster: separate certificates and ports, each with a health port."""

import contextlib
import itertools
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
from google.protobuf.empty_pb2 import Empty
from grpc import aio

from services.common.rpc import health
from services.common.rpc.channel import open_channel
from services.common.rpc.status import from_rpc
from services.common.rpc.tls import identity
from services.local.supervisor import ready
from tests.certificates import Issued
from tests.e2e.stack import EMAIL, Stack, bare_environment, say, stack_folder
from tests.forked import run_module
from tests.grpc_health import grpc_serves
from tests.permissions import ADMIN_TOKEN, OPERATOR, REASONS, SERVERS, SESSION, permissions
from tests.ports import free_port

pytestmark = pytest.mark.xdist_group("mtls")

_ROOT = Path(__file__).parents[2]
_TOKEN = "an-admin-token-for-tests"
_NAMES = ("gateway", "auth", "quota", "inference", "stackctl", "operator-console", "billing")
_RPCS = permissions()


class Secured(Stack):
    """A stack whose services use mTLS on ports of the loopback address."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, gateways=1, environment={"STACK_ADMIN_TOKEN": _TOKEN})
        self.authority = trustme.CA()
        self.callers = {name: Issued(folder, name).issue(self.authority) for name in _NAMES}
        self.targets = {name: f"127.0.0.1:{_free_pair()}" for name in SERVERS}
        self.environment |= {f"{name.upper()}_TARGET": target for name, target in self.targets.items()}
        for name in ("gateway", *SERVERS):
            own = self.callers[name].environment
            listen = {f"{name.upper()}_LISTEN": self.targets[name]} if name in self.targets else {}
            self.own["gateway-1" if name == "gateway" else name] = own | listen

    def channel(self, caller: str, server: str) -> aio.Channel:
        """Return a caller's channel to a service."""
        return open_channel(self.targets[server], self.callers[caller].certificates, service=server)

    def stackctl(self, *arguments: str) -> str:
        """Run a command as an operator would, and return its output."""
        environment = bare_environment() | self.environment | self.callers["stackctl"].environment
        done = run_module("services.cli", *arguments, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    async def _until_one_ready(self, name: str) -> None:
        if name in self.targets:
            await ready.until(lambda: grpc_serves(health.default_health_address(self.targets[name])))
        else:
            await super()._until_one_ready(name)


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    """One stack for all tests."""
    with stack_folder() as folder:
        stack = Secured(folder)
        try:
            stack.start_all()
            stack.stackctl("accounts", "create", "--email", EMAIL)
            yield stack
        finally:
            stack.stop_all()


def _free_pair() -> int:
    """Return a port whose health port is available as well."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port + health.PORT_OFFSET)):
            return port


async def _outcome(channel: aio.Channel, service: str, method: Any, *metadata: tuple[str, str]) -> str:
    """Call a method with an empty request and return the reason of its failure; empty when it succeeds."""
    path, empty = f"/{service}/{method.name}", Empty().SerializeToString()
    if method.client_streaming:
        call: Any = channel.stream_stream(path, bytes, bytes)(timeout=5, metadata=metadata)
        await call.done_writing()
    else:
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        call = kind(path, bytes, bytes)(empty, timeout=5, metadata=metadata)
    try:
        await (anext(aiter(call), None) if method.server_streaming else call)
    except aio.AioRpcError as exc:
        return from_rpc(exc, unavailable_reason="no connection").reason
    finally:
        call.cancel()
    return ""


async def test_a_chat_is_answered_counted_and_settled_over_mtls(secured: Secured) -> None:
    secret = secured.stackctl("keys", "create", "--email", EMAIL, "--name", "test").split()
    key = next(word for word in secret if word.startswith("sk_stk_"))
    async with httpx.AsyncClient(base_url=secured.base_url, headers={"Authorization": f"Bearer {key}"}) as client:
        assert (await client.post("/v1/chat/completions", json=say("hello"), timeout=20)).status_code == 200
        today = (await client.get("/api/v1/key", timeout=20)).json()
    assert "1" in str(today)
    assert "agree" in secured.stackctl("verify")


@pytest.mark.parametrize("caller", _NAMES)
async def test_every_rpc_is_refused_to_every_unexpected_identity(secured: Secured, caller: str) -> None:
    """The admin token is sent each time: with it alone, a compromised gateway could create keys."""
    wrong = []
    for server, rpcs in itertools.groupby(_RPCS, key=lambda rpc: rpc.server):
        async with secured.channel(caller, server) as channel:
            for rpc in rpcs:
                outcome = await _outcome(channel, rpc.service, rpc.method, ("authorization", f"Bearer {_TOKEN}"))
                if outcome == "no connection" or (caller in rpc.roles) is (outcome == "caller_not_expected"):
                    wrong.append((rpc.name, outcome))
    assert wrong == []


@pytest.mark.parametrize("needs", [ADMIN_TOKEN, SESSION, OPERATOR])
async def test_a_certificate_is_not_enough_where_a_credential_is_needed(secured: Secured, needs: str) -> None:
    """Nor is another credential: an operators' console has no use for the admin token, and owners none for either."""
    wrong = []
    for rpc in _RPCS:
        async with secured.channel(min(rpc.roles), rpc.server) as channel:
            outcome = await _outcome(channel, rpc.service, rpc.method)
            if (rpc.needs == needs) and outcome != REASONS[needs]:
                wrong.append((rpc.name, outcome))
            if not rpc.needs and outcome in REASONS.values():
                wrong.append((rpc.name, outcome))
            if rpc.needs == needs != ADMIN_TOKEN:
                with_token = await _outcome(channel, rpc.service, rpc.method, ("authorization", f"Bearer {_TOKEN}"))
                if with_token != REASONS[needs]:
                    wrong.append((rpc.name, with_token))
    assert wrong == []


@pytest.mark.parametrize("server", SERVERS)
async def test_no_rpc_of_any_port_is_reached_without_a_certificate(
    secured: Secured, server: str, tmp_path: Path
) -> None:
    other = Issued(tmp_path, "gateway").issue(trustme.CA(), secured.authority)
    roots = grpc.ssl_channel_credentials(secured.authority.cert_pem.bytes())
    named = [("grpc.ssl_target_name_override", identity(server))]
    outcomes = set()
    for channel in (
        open_channel(secured.targets[server]),
        aio.secure_channel(secured.targets[server], roots, named),
        open_channel(secured.targets[server], other.certificates, service=server),
    ):
        async with channel:
            rpcs = [rpc for rpc in _RPCS if rpc.server == server][:3]
            outcomes |= {await _outcome(channel, rpc.service, rpc.method) for rpc in rpcs}
    assert outcomes == {"no connection"}


@pytest.mark.parametrize("server", SERVERS)
async def test_the_plaintext_port_answers_health_and_nothing_else(secured: Secured, server: str) -> None:
    target = health.default_health_address(secured.targets[server])
    assert await grpc_serves(target)
    async with open_channel(target) as channel:
        for rpc in (rpc for rpc in _RPCS if rpc.server == server):
            call: Any = channel.unary_unary(f"/{rpc.service}/{rpc.method.name}", bytes, bytes)
            with pytest.raises(aio.AioRpcError, match="UNIMPLEMENTED"):
                await call(b"", timeout=5)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"TLS_KEY_FILE": "", "TLS_CA_FILE": ""}, "Set all three or none"),
        ({"TLS_KEY_FILE": "/nowhere"}, "Cannot use the TLS files"),
        (
            dict.fromkeys(("TLS_CERTIFICATE_FILE", "TLS_KEY_FILE", "TLS_CA_FILE"), ""),
            "The auth service does not respond",
        ),
    ],
)
def test_stackctl_reports_the_fault_of_its_certificate(secured: Secured, files: dict[str, str], sentence: str) -> None:
    environment = bare_environment() | secured.environment | secured.callers["stackctl"].environment | files
    done = run_module("services.cli", "accounts", "list", environment=environment)
    assert done.returncode in (1, 3)
    assert sentence in done.stderr


@pytest.mark.long
def test_concurrently_connecting_callers_are_all_served(secured: Secured) -> None:
    """Concurrent handshakes used to free memory in use by others, and the process ended with SIGSEGV."""
    host, _, port = secured.targets["auth"].rpartition(":")
    files = secured.callers["gateway"].files
    context = ssl.create_default_context(cafile=str(files.authorities))
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])

    def connect(_: int) -> str | None:
        raw = socket.create_connection((host, int(port)), timeout=10)
        with raw, context.wrap_socket(raw, server_hostname=identity("auth")) as secure:
            return secure.version()

    with ThreadPoolExecutor(8) as threads:
        assert len(list(threads.map(connect, range(3_000)))) == 3_000


@pytest.mark.long
async def test_certificates_renewed_during_traffic_cost_no_request(secured: Secured) -> None:
    """Every file of every service is replaced, including the authority; the old certificates are invalid after it."""
    # A fast machine makes more than a thousand requests in that time.
    unlimited = ("--daily-limit", "1000000")
    secret = secured.stackctl("keys", "create", "--email", EMAIL, "--name", "renewal", *unlimited).split()
    key = next(word for word in secret if word.startswith("sk_stk_"))
    old, new = secured.authority, trustme.CA()
    left_behind = Issued(secured.folder / "left", "gateway").issue(old)
    steps: tuple[Callable[[Issued], object], ...] = (
        lambda issued: issued.trust(old, new),
        lambda issued: issued.issue(new, old, new),
        lambda issued: issued.trust(new),
    )
    async with httpx.AsyncClient(base_url=secured.base_url, headers={"Authorization": f"Bearer {key}"}) as client:
        for step in steps:
            for issued in secured.callers.values():
                step(issued)
            # The files are checked once a second; real rotations are slower than that.
            ends = time.monotonic() + 2.5
            while time.monotonic() < ends:
                answer = await client.post("/v1/chat/completions", json=say("hello"), timeout=20)
                assert answer.status_code == 200, answer.text
    secured.authority = new
    async with open_channel(secured.targets["auth"], left_behind.certificates, service="auth") as channel:
        assert await _outcome(channel, _RPCS[0].service, _RPCS[0].method) == "no connection"
    assert "agree" in secured.stackctl("verify")
