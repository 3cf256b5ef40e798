"""The endpoint `POST /openai/v1/chat/completions`: authentication, validation, and dispatch to delivery or refusal."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import msgspec
from ulid import ULID

from tools.groq_standin import chunks, delivery, error_text, errors, markers, turns, wire
from tools.groq_standin.ask import Ask
from tools.groq_standin.catalogue import Model
from tools.groq_standin.completion import answer
from tools.groq_standin.delivery import Ending, Job
from tools.groq_standin.exchange import ClientLeft, Exchange
from tools.groq_standin.journal import Entry, Journal
from tools.groq_standin.limits import LimitSettings, RateLimits
from tools.groq_standin.mode import MarkerError
from tools.groq_standin.script import Flaky, Script
from tools.groq_standin.validator import Validator

_FLAKY_IDS_MAX = 100_000
_decoder = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings from the command line."""

    keys: frozenset[str] = frozenset()
    """Accepted keys; empty accepts every key that starts with `gsk_`."""
    token_delay_ms: int = 0
    first_token_delay_ms: int = 0
    allow_logprobs: bool = False
    refuse_names: bool = False
    journal_size: int = 200_000
    journal_bodies: int = 1_000
    limits: LimitSettings = field(default_factory=LimitSettings)

    def accepts(self, key: str) -> bool:
        """Return whether `key` is valid."""
        return key in self.keys if self.keys else key.startswith("gsk_")


