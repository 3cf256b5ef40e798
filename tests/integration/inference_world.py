"""A whole inference service in the test process: real gRPC, a real SQLite ledger, the real stand-in."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import aio
from sqlalchemy.ext.asyncio import AsyncEngine

from services.common.concurrency.byte_budget import ByteBudget
from services.common.db import database
from services.common.price_file import read_prices
from services.common.prices import Prices
from services.common.rpc.channel import open_channel
from services.common.rpc.interceptors import ServiceInterceptor
from services.common.rpc.status import rpc_errors
from services.common.runtime.clock import SystemClock
from services.inference import translate
from services.inference.allowance.model import AllowanceView
from services.inference.allowance.own_view import OwnView
from services.inference.catalogue import Catalogue
from services.inference.chat import CallContext, ChatCall
from services.inference.key_pool.check import KeyCheck
from services.inference.key_pool.pool import KeyPool
from services.inference.ledger import store as store_module
from services.inference.ledger.store import SQLLedgerStore
from services.inference.ledger.users import UserDigests
from services.inference.ledger.writer import Ledger, LedgerRow
from services.inference.operators.groq_keys import GroqKeys
from services.inference.operators.rpc import OperatorUsageService
from services.inference.requests.lifecycle import Completions, Timeouts
from services.inference.requests.queue import UpstreamQueue
from services.inference.requests.slots import Limits
from services.inference.requests.upstream import ModelLister, Upstream
from services.inference.rpc import InferenceService, UsageService
from stack.common.v1 import verdict_pb2
from stack.inference.v1 import chat_pb2, inference_pb2, inference_pb2_grpc, operators_pb2_grpc, usage_pb2_grpc
from tests.integration.upstream import OSS, calling

MIGRATIONS = Path(store_module.__file__).parent.parent / "migrations"
DAY = "2026-08-02"
CHARGED, RELEASED, NO_VERDICT = (
    verdict_pb2.VERDICT_CHARGED,
    verdict_pb2.VERDICT_RELEASED,
    verdict_pb2.VERDICT_UNSPECIFIED,
)


@dataclass(frozen=True)
class Inference:
    """A running service, its clients and its parts."""

    chat: Any
    usage: Any
    completions: Completions
    ledger: Ledger
    store: SQLLedgerStore
    engine: AsyncEngine
    pool: KeyPool
    operators: Any

    async def create(self, request: inference_pb2.CreateChatCompletionRequest, **options: Any) -> Any:
        """Request a non-streaming answer; errors are of our tree."""
        with rpc_errors(unavailable_reason="inference_unavailable"):
            return await self.chat.CreateChatCompletion(request, **options)

    async def stream(
        self, request: inference_pb2.StreamChatCompletionRequest, received: list[Any] | None = None
    ) -> list[Any]:
        """Request a stream and return all of its messages; errors are of our tree.

        `received` has the messages that came before an error.
        """
        received = [] if received is None else received
        with rpc_errors(unavailable_reason="inference_unavailable"):
            async for message in self.chat.StreamChatCompletion(request):
                received.append(message)
        return received

    def call_of(self, request: inference_pb2.StreamChatCompletionRequest) -> tuple[ChatCall, CallContext]:
        """Return the service's result for a request."""
        return translate.chat_call(request.chat, default_model=OSS), translate.request_context(request.context)

    async def row(self, request_id: str) -> LedgerRow:
        """Return a request's row once it is written."""
        deadline = time.monotonic() + 10
        while (row := await self.store.find(request_id)) is None:
            assert time.monotonic() < deadline, f"no row of {request_id}"
            await asyncio.sleep(0.005)
        return row

    async def rows(self) -> list[Any]:
        """Return all rows, as the database has them."""
        async with self.engine.connect() as connection:
            return list((await connection.exec_driver_sql("SELECT * FROM usage_ledger")).mappings())

    async def execute(self, statement: str) -> None:
        """Change the database directly, bypassing the service."""
        async with self.engine.begin() as connection:
            await connection.exec_driver_sql(statement)


