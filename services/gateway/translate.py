"""OpenAI's JSON ↔ protobuf."""

from services.common import mirror
from services.common.errors import InvalidRequest
from services.common.timestamps import timestamp
from services.gateway.pipeline import Chat, Hold, Members, Verdict
from stack.inference.v1 import chat_pb2, inference_pb2

_VERDICTS = {
    inference_pb2.VERDICT_CHARGED: Verdict.CHARGED,
    inference_pb2.VERDICT_RELEASED: Verdict.RELEASED,
}


def chat_request(chat: Chat) -> chat_pb2.ChatRequest:
    """Return a chat request as protobuf.

    Raises:
        InvalidRequest: A string holds what protobuf cannot.
    """
    message = chat_pb2.ChatRequest()
    try:
        mirror.fill(message, chat.members)
    except ValueError as exc:
        # The call was never made, so its hold is free.
        facts = {"verdict": Verdict.RELEASED.value}
        raise InvalidRequest("The request holds text that is not valid Unicode.", metadata=facts) from exc
    return message


def request_context(hold: Hold) -> inference_pb2.RequestContext:
    """Return where a request is accounted."""
    return inference_pb2.RequestContext(
        request_id=hold.request_id,
        account_id=hold.principal.account_id,
        key_id=hold.principal.key_id,
        day=hold.day,
        reserved_at=timestamp(hold.reserved_at),
        models=hold.principal.models,
    )


def verdict(value: int) -> Verdict | None:
    """Return a verdict, or None for none."""
    return _VERDICTS.get(value)  # type: ignore[call-overload,no-any-return]


def models(listed: list[chat_pb2.Model]) -> list[Members]:
    """Return models as JSON objects."""
    return [mirror.members(model) for model in listed]