class Chat:
    """The chat endpoint. One object serves all requests concurrently."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._validator = Validator(allow_logprobs=settings.allow_logprobs, refuse_names=settings.refuse_names)
        self._limits = RateLimits(settings.limits)
        self._failures: OrderedDict[str, int] = OrderedDict()

    async def serve(self, exchange: Exchange) -> None:
        """Serve one request."""
        entry = self._journal.open(f"req_{ULID()}".lower())
        try:
            ending = await self._answer_or_refuse(exchange, entry)
        except ClientLeft:
            return self._journal.close(entry, is_aborted=True)
        except BaseException:
            # A shutdown or a defect must not leave the request in flight.
            self._journal.close(entry)
            raise
        self._journal.close(entry, is_completed=ending.how == "finish")
        if ending.how == "finish":
            return await exchange.finish(ending.tail)
        return await exchange.drop(ending.how)

    async def _answer_or_refuse(self, exchange: Exchange, entry: Entry) -> Ending:
        try:
            return await self._answer(exchange, entry)
        except errors.Refused as exc:
            entry.status = exc.refusal.status
            return await refuse(exchange, entry.x_groq_id, exc.refusal)

    async def _answer(self, exchange: Exchange, entry: Entry) -> Ending:
        body = await self._body(exchange, entry)
        model = self._validator.check(body)
        ask = Ask.of(body)
        entry.last_user_message = ask.last_user_text
        job = self._job(ask, model, self._script(entry, ask), entry)
        asked = ask.prompt_tokens + (ask.max_completion_tokens or ask.max_tokens or 0)
        reservation = self._limits.reserve(exchange.bearer_key, model.id, asked)
        if reservation is not None:
            job = replace(job, limit_headers=reservation.headers)
        try:
            if job.script.headers_ms:
                await exchange.pause(job.script.headers_ms)
            return await self._perform(exchange, entry, job, model)
        finally:
            if reservation is not None:
                reservation.settle(entry.usage.total_tokens if entry.usage else 0)

    async def _body(self, exchange: Exchange, entry: Entry) -> object:
        raw = await exchange.body()
        entry.key_tail = exchange.bearer_key[-4:]
        try:
            body = _decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            self._authenticate(exchange)
            raise errors.Refused(errors.refusal(400, f"could not parse the request body as JSON: {exc}")) from exc
        self._journal.keep_request(entry, body)
        if isinstance(body, dict):
            entry.model = body["model"] if isinstance(body.get("model"), str) else None
            entry.is_stream = body.get("stream") is True
        self._authenticate(exchange)
        return body

    def _authenticate(self, exchange: Exchange) -> None:
        if not self._settings.accepts(exchange.bearer_key):
            raise errors.Refused(errors.invalid_key())

    def _script(self, entry: Entry, ask: Ask) -> Script:
        try:
            script = _played(ask) or markers.parse(ask.last_user_text)
        except MarkerError as exc:
            raise errors.Refused(errors.refusal(400, str(exc))) from exc
        entry.mode = script.mode
        return _failing(script, script.flaky) if script.flaky and self._fails(script.flaky) else script

    def _fails(self, flaky: Flaky) -> bool:
        failed = self._failures.get(flaky.id, 0)
        if failed >= flaky.times:
            return False
        self._failures[flaky.id] = failed + 1
        if len(self._failures) > _FLAKY_IDS_MAX:
            self._failures.popitem(last=False)
        return True

    def _job(self, ask: Ask, model: Model, script: Script, entry: Entry) -> Job:
        identity = chunks.identity(entry.x_groq_id, model.id, ask.seed, ask.service_tier, script.odd_id)
        return Job(
            ask=ask,
            script=script,
            answer=answer(ask, model, script),
            identity=identity,
            names_channel=model.names_channel,
            first_ms=self._settings.first_token_delay_ms if script.first_ms is None else script.first_ms,
            token_ms=self._settings.token_delay_ms if script.token_ms is None else script.token_ms,
        )

    async def _perform(self, exchange: Exchange, entry: Entry, job: Job, model: Model) -> Ending:
        script, prompt_tokens = job.script, job.answer.prompt_tokens
        if script.refusal:
            raise errors.Refused(_refusal(script, script.refusal, model, prompt_tokens))
        if prompt_tokens > model.context_window:
            raise errors.Refused(errors.context_length())
        if script.fault == "hang":
            await exchange.pause(delivery.HANG_MS)
            return Ending("close")
        if script.fault == "reset":
            return Ending("reset")
        if script.no_answer:
            return await delivery.nothing(exchange, entry, job, script.no_answer)
        entry.completion_id = job.identity.completion_id
        deliver = delivery.stream if job.ask.stream else delivery.whole
        return await deliver(exchange, entry, job)


def _played(ask: Ask) -> Script | None:
    """Return the script of the turn that answers `ask`; None without a script, or after its last turn."""
    found = turns.position(ask.texts)
    if found is None:
        return None
    text, answers = found
    script = markers.parse(text)
    return replace(script, turn=script.turns[answers]) if answers < len(script.turns) else None


def _failing(script: Script, flaky: Flaky) -> Script:
    """Return the script of a failing flaky request. Its own `retry_after` has precedence."""
    failing = markers.named(flaky.status)
    return replace(failing, names=script.names, retry_after=script.retry_after or failing.retry_after)


def _refusal(script: Script, name: str, model: Model, prompt_tokens: int) -> errors.Refusal:
    wait = script.retry_after
    asked = errors.Asked(model.id, prompt_tokens, wait) if wait else errors.Asked(model.id, prompt_tokens)
    refusal = error_text.altered_refusal(errors.REFUSALS[name](asked), script)
    return errors.with_retry_after(refusal, wait) if wait else refusal


async def refuse(exchange: Exchange, request_id: str, refusal: errors.Refusal) -> Ending:
    """Send the headers of a refusal.

    Returns:
        The ending with the body.

    Raises:
        ClientLeft: The client disconnected.
    """
    exchange.check()
    headers: dict[bytes, bytes] = {b"content-type": refusal.content_type}
    if not refusal.is_from_edge:
        headers |= dict(wire.common_headers(request_id, refusal.content_type))
    if refusal.is_counted:
        headers |= dict(wire.limit_headers(0))
    headers |= dict(refusal.headers) | {b"content-length": b"%d" % len(refusal.body)}
    await exchange.start(refusal.status, list(headers.items()))
    return Ending(tail=refusal.body)
