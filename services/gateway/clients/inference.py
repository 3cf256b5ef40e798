"""gRPC client of inference."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress

from grpc import aio

from services.common.concurrency.batch import Batcher
from services.common.rpc import json_codec
from services.common.rpc.multiplex.client import MultiplexClient
from services.common.rpc.multiplex.stream import CallStream, NotSent
from services.common.rpc.status import rpc_errors
from services.common.rpc.verdict import row_verdict_from_proto, row_verdicts_from_proto
from services.common.runtime.memory import Trimmer
from services.common.telemetry import tracing
from services.common.verdict import RowVerdict
from services.gateway.clients import translate
from services.gateway.requests.types import Chat, Completion, Departure, Hold, JSONObject
from stack.inference.v1 import inference_pb2, inference_pb2_grpc, usage_pb2, usage_pb2_grpc

_RESOLVE_ITEMS_MAX = 500
_RESOLVE_SECONDS = 5.0
_LIST_SECONDS = 5.0
_MULTIPLEXED_BYTES_MAX = 256 * 1024


class GrpcInference:
    """`Inference` over gRPC."""

    def __init__(
        self, channel: aio.Channel, *, timeout_seconds: float, multiplexed: MultiplexClient | None = None
    ) -> None:
        """Call over `channel`, and make calls that are not large over the streams of `multiplexed`.

        A chat takes at most `timeout_seconds`, a stream to its end.
        """
        self._stub = inference_pb2_grpc.InferenceServiceStub(channel)
        self._usage = usage_pb2_grpc.UsageServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        self._multiplexed = multiplexed
        self._trimmer = Trimmer()
        self._abandoned = Batcher(
            self._resolve_abandoned, name="resolve", max_items=_RESOLVE_ITEMS_MAX, max_concurrent_batches=1
        )

    async def complete(self, hold: Hold, chat: Chat) -> Completion:
        """Return the whole answer; see `Inference.complete`."""
        try:
            if stream := self._stream_for(chat):
                call, size = translate.multiplexed_call(hold, chat, stream=False)
                with suppress(NotSent):
                    return _completion(await stream.call(call, size))
            return await self._complete(hold, chat)
        finally:
            self._trimmer.note_freed(chat.body_bytes)

    async def _complete(self, hold: Hold, chat: Chat) -> Completion:
        request = inference_pb2.CreateChatCompletionRequest(
            context=translate.request_context(hold, chat), chat=translate.chat_request(chat), wants_json=True
        )
        with rpc_errors(unavailable_reason="inference_unavailable"):
            response = await self._stub.CreateChatCompletion(request, timeout=self._timeout_seconds)
        # An inference of the previous version does not send JSON.
        text = response.completion_json or json_codec.encode(response.completion)
        return Completion(text, row_verdict_from_proto(response.verdict, response.amounts))

    def stream(self, hold: Hold, chat: Chat) -> AsyncGenerator[list[bytes] | RowVerdict | None, None]:
        """Yield events and the verdict; see `Inference.stream`."""
        if stream := self._stream_for(chat):
            return self._stream_multiplexed(stream, hold, chat)
        return self._stream(hold, chat)

    async def _stream_multiplexed(
        self, stream: CallStream, hold: Hold, chat: Chat
    ) -> AsyncGenerator[list[bytes] | RowVerdict | None, None]:
        call, size = translate.multiplexed_call(hold, chat, stream=True)
        try:
            async with aclosing(stream.results(call, size, size_of=_chunks_size)) as results:
                async for result in results:
                    yield _verdict(result) if result.is_last else list(result.chunks_json)
        except NotSent:
            async with aclosing(self._stream(hold, chat)) as parts:
                async for part in parts:
                    yield part
        finally:
            self._trimmer.note_freed(chat.body_bytes)

    async def _stream(self, hold: Hold, chat: Chat) -> AsyncGenerator[list[bytes] | RowVerdict | None, None]:
        request = inference_pb2.StreamChatCompletionRequest(
            context=translate.request_context(hold, chat), chat=translate.chat_request(chat), wants_json=True
        )
        verdict: RowVerdict | None = None
        call = self._stub.StreamChatCompletion(request, timeout=self._timeout_seconds)
        try:
            with rpc_errors(unavailable_reason="inference_unavailable"):
                async for response in call:
                    if response.chunks_json:
                        yield list(response.chunks_json)
                    elif response.chunks:
                        yield [json_codec.encode(chunk) for chunk in response.chunks]
                    else:
                        verdict = row_verdict_from_proto(response.verdict, response.amounts)
            yield verdict
        finally:
            call.cancel()  # Does nothing when the call has ended.
            self._trimmer.note_freed(chat.body_bytes)

    def _stream_for(self, chat: Chat) -> CallStream | None:
        """Return a stream for a call; None without one, for a large call, which would delay the others of the stream,
        and for a traced call, whose span is that of an RPC.
        """
        if self._multiplexed is None or chat.body_bytes > _MULTIPLEXED_BYTES_MAX or tracing.is_traced():
            return None
        return self._multiplexed.stream()

    async def resolve_abandoned(self, hold: Hold, departure: Departure | None) -> RowVerdict | None:
        """Return the verdict of an abandoned request's row; see `Inference.resolve_abandoned`."""
        outcome = "" if departure is None else departure.value
        return await self._abandoned.submit(usage_pb2.AbandonedRequest(request_id=hold.request_id, outcome=outcome))

    async def _resolve_abandoned(self, requests: Sequence[usage_pb2.AbandonedRequest]) -> Sequence[RowVerdict | None]:
        request = usage_pb2.ResolveAbandonedRequest(requests=requests)
        with rpc_errors(unavailable_reason="inference_unavailable"):
            response = await self._usage.ResolveAbandoned(request, timeout=_RESOLVE_SECONDS)
        return row_verdicts_from_proto(response.verdicts, response.amounts)

    async def list_models(self, permitted: Sequence[str] = ()) -> list[JSONObject]:
        """Return models as JSON objects; see `Models.list_models`."""
        request = inference_pb2.ListModelsRequest(permitted=permitted)
        with rpc_errors(unavailable_reason="inference_unavailable"):
            response = await self._stub.ListModels(request, timeout=_LIST_SECONDS)
        return translate.models(list(response.models))


def multiplex_client(channel: aio.Channel, *, timeout_seconds: float) -> MultiplexClient:
    """Return a client of inference's multiplexed calls."""
    return MultiplexClient(
        inference_pb2_grpc.InferenceServiceStub(channel).Multiplex,
        inference_pb2.MultiplexRequest,
        service="inference",
        timeout_seconds=timeout_seconds,
    )


def _completion(result: inference_pb2.MultiplexedResult) -> Completion:
    return Completion(result.completion_json, _verdict(result))


def _verdict(result: inference_pb2.MultiplexedResult) -> RowVerdict | None:
    return row_verdict_from_proto(result.verdict, result.amounts)


def _chunks_size(result: inference_pb2.MultiplexedResult) -> int:
    return sum(map(len, result.chunks_json))