@asynccontextmanager
async def running(
    url: str,
    folder: Path,
    *,
    total_timeout_seconds: float = 20,
    first_byte_timeout_seconds: float = 10,
    idle_timeout_seconds: float = 10,
    ledger_wait_seconds: float = 5,
    ledger_rows_max: int = 1_000,
    keys: tuple[str, ...] = ("gsk_one",),
    attempts_max: int = 3,
    view: AllowanceView | None = None,
    waiting_max: int = 1_000,
    allowed: tuple[str, ...] = (),
    fallbacks: Mapping[str, Sequence[str]] | None = None,
    calls_max: int = 100,
    per_account_max: int = 100,
    queue_seconds: float = 0,
    answer_bytes_max: int = 1_000_000,
    request_bytes_max: int = 100_000_000,
    prices: Prices | None = None,
) -> AsyncIterator[Inference]:
    """Run a service over the stand-in at `url`, with its ledger in `folder`."""
    async with AsyncExitStack() as stack:
        url_of_ledger = f"sqlite:///{folder}/inference.db"
        engine = await stack.enter_async_context(
            database.open_database(url_of_ledger, migrations=MIGRATIONS, version_table="version")
        )
        provider = await stack.enter_async_context(calling(url, keys=keys, answer_bytes_max=answer_bytes_max))
        store = SQLLedgerStore(engine, stack.enter_context(database.open_writer(url_of_ledger)))
        clock = SystemClock()
        pool = KeyPool(len(keys), clock, cooldown_seconds_max=3600, failures_max=10)
        catalogue = Catalogue(
            ModelLister(provider.list_models, pool),
            {"llama-3.1-8b-instant": OSS},
            allowed=allowed,
            fallbacks=fallbacks,
        )
        await catalogue.refresh()
        ledger = Ledger(store, wait_seconds=ledger_wait_seconds, rows_max=ledger_rows_max)
        view = view or OwnView(clock)
        completions = Completions(
            provider,
            catalogue,
            Upstream(
                pool,
                UpstreamQueue(
                    pool,
                    view,
                    Limits(calls_max, per_account_max, waiting_max),
                    clock=clock,
                    is_shared=True,
                ),
                attempts_max=attempts_max,
                wait_seconds=queue_seconds,
                clock=clock,
            ),
            ledger,
            ByteBudget(total_max=request_bytes_max, share_max=request_bytes_max // 2),
            prices=prices or read_prices(""),
            clock=clock,
            timeouts=Timeouts(
                total=total_timeout_seconds, first_byte=first_byte_timeout_seconds, idle=idle_timeout_seconds
            ),
            users=UserDigests("a-secret-of-the-tests"),
        )
        server = aio.server(interceptors=[ServiceInterceptor()])
        key_check = KeyCheck(provider.check_key, keys_count=len(keys))
        service = InferenceService(completions, catalogue, key_check=key_check, default_model="llama-3.1-8b-instant")
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(service, server)
        usage_pb2_grpc.add_UsageServiceServicer_to_server(UsageService(store), server)
        groq_keys = GroqKeys(pool, key_check, view)
        operators_pb2_grpc.add_OperatorUsageServiceServicer_to_server(
            OperatorUsageService(store, groq_keys, clock), server
        )
        socket = Path(f"/tmp/inference-{uuid.uuid4().hex[:12]}.sock")
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        stack.callback(socket.unlink, missing_ok=True)
        channel = await stack.enter_async_context(open_channel(f"unix:{socket}"))
        chat, usage = inference_pb2_grpc.InferenceServiceStub(channel), usage_pb2_grpc.UsageServiceStub(channel)
        try:
            operators = operators_pb2_grpc.OperatorUsageServiceStub(channel)
            yield Inference(chat, usage, completions, ledger, store, engine, pool, operators)
        finally:
            await server.stop(None)
            await asyncio.wait_for(completions.finish(), 10)
            await completions.close()
            await ledger.close(timeout_seconds=10)


def context(request_id: str = "req_1", key_id: str = "key_1") -> inference_pb2.RequestContext:
    """Return the context that a gateway sends after a reserve."""
    made = inference_pb2.RequestContext(request_id=request_id, account_id="acc_1", key_id=key_id, day=DAY)
    made.reserved_at.FromMilliseconds(1_785_672_000_123)
    return made


def chat(text: str, *, model: str = OSS, include_usage: bool = False, extra_json: str = "") -> chat_pb2.ChatRequest:
    """Return a chat request of one user message."""
    message = chat_pb2.ChatMessage(role="user", content_text=text)
    asked = chat_pb2.ChatRequest(messages=[message], extra_json=extra_json)
    if model:
        asked.model = model
    if include_usage:
        asked.stream_options.include_usage = True
    return asked


def whole(text: str, request_id: str = "req_1", **more: Any) -> inference_pb2.CreateChatCompletionRequest:
    """Return a request for an answer in one piece."""
    return inference_pb2.CreateChatCompletionRequest(context=context(request_id), chat=chat(text, **more))


def streamed(text: str, request_id: str = "req_1", **more: Any) -> inference_pb2.StreamChatCompletionRequest:
    """Return a request for a stream."""
    return inference_pb2.StreamChatCompletionRequest(context=context(request_id), chat=chat(text, **more))
