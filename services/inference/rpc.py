"""gRPC servicers of the inference service and the usage ledger. Convert between protobuf and domain objects."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from services.common.errors import InvalidRequest, NotFound
from services.common.rpc.multiplex.server import MultiplexServer, Put
from services.common.rpc.types import Context
from services.common.rpc.verdict import row_verdict_to_proto, row_verdicts_to_proto
from services.common.verdict import RowVerdict
from services.inference import translate
from services.inference.catalogue import Catalogue
from services.inference.key_pool.check import KeyCheck
from services.inference.ledger.checks import (
    abandoned_request,
    check_day,
    check_id,
    check_ids,
    check_required_id,
    check_scan,
    check_size,
    check_span,
    checked_outcome,
    checked_surface,
    requests_page,
)
from services.inference.ledger.report_messages import report_query, report_to_proto
from services.inference.ledger.writer import LedgerStore, UsageSummary
from services.inference.requests.lifecycle import Completions
from stack.inference.v1 import inference_pb2, inference_pb2_grpc, usage_pb2, usage_pb2_grpc

_RPCS = {True: "StreamChatCompletion", False: "CreateChatCompletion"}
_METHODS = {
    stream: f"/{inference_pb2.DESCRIPTOR.services_by_name['InferenceService'].full_name}/{name}"
    for stream, name in _RPCS.items()
}


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Creates chat completions and lists models."""

    def __init__(
        self, completions: Completions, catalogue: Catalogue, *, key_check: KeyCheck, default_model: str
    ) -> None:
        """Create a servicer.

        Args:
            completions: Runs the requests.
            catalogue: Lists the models.
            key_check: Provides the state of Groq.
            default_model: Model of a request without one.
        """
        self._completions = completions
        self._catalogue = catalogue
        self._key_check = key_check
        self._default_model = default_model
        self._multiplexed = MultiplexServer(
            self._answer,
            response_type=inference_pb2.MultiplexResponse,
            result_type=inference_pb2.MultiplexedResult,
            method_of=lambda call: _METHODS[call.stream],
        )

    def drain(self) -> None:
        """Make gateways send further requests to other replicas. Requests in progress continue."""
        self._multiplexed.drain()

    async def CreateChatCompletion(
        self, request: inference_pb2.CreateChatCompletionRequest, context: Context
    ) -> inference_pb2.CreateChatCompletionResponse:
        """Return a whole answer."""
        call = translate.chat_call(request.chat, default_model=self._default_model)
        answer = await self._completions.create(call, translate.request_context(request.context))
        verdict, amounts = row_verdict_to_proto(answer.verdict)
        if request.wants_json:
            return inference_pb2.CreateChatCompletionResponse(
                completion_json=answer.text, verdict=verdict, amounts=amounts
            )
        completion = translate.completion(answer.text)
        return inference_pb2.CreateChatCompletionResponse(completion=completion, verdict=verdict, amounts=amounts)

    async def StreamChatCompletion(
        self, request: inference_pb2.StreamChatCompletionRequest, context: Context
    ) -> AsyncIterator[inference_pb2.StreamChatCompletionResponse]:
        """Stream an answer; chunks that arrived together are sent in one message."""
        call = translate.chat_call(request.chat, default_model=self._default_model)
        async for part in self._completions.stream(call, translate.request_context(request.context)):
            if isinstance(part, list) and request.wants_json:
                yield inference_pb2.StreamChatCompletionResponse(chunks_json=part)
            elif isinstance(part, list):
                yield inference_pb2.StreamChatCompletionResponse(chunks=translate.chunks(part))
            else:
                verdict, amounts = row_verdict_to_proto(part)
                yield inference_pb2.StreamChatCompletionResponse(verdict=verdict, amounts=amounts)

    async def Multiplex(  # type: ignore[override] # gRPC also accepts a coroutine that reads and writes
        self, request_iterator: AsyncIterator[inference_pb2.MultiplexRequest], context: Context
    ) -> None:
        """Answer the requests of a gateway."""
        await self._multiplexed.serve(context)

    async def _answer(self, call: inference_pb2.MultiplexedCall, put: Put) -> None:
        """Answer one request of a stream of requests."""
        chat = translate.multiplexed_chat_call(call.chat_json, default_model=self._default_model)
        context = translate.request_context(call.context)
        if not call.stream:
            answer = await self._completions.create(chat, context)
            await put(_last_result(answer.verdict, answer.text), len(answer.text))
            return
        async with aclosing(self._completions.stream(chat, context)) as parts:
            async for part in parts:
                if isinstance(part, list):
                    await put(inference_pb2.MultiplexedResult(chunks_json=part), sum(map(len, part)))
                else:
                    await put(_last_result(part), 0)

    async def ListModels(
        self, request: inference_pb2.ListModelsRequest, context: Context
    ) -> inference_pb2.ListModelsResponse:
        """List the available models."""
        listed = self._catalogue.list_models(permitted=tuple(request.permitted))
        return inference_pb2.ListModelsResponse(models=translate.models(listed), default_model=self._default_model)

    async def GetDependencies(
        self, request: inference_pb2.GetDependenciesRequest, context: Context
    ) -> inference_pb2.GetDependenciesResponse:
        """Return whether Groq is usable."""
        check = self._key_check
        groq = inference_pb2.Dependency(
            name="groq", state=translate.dependency_state(check.state), message=check.message
        )
        return inference_pb2.GetDependenciesResponse(dependencies=[groq])


