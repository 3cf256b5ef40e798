"""Sending of answers, as a document or a stream, with the faults of the script."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tools.groq_standin import chunks, error_text, errors, no_answer, wire
from tools.groq_standin.ask import Ask
from tools.groq_standin.completion import Answer
from tools.groq_standin.encodings import SSEEncoder, corrupt
from tools.groq_standin.exchange import ClientLeft, Exchange
from tools.groq_standin.journal import Entry
from tools.groq_standin.outlet import Outlet
from tools.groq_standin.script import Script
from tools.groq_standin.usage import as_sent

HANG_MS = 300_000
"""Maximum duration of a hang."""
_ONE_WRITE_BYTES_MAX = 65_536
_STOPPED_EARLY = "generation stopped early: the stand-in was asked to"
_BREAKS = frozenset(
    {"error_event", "x_groq_error", "cut", "end", "finish_only", "bad_chunk", "hang_stream", "reset_stream"}
)
_NOT_A_SIZE = b"zz\r\n"
_EVENTS = b"text/event-stream"
_JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Job:
    """An accepted request and its answer."""

    ask: Ask
    script: Script
    answer: Answer
    identity: chunks.Identity
    names_channel: bool
    first_ms: int
    """Pause before the first token."""
    token_ms: int
    """Pause between two tokens."""
    limit_headers: wire.Headers | None = None
    """The `x-ratelimit-*` headers; None if no limits are enforced."""

    @property
    def usage(self) -> dict[str, object]:
        """The reported usage, which is wrong if the script has `odd_counts`."""
        return as_sent(self.answer.usage, self.script.odd_counts)


@dataclass(frozen=True, slots=True)
class Ending:
    """The last step of an answer, which is taken after the journal entry is closed.

    So a client that has read the end of an answer finds a closed entry in the journal.
    """

    how: Literal["finish", "close", "reset"] = "finish"
    tail: bytes = b""


async def nothing(exchange: Exchange, entry: Entry, job: Job, kind: str) -> Ending:
    """Send a 200 without an answer, as a document or a stream. It generates no tokens."""
    body = no_answer.events(kind, job.identity) if job.ask.stream else no_answer.body(kind, job.identity)
    length = [] if job.ask.stream else [(b"content-length", b"%d" % len(body))]
    await _start(exchange, entry, job, _EVENTS if job.ask.stream else _JSON, length)
    return Ending(tail=body)


async def whole(exchange: Exchange, entry: Entry, job: Job) -> Ending:
    """Answer with one JSON document.

    Raises:
        ClientLeft: The client disconnected before the end.
        Refused: The script requests a failed generation, which is an ordinary error without a stream.
    """
    await _generate(exchange, entry, job)
    fault = job.script.fault
    if fault == "error_event":
        status = job.script.error_status
        body = error_text.altered(errors.generation_failure(status), job.script)
        raise errors.Refused(errors.Refusal(status, body))
    body = _document(entry, job)
    length = [] if fault == "bad_chunk" else [(b"content-length", b"%d" % len(body))]
    await _start(exchange, entry, job, _JSON, length)
    if fault in _BREAKS and fault != "x_groq_error":
        await exchange.write(body[: len(body) // 2])
        return await _broken_off(exchange, "cut" if fault == "end" else fault)
    entry.finish_reason = None if fault == "x_groq_error" else job.answer.finish_reason
    if job.script.drips:
        await Outlet(exchange, entry).drip(body[:-1])
        return Ending(tail=body[-1:])
    if len(body) > _ONE_WRITE_BYTES_MAX:
        # Hold the last byte back until the kernel has the rest, which shows that the client reads.
        await exchange.write(body[:-1])
        await exchange.settle()
        return Ending(tail=body[-1:])
    return Ending(tail=body)


async def stream(exchange: Exchange, entry: Entry, job: Job) -> Ending:
    """Answer with a stream of events.

    Raises:
        ClientLeft: The client disconnected before the end.
    """
    events = chunks.Chunks(job.identity, names_channel=job.names_channel)
    script = job.script
    outlet = Outlet(exchange, entry, encode=_encoder(script), burst=script.burst, drips=script.drips)
    await _start(exchange, entry, job, _EVENTS, [])
    if script.fault == "finish_only":
        entry.usage = job.answer.usage_after(0)
        await outlet.event(events.finish("stop", {}, frozenset()))
        await outlet.flush()
        return await _broken_off(exchange, script.fault)
    await _send_tokens(exchange, entry, job, events, outlet)
    if script.fault in _BREAKS:
        return await _break_stream(exchange, entry, job, events, outlet)
    usage, places = job.usage, script.usage_places
    await outlet.event(events.finish(job.answer.finish_reason, usage, places))
    entry.finish_reason = job.answer.finish_reason
    if places & {"x_groq", "top"}:
        entry.usage_sent = usage
    if job.ask.wants_usage_chunk and "last" in places:
        await outlet.event(events.usage(usage))
        entry.usage_sent = usage
    await outlet.flush()
    if script.fault == "no_done":
        return Ending("close" if script.ends_abruptly else "finish")
    return _done(entry, outlet)


def _document(entry: Entry, job: Job) -> bytes:
    script = job.script
    error = _STOPPED_EARLY if script.fault == "x_groq_error" else None
    shows_usage = bool(script.usage_places) and (error is None or script.error_has_usage)
    entry.usage_sent = job.usage if shows_usage else None
    body = chunks.whole(job.identity, job.answer, usage=entry.usage_sent, error=error)
    return corrupt(body) if script.unclean else body


def _encoder(script: Script) -> Callable[[bytes], bytes]:
    """Return the function that encodes events in the form that the script requests."""
    if not script.unclean and not script.sse_forms:
        return bytes
    sse = SSEEncoder(script.sse_forms)
    return lambda event: sse(corrupt(event))


async def _generate(exchange: Exchange, entry: Entry, job: Job) -> None:
    made = 0
    try:
        if job.first_ms:
            await exchange.pause(job.first_ms)
        for _ in job.answer.tokens() if job.token_ms else ():
            await exchange.pause(job.token_ms)
            made += 1
    except ClientLeft:
        entry.usage = job.answer.usage_after(made)
        raise
    entry.usage = job.answer.usage


async def _start(exchange: Exchange, entry: Entry, job: Job, content_type: bytes, extra: wire.Headers) -> None:
    exchange.check()
    common = wire.common_headers(job.identity.request_id, content_type)
    limits = wire.limit_headers(job.answer.usage.total_tokens) if job.limit_headers is None else job.limit_headers
    await exchange.start(200, common + limits + extra)
    entry.status = 200


async def _send_tokens(exchange: Exchange, entry: Entry, job: Job, events: chunks.Chunks, outlet: Outlet) -> None:
    stops_after = job.script.after if job.script.fault in _BREAKS else None
    made = 0
    try:
        await outlet.event(events.role(job.answer))
        if job.first_ms:
            await exchange.pause(job.first_ms)
        for event in _token_events(job, events):
            if made == stops_after:
                break
            if made and job.token_ms:
                await exchange.pause(job.token_ms)
            await outlet.event(event)
            made += 1
    finally:
        entry.usage = job.answer.usage_after(made)


def _token_events(job: Job, events: chunks.Chunks) -> Iterator[bytes]:
    for key, text in job.answer.tokens():
        yield events.token(key, text)
    for index, call in enumerate(job.answer.tool_calls):
        yield events.tool_call(call, index)


async def _break_stream(exchange: Exchange, entry: Entry, job: Job, events: chunks.Chunks, outlet: Outlet) -> Ending:
    match job.script.fault:
        case "error_event":
            status = job.script.error_status
            failure = errors.generation_failure(status, status_code=status)
            await outlet.event(b"event: error\ndata: %b\n" % error_text.altered(failure, job.script))
        case "x_groq_error":
            if job.script.error_has_usage and entry.usage:
                entry.usage_sent = as_sent(entry.usage, job.script.odd_counts)
            await outlet.event(events.error(_STOPPED_EARLY, entry.usage_sent))
            await outlet.flush()
            return _done(entry, outlet)
    await outlet.flush()
    return await _broken_off(exchange, job.script.fault)


async def _broken_off(exchange: Exchange, fault: str | None) -> Ending:
    await exchange.settle()
    match fault:
        case "hang_stream":
            await exchange.pause(HANG_MS)
            return Ending("close")
        case "bad_chunk":
            exchange.write_raw(_NOT_A_SIZE)
            return Ending("close")
        case "cut" | "finish_only":
            return Ending("close")
        case "reset_stream":
            return Ending("reset")
    return Ending()


def _done(entry: Entry, outlet: Outlet) -> Ending:
    entry.events_sent += 1
    return Ending(tail=outlet.encode(chunks.DONE))
