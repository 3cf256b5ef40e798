"""Groq: chats over the wire itself, everything else through the official package, and what can go wrong with either.

Two traps of the transport are handled here: a refused connection comes as a time-out from the package, and a stream
goes on upstream until its connection is closed.
"""

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import groq
import httpx
import msgspec
from groq import AsyncGroq, DefaultAioHttpClient

from services.common.errors import DeadlineExceeded, ServiceError, Unavailable
from services.common.http_proxy import proxy_for
from services.common.silence import Silence
from services.inference.chat import Members, Reply, Turn
from services.inference.rate_limits import rest_after_answer
from services.inference.refusals import from_event, from_status
from services.inference.sse import EventReader, ServerSentEvent
from services.inference.supply import UpstreamFailed
from services.inference.wire import Wire, open_wire

_log = logging.getLogger(__name__)
_MODELS_PATH = "/openai/v1/models"
_MODELS_TIMEOUT_SECONDS = 5.0
_DONE = b"[DONE]"
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout)
_TIMED_OUT = (groq.APITimeoutError, httpx.TimeoutException, aiohttp.SocketTimeoutError)
_OBJECT = (dict, type(None))
"""An object, or nothing."""
_LISTING: Any = {"timeout": _MODELS_TIMEOUT_SECONDS}


class GroqProvider:
    """The `Provider` that is Groq."""

    def __init__(self, wire: Wire, clients: Sequence[AsyncGroq], *, idle_timeout_seconds: float) -> None:
        """Chat over `wire`; ask all else through `clients`, one for each key, in the keys' order."""
        self._wire = wire
        self._clients = clients
        self._idle_timeout_seconds = idle_timeout_seconds

    async def complete(self, body: bytes, turn: Turn) -> Reply:
        """Return the answer to a chat request."""
        with groq_errors():
            async with await self._wire.post(body, key=turn.key) as response:
                text = await response.read()
        _check(response, text)
        turn.answered(rest_seconds=rest_after_answer(response.headers))
        return Reply(_chat_object(text))

    @asynccontextmanager
    async def stream(self, body: bytes, turn: Turn) -> AsyncIterator[AsyncIterator[list[Members]]]:
        """Open a stream; it yields the events that arrived together, and ends only after Groq's `[DONE]`."""
        with groq_errors():
            response = await self._wire.post(body, key=turn.key)
        # Leaving the block gives the connection back when the stream was read to its end, and else closes it.
        async with response:
            if not _is_answer(response):
                with groq_errors():
                    text = await response.read()
                _check(response, text)
            turn.answered(rest_seconds=rest_after_answer(response.headers))
            with _stalls():
                async with Silence(self._idle_timeout_seconds) as silence:
                    yield _batches(response.content, silence)

    async def list_models(self, turn: Turn) -> list[Members]:
        """Return the models that are served now."""
        listing = await self._listing(turn.key)
        turn.answered(rest_seconds=0)
        models = listing.get("data")
        return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []

    async def check_key(self, key: int) -> None:
        """Ask for the models with one key, to see whether Groq accepts it.

        Raises:
            ServiceError: Groq refuses the key, or cannot be asked.
        """
        await self._listing(key)

    async def _listing(self, key: int) -> Members:
        with groq_errors():
            response = await self._clients[key].get(_MODELS_PATH, cast_to=httpx.Response, options=_LISTING)
        return _object(response.content)


async def _batches(content: aiohttp.StreamReader, silence: Silence) -> AsyncIterator[list[Members]]:
    reader = EventReader()
    with groq_errors():
        while raw := await content.readany():
            silence.broken()
            batch = _Batch(reader.feed(raw))
            if batch.chunks:
                yield batch.chunks
            if batch.error is not None:
                raise batch.error
            if batch.ended:
                return
    raise UpstreamFailed("the model's answer broke off", reason="upstream_cut")


@contextmanager
def _stalls() -> Iterator[None]:
    """Turn a silence that lasted too long into an error of our tree."""
    try:
        yield
    except TimeoutError as exc:
        message = "the model went silent in the middle of its answer"
        raise DeadlineExceeded(message, reason="upstream_stalled") from exc