def _last_result(verdict: RowVerdict | None, text: bytes = b"") -> inference_pb2.MultiplexedResult:
    value, amounts = row_verdict_to_proto(verdict)
    return inference_pb2.MultiplexedResult(completion_json=text, verdict=value, amounts=amounts, is_last=True)


class UsageService(usage_pb2_grpc.UsageServiceServicer):
    """Reads the ledger and closes lost requests."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    async def CountCharged(
        self, request: usage_pb2.CountChargedRequest, context: Context
    ) -> usage_pb2.CountChargedResponse:
        """Count the charged rows of keys and accounts."""
        check_size(
            "key_days, account_days, counters",
            len(request.key_days) + len(request.account_days) + len(request.counters),
        )
        for key_day in request.key_days:
            check_id("key_id", key_day.key_id)
            check_day("day", key_day.day)
        for account_day in request.account_days:
            check_required_id("account_id", account_day.account_id)
            check_day("day", account_day.day)
        check_size("excluded_request_ids", len(request.excluded_request_ids), least=0)
        check_ids("excluded_request_ids", request.excluded_request_ids)
        counts = await self._store.count_charged(
            [(key_day.key_id, key_day.day) for key_day in request.key_days],
            reserved_before=translate.reserved_before(request),
            excluded=request.excluded_request_ids,
        )
        account_counts = await self._store.count_charged_of_accounts(
            [(account_day.account_id, account_day.day) for account_day in request.account_days],
            reserved_before=translate.reserved_before(request),
            excluded=request.excluded_request_ids,
        )
        sums = await self._store.sum_charged(
            [translate.charged_sum(counter) for counter in request.counters],
            reserved_before=translate.reserved_before(request),
            excluded=request.excluded_request_ids,
        )
        return usage_pb2.CountChargedResponse(counts=counts, account_counts=account_counts, amounts=sums)

    async def GetRequest(self, request: usage_pb2.GetRequestRequest, context: Context) -> usage_pb2.GetRequestResponse:
        """Return one row."""
        check_id("request_id", request.request_id)
        row = await self._store.find(request.request_id)
        if row is None:
            raise NotFound(f"Request {request.request_id!r} is not in the ledger. Check the id; old rows are removed.")
        return usage_pb2.GetRequestResponse(record=translate.usage_record(row))

    async def SummarizeUsage(
        self, request: usage_pb2.SummarizeUsageRequest, context: Context
    ) -> usage_pb2.SummarizeUsageResponse:
        """Sum an account's or a key's rows by day and model."""
        if not request.key_id and not request.account_id:
            raise InvalidRequest("key_id, account_id: expected at least one of the two")
        check_ids("key_id, account_id", [request.key_id, request.account_id])
        check_span(request.from_day, request.to_day)
        summaries = await self._summarize(request)
        return usage_pb2.SummarizeUsageResponse(summaries=[translate.usage_summary(summary) for summary in summaries])

    async def _summarize(self, request: usage_pb2.SummarizeUsageRequest) -> list[UsageSummary]:
        span = {"from_day": request.from_day, "to_day": request.to_day}
        if request.by_surface + request.by_hour + request.by_user > 1:
            raise InvalidRequest("by_surface, by_hour, by_user: expected at most one of them")
        if (request.by_hour or request.by_user) and (request.outcome or request.surface):
            raise InvalidRequest("outcome, surface: expected neither with by_hour and by_user")
        if request.by_user:
            if request.key_id:
                raise InvalidRequest("key_id: expected none with by_user")
            return await self._store.summarize_users(request.account_id, **span)
        if request.by_hour:
            return await self._store.summarize_hours(request.key_id, account_id=request.account_id, **span)
        return await self._store.summarize(
            request.key_id,
            account_id=request.account_id,
            by_surface=request.by_surface,
            outcome=checked_outcome(request.outcome),
            surface=checked_surface(request.surface),
            **span,
        )

    async def CloseUnknown(
        self, request: usage_pb2.CloseUnknownRequest, context: Context
    ) -> usage_pb2.CloseUnknownResponse:
        """Insert an `unknown` row for each request without a row and return all verdicts."""
        check_size("contexts", len(request.contexts))
        verdicts = await self._store.close_unknown([translate.required_context(item) for item in request.contexts])
        values, amounts = row_verdicts_to_proto(verdicts)
        return usage_pb2.CloseUnknownResponse(verdicts=values, amounts=amounts)

    async def ResolveAbandoned(
        self, request: usage_pb2.ResolveAbandonedRequest, context: Context
    ) -> usage_pb2.ResolveAbandonedResponse:
        """Return the verdicts of requests that a gateway abandoned, and record the reasons."""
        check_size("requests", len(request.requests))
        check_ids("requests", [item.request_id for item in request.requests])
        verdicts = await self._store.resolve_abandoned([abandoned_request(item) for item in request.requests])
        values, amounts = row_verdicts_to_proto(verdicts)
        return usage_pb2.ResolveAbandonedResponse(verdicts=values, amounts=amounts)

    async def ListRequests(
        self, request: usage_pb2.ListRequestsRequest, context: Context
    ) -> usage_pb2.ListRequestsResponse:
        """Return a page of an account's rows, newest first."""
        page, scan_max = requests_page(request), request.scan_max
        if scan_max:
            check_scan(scan_max)
            rows, next_before = await self._store.scan_requests(page, scan_max=scan_max)
        else:
            rows, next_before = await self._store.list_requests(page), ""
        records = [translate.usage_record(row) for row in rows]
        return usage_pb2.ListRequestsResponse(records=records, next_before=next_before)

    async def ListLastUses(
        self, request: usage_pb2.ListLastUsesRequest, context: Context
    ) -> usage_pb2.ListLastUsesResponse:
        """Return the time of each key's last use."""
        check_size("key_ids", len(request.key_ids), least=0)
        for key_id in request.key_ids:
            check_required_id("key_ids", key_id)
        times = await self._store.last_uses(request.key_ids)
        uses = [translate.last_use(key_id, used_at) for key_id, used_at in zip(request.key_ids, times, strict=True)]
        return usage_pb2.ListLastUsesResponse(last_uses=uses)

    async def ReportUsage(
        self, request: usage_pb2.ReportUsageRequest, context: Context
    ) -> usage_pb2.ReportUsageResponse:
        """Sum an account's requests by time and model, key, surface or outcome, and measure their latency."""
        return report_to_proto(await self._store.report(report_query(request)))
