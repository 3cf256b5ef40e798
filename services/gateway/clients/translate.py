"""Conversion between OpenAI's JSON and protobuf."""

import msgspec

from services.common.errors import ErrorDetails, InvalidRequest, TooLarge
from services.common.rpc import json_codec
from services.common.rpc.limits import slot_to_proto
from services.common.rpc.sizes import MESSAGE_BYTES_MAX
from services.common.rpc.surface import surface_to_proto
from services.common.rpc.verdict import amounts_to_proto
from services.common.timestamps import timestamp
from services.common.verdict import Verdict
from services.gateway.requests.types import Chat, Hold, JSONObject
from stack.inference.v1 import chat_pb2, inference_pb2

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_RELEASED = ErrorDetails(verdict=Verdict.RELEASED)
"""Inference is not called after an error with these details, so the hold is released."""
_CHAT_BYTES_MAX = MESSAGE_BYTES_MAX - 65_536
"""Maximum size of a chat in a request to inference. The rest is for the context, mainly the models of the key."""


def chat_request(chat: Chat) -> chat_pb2.ChatRequest:
    """Return a chat request as protobuf.

    Raises:
        InvalidRequest: Protobuf cannot represent the request, for example because of a lone surrogate.
        TooLarge: The request exceeds the size limit of gRPC messages.
    """
    message = chat_pb2.ChatRequest()
    try:
        json_codec.to_message(message, chat.members)
    except ValueError as exc:
        raise _not_unicode() from exc
    except RecursionError as exc:
        raise _too_deep() from exc
    if message.ByteSize() > _CHAT_BYTES_MAX:
        text = f"The request is larger than {_CHAT_BYTES_MAX:,} bytes. Shorten the messages."
        raise TooLarge(text, reason="request_too_large", details=_RELEASED)
    return message


def multiplexed_call(hold: Hold, chat: Chat, *, stream: bool) -> tuple[inference_pb2.MultiplexedCall, int]:
    """Return a chat request as a call of a stream, and its size in bytes.

    Raises:
        InvalidRequest: The request contains a lone surrogate, or is nested too deeply.
    """
    try:
        text = _encode(chat.members)
    except UnicodeEncodeError as exc:
        raise _not_unicode() from exc
    except RecursionError as exc:
        raise _too_deep() from exc
    call = inference_pb2.MultiplexedCall(context=request_context(hold, chat), chat_json=text, stream=stream)
    return call, call.ByteSize()


def _not_unicode() -> InvalidRequest:
    message = "The request contains text that is not valid Unicode. Remove half surrogate pairs."
    return InvalidRequest(message, details=_RELEASED)


def _too_deep() -> InvalidRequest:
    message = "The request is nested too deeply. Use fewer levels of arrays and objects."
    return InvalidRequest(message, details=_RELEASED)


def request_context(hold: Hold, chat: Chat) -> inference_pb2.RequestContext:
    """Return the account, key, slot, permitted models and surface of a request."""
    return inference_pb2.RequestContext(
        request_id=hold.request_id,
        account_id=hold.principal.account_id,
        key_id=hold.principal.key_id,
        day=hold.day,
        reserved_at=timestamp(hold.reserved_at),
        models=hold.principal.models,
        surface=surface_to_proto(chat.surface),
        held=amounts_to_proto(hold.held),
        quota_account_id=hold.principal.quota_account_id,
        weight=hold.principal.weight,
        slot=slot_to_proto(hold.slot),
    )


def models(listed: list[chat_pb2.Model]) -> list[JSONObject]:
    """Return models as JSON objects, whose values are read by the gateway, unlike those of answers."""
    return [_decode(json_codec.encode(model)) for model in listed]
