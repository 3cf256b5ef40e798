"""Every parameter of every RPC of auth with injections, control characters and large sizes is refused or harmless."""

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode, aio

from services.common.rpc.channel import open_channel
from stack.auth.v1 import auth_pb2, operators_pb2, owner_pb2
from stack.auth.v1.operators_pb2_grpc import OperatorServiceStub, OperatorSessionServiceStub
from stack.auth.v1.totp_pb2_grpc import TOTPServiceStub
from tests.backends import fresh_database
from tests.integration.auth_api import PASSWORD, AuthAPI, auth_api_of, bearer, from_address
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, Metadata, run_auth, running_auth
from tests.integration.test_auth_operators import World

EMAIL = "ada@example.com"
TEXTS = {
    "sql": "'; DROP TABLE api_keys; --",
    "sql or": "x' OR '1'='1",
    "like": "%_%",
    "header": "a\r\nx-injected: 1\r\n\r\nb",
    "nul": "a\0b",
    "controls": "\x01\x1b[31m\x7f\u2028",
    "right to left": "\u202eevil",
    "template": "{{7*7}}${jndi:ldap://x}%s%n",
    "long": "a" * 1_000_000,
    "long email": "a" * 300 + "@example.com",
    "emoji": "\U0001f600" * 50,
    "path": "../../etc/passwd",
}
NUMBERS = (-1, -(2**31), 2**31 - 1)
LARGE_NUMBERS = (-(2**63), 2**63 - 1)
CLEAR = {
    StatusCode.OK,
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.ALREADY_EXISTS,
    StatusCode.UNAUTHENTICATED,
    StatusCode.PERMISSION_DENIED,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.OUT_OF_RANGE,
}
_SUSPENDED = "grace@example.com"
"""Account of the calls that end sessions, so that the others' outcomes can be checked with the first account's."""
_ENDING_SESSIONS = ("SuspendAccount", "SuspendAccountAsOperator", "EndSessions", "EndAccountSessions")
_OF_OWNERS = ("OwnerService", "OwnerAlertService", "TOTPService", "IdentityService")
_PROTOS = Path(__file__).parents[2] / "protos/stack/auth/v1"
_CONTRACTS = [import_module(f"stack.auth.v1.{path.stem}_pb2") for path in sorted(_PROTOS.glob("*.proto"))]
METHODS: list[MethodDescriptor] = [
    method
    for contract in _CONTRACTS
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name != "WatchKeys"
]
_OWN_OPERATOR = next(method for method in METHODS if method.name == "GetOwnOperator")


def _values(field: FieldDescriptor) -> Iterator[Any]:
    if field.message_type is Timestamp.DESCRIPTOR:
        yield from (Timestamp(seconds=seconds) for seconds in (-62135596800, 0, 253402300799))
        yield Timestamp(seconds=2**62, nanos=-5)
    elif field.type == FieldDescriptor.TYPE_STRING:
        yield from TEXTS.values()
    elif field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64):
        yield from (*NUMBERS, *LARGE_NUMBERS)
    elif field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_ENUM):
        yield from NUMBERS


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend([value] * 3)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _bad_requests(method: MethodDescriptor, good: dict[str, Any]) -> Iterator[tuple[str, Message]]:
    """Yield requests that are valid except for one field."""
    for field in method.input_type.fields:
        for value in _values(field):
            message = GetMessageClass(method.input_type)()
            for other in method.input_type.fields:
                if other.name in good and other is not field and not other.is_repeated:
                    setattr(message, other.name, good[other.name])
            _set(message, field, value)
            yield f"{method.full_name}.{field.name} = {str(value)[:40]!r}", message


async def _status(channel: aio.Channel, method: MethodDescriptor, request: Message, metadata: Metadata) -> StatusCode:
    call: Any = channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    try:
        await call(request, metadata=metadata, timeout=10)
    except aio.AioRpcError as exc:
        return exc.code() if exc.details() else StatusCode.UNKNOWN  # A refusal without a message is not acceptable.
    return StatusCode.OK


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
async def auth_api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[AuthAPI, aio.Channel]]:
    settings = {
        "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
        "AUTH_KEY_PEPPER": PEPPER,
        "AUTH_SIGN_UPS_PER_ADDRESS_MAX": "100000",
        "AUTH_LOG_INS_PER_ADDRESS_MAX": "100000",
    }
    if request.param == "sqlite":
        async with _serving(tmp_path, settings) as serving:
            yield serving
        return
    with fresh_database(request.getfixturevalue("postgres_server")) as url:
        settings["AUTH_DATABASE_URL"] = url
        assert run_auth(tmp_path, settings, "migrate").returncode == 0
        async with _serving(tmp_path, settings) as serving:
            yield serving