@asynccontextmanager
async def open_groq(
    keys: Sequence[str],
    *,
    base_url: str,
    connections_max: int,
    connect_timeout_seconds: float,
    first_byte_timeout_seconds: float,
) -> AsyncIterator[tuple[Wire, list[AsyncGroq]]]:
    """Open a wire and one client of the package for each key; nothing is retried behind our back."""
    timeout = httpx.Timeout(first_byte_timeout_seconds, connect=connect_timeout_seconds)
    limits = httpx.Limits(
        max_connections=connections_max, max_keepalive_connections=connections_max, keepalive_expiry=60
    )
    proxy = proxy_for(base_url)
    # The package reads the environment's proxies in its own way, and its authorities only when it may read that too.
    async with DefaultAioHttpClient(
        limits=limits,
        timeout=timeout,
        trust_env=False,
        verify=httpx.create_ssl_context(),
        proxy=proxy.url_with_credentials if proxy else None,
    ) as pool:
        clients = [
            AsyncGroq(api_key=key, base_url=base_url, max_retries=0, timeout=timeout, http_client=pool) for key in keys
        ]
        async with open_wire(
            clients,
            proxy=proxy,
            connections_max=connections_max,
            connect_timeout_seconds=connect_timeout_seconds,
            first_byte_timeout_seconds=first_byte_timeout_seconds,
        ) as wire:
            yield wire, clients


def _is_answer(response: aiohttp.ClientResponse) -> bool:
    return 200 <= response.status < 300


def _check(response: aiohttp.ClientResponse, text: bytes) -> None:
    """Raise what an answer means that is not 2xx."""
    if _is_answer(response):
        return
    error = from_status(response.status, response.headers, _value(text))
    _log.warning("groq refused", extra={"status": response.status, "reason": error.reason})
    raise error


def _value(text: bytes) -> object:
    """Return the JSON value of an error's body, or None when it is none: the edge in front of Groq answers in HTML."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


@contextmanager
def groq_errors() -> Iterator[None]:
    """Turn what the package, its transport and its client raise into errors of our tree."""
    try:
        yield
    except groq.APIStatusError as exc:
        error = from_status(exc.response.status_code, exc.response.headers, exc.body)
        _log.warning("groq refused", extra={"status": exc.response.status_code, "reason": error.reason})
        raise error from exc
    except (groq.APIConnectionError, httpx.HTTPError, aiohttp.ClientError) as exc:
        raise _connection_error(exc) from exc


def _connection_error(exc: Exception) -> ServiceError:
    causes = list(_causes(exc))
    _log.warning("groq cannot be reached", extra={"error": " <- ".join(repr(cause) for cause in causes)})
    refused = any(isinstance(cause, _NOT_CONNECTED) for cause in causes)
    timed_out = any(isinstance(cause, _TIMED_OUT) for cause in causes)
    if timed_out and not refused:
        return DeadlineExceeded("the model did not answer in time", reason="upstream_timeout")
    return UpstreamFailed("the model cannot be reached just now; try again")


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


class _Batch:
    """Events that arrived together: what is good before the stream's end or its failure still counts."""

    def __init__(self, events: Sequence[ServerSentEvent]) -> None:
        self.chunks: list[Members] = []
        self.error: ServiceError | None = None
        self.ended = False
        try:
            for event in events:
                if event.data.startswith(_DONE):
                    self.ended = True
                    return
                self.chunks.append(_chunk(event))
        except ServiceError as exc:
            self.error = exc


def _chunk(event: ServerSentEvent) -> Members:
    members = _chat_object(event.data)
    error = members.get("error") or (members.get("x_groq") or {}).get("error")
    if error or event.name == "error":
        raise from_event(error)
    return members


def _chat_object(raw: bytes) -> Members:
    """Return an answer, or a piece of one, whose outline is as Groq documents it, so that nobody has to look again."""
    members = _object(raw)
    if not _has_outline(members):
        _log.warning("groq sent an answer of another form", extra={"bytes": len(raw)})
        raise Unavailable("the model's answer cannot be read", reason="upstream_invalid")
    return members


def _has_outline(members: Members) -> bool:
    choices = members.get("choices")
    if choices is not None and not (isinstance(choices, list) and all(map(_is_choice, choices))):
        return False
    return isinstance(members.get("usage"), _OBJECT) and isinstance(members.get("x_groq"), _OBJECT)


def _is_choice(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("delta"), _OBJECT) and isinstance(value.get("message"), _OBJECT)


def _object(raw: bytes) -> Members:
    try:
        return _decode(raw)
    except (msgspec.DecodeError, RecursionError) as exc:
        _log.warning("groq sent what is not a JSON object", extra={"bytes": len(raw)})
        raise Unavailable("the model's answer cannot be read", reason="upstream_invalid") from exc
