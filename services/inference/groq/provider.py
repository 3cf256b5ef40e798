"""Chats and model lists from Groq over HTTP. All failures are raised as `ServiceError`.

A refused connection must be distinguishable from a time-out, since only the former is retried. Groq continues a stream
until its connection is closed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import httpx
from groq import AsyncGroq

from services.common.errors import ServiceError
from services.common.runtime.http_proxy import proxy_for
from services.inference.chat import JSONObject, Lease, Reply
from services.inference.groq.decoding import ChunkDecoder, checked, decode_error, decode_object
from services.inference.groq.encoding import encode
from services.inference.groq.errors import UpstreamFailed, UpstreamInvalid, UpstreamStale
from services.inference.groq.rate_limits import observed_in_headers
from services.inference.groq.refusals import from_event, from_status
from services.inference.groq.sse import EventReader, ServerSentEvent
from services.inference.groq.transport import HTTPTransport, open_transport
from services.inference.http.client import Response
from services.inference.http.errors import HTTPClientError, MalformedResponse, StaleConnection

_ID_HEADER = "x-request-id"
_log = logging.getLogger(__name__)
_DONE = b"[DONE]"
_UNREACHABLE = "The model is unreachable. Try again in a moment."
_ERROR_BYTES_MAX = 64 * 1024
_MODELS_BYTES_MAX = 1024 * 1024
_MODELS_TIMEOUT_SECONDS = 5.0
_MODELS_MAX = 1_000
_MODEL_ID_CHARACTERS_MAX = 256


class GroqProvider:
    """Implements `Provider` for Groq."""

    def __init__(self, transport: HTTPTransport, *, answer_bytes_max: int) -> None:
        """Create a provider.

        Args:
            transport: Sends the requests.
            answer_bytes_max: Maximum size of an answer without streaming, and of one stream event.
        """
        self._transport = transport
        self._answer_bytes_max = answer_bytes_max

    async def complete(self, body: bytes, lease: Lease) -> Reply:
        """Send a chat request and return the answer.

        Raises:
            ServiceError: Groq refused, failed, or sent an invalid answer.
        """
        with _connection_errors(), await self._transport.post(body, key=lease.key) as response:
            lease.upstream_id = response.headers.get(_ID_HEADER, "")
            await _raise_for_status(response)
            lease.record_limits(observed_in_headers(response.headers))
            text = await _read(response, bytes_max=self._answer_bytes_max)
        return Reply(_answer(text))

    @asynccontextmanager
    async def stream(self, body: bytes, lease: Lease) -> AsyncIterator[AsyncIterator[list[JSONObject]]]:
        """Open a stream of event batches, which ends only after Groq's `[DONE]`.

        Raises:
            ServiceError: Groq refused or failed before the first event. The iterator raises later failures.
        """
        with _connection_errors():
            response = await self._transport.post(body, key=lease.key)
        # Leaving the block returns the connection to the pool if the stream was read to the end, or closes it.
        with response:
            lease.upstream_id = response.headers.get(_ID_HEADER, "")
            with _connection_errors():
                await _raise_for_status(response)
            lease.record_limits(observed_in_headers(response.headers))
            yield _batches(response, EventReader(event_bytes_max=self._answer_bytes_max))

    async def list_models(self, lease: Lease) -> list[JSONObject]:
        """Return the models that Groq serves.

        Raises:
            ServiceError: Groq refused or failed.
        """
        return await self._list_models(lease.key)

    async def check_key(self, key: int) -> None:
        """Check that Groq accepts a key, by listing the models with it.

        Raises:
            KeyRefused: Groq rejected the key.
            ServiceError: Groq failed or was unreachable.
        """
        await self._list_models(key)

    async def _list_models(self, key: int) -> list[JSONObject]:
        with _connection_errors():
            async with asyncio.timeout(_MODELS_TIMEOUT_SECONDS):
                with await self._transport.get_models(key=key) as response:
                    await _raise_for_status(response)
                    text = await _read(response, bytes_max=_MODELS_BYTES_MAX)
        models = decode_object(text).get("data")
        if not isinstance(models, list):
            raise UpstreamInvalid
        models = [model for model in models if _is_model(model)][:_MODELS_MAX]
        encode({"data": models})
        return models


@asynccontextmanager
async def open_groq(
    keys: Sequence[str],
    *,
    base_url: str,
    connections_max: int,
    connect_timeout_seconds: float,
) -> AsyncIterator[HTTPTransport]:
    """Open a transport to Groq for the block, with the headers that the `groq` package sends for each key."""
    # The package only provides the URL and the headers. Its HTTP client is never used.
    async with httpx.AsyncClient(trust_env=False) as unused:
        clients = [AsyncGroq(api_key=key, base_url=base_url, max_retries=0, http_client=unused) for key in keys]
        async with open_transport(
            clients,
            proxy=proxy_for(base_url),
            connections_max=connections_max,
            connect_timeout_seconds=connect_timeout_seconds,
        ) as transport:
            yield transport


async def _batches(response: Response, reader: EventReader) -> AsyncIterator[list[JSONObject]]:
    chunks = ChunkDecoder()
    with _connection_errors(_interrupted):
        while raw := await response.read():
            batch = _Batch(reader.feed(raw), chunks)
            if batch.events:
                yield batch.events
            if batch.error is not None:
                raise batch.error
            if batch.has_ended:
                return
    raise _interrupted()


class _Batch:
    """Events that arrived together, up to the end of the stream or its failure."""

    def __init__(self, events: Sequence[ServerSentEvent], chunks: ChunkDecoder) -> None:
        self.events: list[JSONObject] = []
        self.error: ServiceError | None = None
        self.has_ended = False
        try:
            for event in events:
                if event.data.startswith(_DONE):
                    self.has_ended = True
                    return
                members = checked(chunks.decode(event.data), len(event.data))
                error = _error_of(members) or (members if event.name == "error" else None)
                if error is not None:
                    if _has_usage(members):
                        self.events.append({**members, "choices": []})
                    raise from_event(error)
                self.events.append(members)
        except ServiceError as exc:
            self.error = exc


def _answer(text: bytes) -> JSONObject:
    """Decode an answer without streaming.

    Raises:
        UpstreamInvalid: The answer has no choices or no message.
        ServiceError: The answer contains an error.
    """
    members = checked(decode_object(text), len(text))
    if error := _error_of(members):
        raise from_event(error)
    choices = members.get("choices")
    if not choices or not all(choice.get("message") for choice in choices):
        raise UpstreamInvalid
    return members


def _error_of(members: JSONObject) -> object:
    """Return the error in an answer or a chunk; None without one."""
    error = members.get("error")
    extension = members.get("x_groq")
    if not error and extension:
        error = extension.pop("error", None)
    return error or None


def _has_usage(members: JSONObject) -> bool:
    return bool(members.get("usage") or (members.get("x_groq") or {}).get("usage"))


def _is_model(model: object) -> bool:
    name = model.get("id") if isinstance(model, dict) else None
    return isinstance(name, str) and 0 < len(name) <= _MODEL_ID_CHARACTERS_MAX


async def _raise_for_status(response: Response) -> None:
    """Raise the error of a response whose status is not 2xx."""
    if 200 <= response.status < 300:
        return
    text = await response.read_beginning(_ERROR_BYTES_MAX)
    error = from_status(response.status, response.headers, decode_error(text))
    _log.warning("Groq returned an error.", extra={"status": response.status, "reason": error.reason})
    raise error


async def _read(response: Response, *, bytes_max: int) -> bytes:
    with _connection_errors(_interrupted):
        text = await response.read_beginning(bytes_max + 1)
    if len(text) > bytes_max:
        _log.warning("Groq's answer is too large and was discarded.", extra={"bytes_max": bytes_max})
        raise UpstreamInvalid
    return text


def _unreachable() -> UpstreamFailed:
    return UpstreamFailed(_UNREACHABLE)


def _interrupted() -> UpstreamFailed:
    return UpstreamFailed("The model's answer was interrupted. Try again in a moment.", reason="upstream_cut")


@contextmanager
def _connection_errors(error: Callable[[], UpstreamFailed] = _unreachable) -> Iterator[None]:
    """Convert errors of the connection to `error`, or to `_interrupted` if a malformed answer has begun.

    Only their types and numbers are logged, since the texts of the system's errors contain addresses.
    """
    try:
        yield
    except StaleConnection:
        _log.info("An idle connection to Groq had been closed.")
        raise UpstreamStale(_UNREACHABLE) from None
    except (HTTPClientError, TimeoutError) as exc:
        _log.warning("The connection to Groq failed.", extra=_error_fields(exc))
        raise (_interrupted() if isinstance(exc, MalformedResponse) else error()) from None


def _error_fields(exc: BaseException) -> dict[str, str | int]:
    names: list[str] = []
    fields: dict[str, str | int] = {}
    cause: BaseException | None = exc
    while cause is not None and len(names) < 5:
        names.append(type(cause).__name__)
        for name in ("errno", "status"):
            value = getattr(cause, name, None)
            if isinstance(value, int):
                fields[name] = value
        cause = cause.__cause__ or cause.__context__
    return {"error": " <- ".join(names), **fields}