@asynccontextmanager
async def _serving(tmp_path: Path, settings: dict[str, str]) -> AsyncIterator[tuple[AuthAPI, aio.Channel]]:
    with running_auth(tmp_path, settings) as process:
        async with auth_api_of(process.target) as auth_api, open_channel(process.target) as channel:
            yield auth_api, channel


@pytest.mark.long
async def test_every_parameter_of_every_call_is_refused_or_stored_unchanged(
    auth_api: tuple[AuthAPI, aio.Channel],
) -> None:
    stubs, channel = auth_api
    session = await stubs.sign_up(EMAIL)
    key = await stubs.create_key_for(EMAIL, name="laptop")
    good = {"email": EMAIL, "account": EMAIL, "password": PASSWORD, "name": "laptop", "plan": "free"}
    good |= {"current_password": PASSWORD, "new_password": PASSWORD}
    good["key_id"] = (await stubs.create_key_for(EMAIL, name="to be tried on")).key.id
    await stubs.sign_up(_SUSPENDED)
    operator = await _operator(stubs, channel)
    answered: Counter[StatusCode] = Counter()
    unclear = []
    for method in METHODS:
        service = method.containing_service.name
        token = session if service in _OF_OWNERS else operator if service == "OperatorService" else ADMIN_TOKEN
        known = good | {"account": _SUSPENDED} if method.name in _ENDING_SESSIONS else good
        for reported, request in _bad_requests(method, known):
            code = await _status(channel, method, request, bearer(token))
            answered[code] += 1
            if code not in CLEAR:
                unclear.append(f"{reported}: {code.name}")
    assert not unclear, "\n".join(unclear)
    assert answered[StatusCode.OK] > 20, "hardly a call reached the database, so this test shows nothing"
    answer = await stubs.auth.Authenticate(auth_pb2.AuthenticateRequest(api_key=key.secret))
    assert answer.principal.daily_limit == 1000, "an invalid parameter changed another user's key"
    assert (await stubs.session(session)).account.email == EMAIL
    code = await _status(channel, _OWN_OPERATOR, operators_pb2.GetOwnOperatorRequest(), bearer(operator))
    assert code == StatusCode.OK


async def _operator(stubs: AuthAPI, channel: aio.Channel) -> str:
    """Return the token of an operator's session."""
    world = World(stubs, TOTPServiceStub(channel), OperatorSessionServiceStub(channel), OperatorServiceStub(channel))
    return (await world.operator("olga@example.com")).token


@pytest.mark.long
@pytest.mark.parametrize("auth_api", ["sqlite", pytest.param("postgres", marks=pytest.mark.long)], indirect=True)
async def test_metadata_is_refused_or_stored_as_plain_text(
    auth_api: tuple[AuthAPI, aio.Channel],
) -> None:
    stubs, channel = auth_api
    session = await stubs.sign_up(EMAIL)
    printable = [text for text in TEXTS.values() if text.isascii() and text.isprintable() and len(text) < 4000]
    names = ("authorization", "stack-client-address", "stack-operator")
    unclear = []
    for method, name, text in itertools.product(METHODS, names, printable):
        for value in (text, f"Bearer {text}"):
            code = await _status(channel, method, GetMessageClass(method.input_type)(), ((name, value),))
            if code not in CLEAR:
                unclear.append(f"{method.full_name} with {name}: {value[:40]!r}: {code.name}")
    assert not unclear, "\n".join(unclear)
    metadata = (*bearer(session), *from_address("203.0.113.5'; DROP TABLE audit_events; --"))
    await stubs.owner.CreateOwnKey(owner_pb2.CreateOwnKeyRequest(name="x"), metadata=metadata)
    events = await stubs.owner.ListOwnAuditEvents(owner_pb2.ListOwnAuditEventsRequest(), metadata=metadata)
    assert events.events[0].address.startswith("203.0.113.5")
