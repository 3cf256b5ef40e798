"""The ASGI application: Groq's endpoints, and endpoints that control and inspect the stand-in."""

from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send
from ulid import ULID

from tools.groq_standin import catalogue, errors, model_list, modes, wire
from tools.groq_standin.chat import Chat, Settings, refuse
from tools.groq_standin.exchange import ClientLeft, Exchange
from tools.groq_standin.journal import Journal
from tools.groq_standin.model_list import ModelList

CHAT_PATH = "/openai/v1/chat/completions"
MODELS_PATH = "/openai/v1/models"

_Handler = Callable[[Exchange], Awaitable[None]]


class App:
    """The ASGI application of the stand-in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._journal = Journal(settings.journal_size, settings.journal_bodies)
        self._chat = Chat(settings, self._journal)
        self._list = ModelList()
        self._routes: dict[tuple[str, str], _Handler] = {
            ("GET", MODELS_PATH): self._models,
            ("GET", "/model-list"): lambda exchange: _reply(exchange, self._list.as_wire()),
            ("PUT", "/model-list"): self._change_models,
            ("GET", "/journal"): self._list_journal,
            ("DELETE", "/journal"): self._clear_journal,
            ("GET", "/journal/summary"): lambda exchange: _reply(exchange, self._journal.summary()),
            ("GET", "/in-flight"): lambda exchange: _reply(exchange, {"in_flight": self._journal.in_flight}),
            ("GET", "/modes"): lambda exchange: _reply(exchange, [mode.as_wire() for mode in modes.MODES.values()]),
            ("GET", "/healthz"): lambda exchange: _reply(exchange, {"status": "ok"}),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = Exchange(scope, receive, send)
        method, path = scope["method"], scope["path"]
        if path == CHAT_PATH and method == "POST":
            return await self._chat.serve(exchange)
        try:
            await exchange.body()
            await self._route(exchange, method, path)
        except errors.Refused as exc:
            ending = await refuse(exchange, _request_id(), exc.refusal)
            await exchange.finish(ending.tail)
        except ClientLeft:
            # Requests other than chats are not in the journal, so there is nothing to record.
            return None

    async def _route(self, exchange: Exchange, method: str, path: str) -> None:
        handler = self._routes.get((method, path))
        if handler:
            return await handler(exchange)
        # Ids may contain slashes. The server has already decoded %2F.
        if method == "GET" and path.startswith(MODELS_PATH + "/"):
            return await self._model(exchange, path.removeprefix(MODELS_PATH + "/"))
        raise errors.Refused(errors.unknown_url(method, path))

    async def _models(self, exchange: Exchange) -> None:
        self._authenticate(exchange)
        await _reply_with(exchange, await self._list.body(exchange))

    async def _change_models(self, exchange: Exchange) -> None:
        kind = _query(exchange, "answer")
        if kind not in model_list.KINDS:
            allowed = ", ".join(sorted(model_list.KINDS))
            raise errors.Refused(errors.refusal(400, f"'answer' must be one of {allowed}"))
        self._list.kind = kind
        await _reply(exchange, self._list.as_wire())

    async def _model(self, exchange: Exchange, model_id: str) -> None:
        self._authenticate(exchange)
        if model_id not in catalogue.MODELS:
            raise errors.Refused(errors.unknown_model(model_id))
        await _reply(exchange, catalogue.MODELS[model_id].as_wire())

    def _authenticate(self, exchange: Exchange) -> None:
        if not self._settings.accepts(exchange.bearer_key):
            raise errors.Refused(errors.invalid_key())

    async def _list_journal(self, exchange: Exchange) -> None:
        after = _query(exchange, "after")
        await _reply(exchange, list(self._journal.entries(int(after) if after.isdecimal() else 0)))

    async def _clear_journal(self, exchange: Exchange) -> None:
        self._journal.clear()
        await _reply(exchange, {"status": "emptied"})


def _request_id() -> str:
    return f"req_{ULID()}".lower()


def _query(exchange: Exchange, name: str) -> str:
    """Return a query parameter, or an empty string if it is missing."""
    query: bytes = exchange.scope["query_string"]
    return parse_qs(query.decode("latin-1")).get(name, [""])[0]


async def _reply(exchange: Exchange, value: object) -> None:
    await _reply_with(exchange, wire.document(value))


async def _reply_with(exchange: Exchange, body: bytes) -> None:
    headers = wire.common_headers(_request_id(), b"application/json")
    await exchange.start(200, [*headers, (b"content-length", b"%d" % len(body))])
    await exchange.finish(body)
