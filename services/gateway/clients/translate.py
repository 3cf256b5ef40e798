"""Conversion between OpenAI's JSON and protobuf."""

import msgspec

from services.common.errors import ErrorDetails, InvalidRequest, TooLarge
from services.common.rpc import json_codec
from services.common.rpc.sizes import MESSAGE_BYTES_MAX
from services.common.rpc.surface import surface_to_proto
from services.common.rpc.verdict import amounts_to_proto
from services.common.timestamps import timestamp
from services.common.verdict import Verdict
from services.gateway.requests.types import Chat, Hold, JSONObject
from stack.inference.v1 import chat_pb2, inference_pb2

_decode = msgspec.json.Decoder().decode
_CHAT_BYTES_MAX = MESSAGE_BYTES_MAX - 65_536
"""Maximum size of a chat in a request to inference. The rest is for the context, mainly the models of the key."""


def chat_request(chat: Chat) -> chat_pb2.ChatRequest:
    """Return a chat request as protobuf.

    Raises:
        InvalidRequest: Protobuf cannot represent the request, for example because of a lone surrogate.
        TooLarge: The request exceeds the size limit of gRPC messages.
    """
    # Inference is not called after these errors, so the hold is released.
    details = ErrorDetails(verdict=Verdict.RELEASED)
    message = chat_pb2.ChatRequest()
    try:
        json_codec.to_message(message, chat.members)
    except ValueError as exc:
        raise InvalidRequest(
            "The request contains text that is not valid Unicode. Remove half surrogate pairs.", details=details
        ) from exc
    except RecursionError as exc:
        raise InvalidRequest(
            "The request is nested too deeply. Use fewer levels of arrays and objects.", details=details
        ) from exc
    if message.ByteSize() > _CHAT_BYTES_MAX:
        text = f"The request is larger than {_CHAT_BYTES_MAX:,} bytes. Shorten the messages."
        raise TooLarge(text, reason="request_too_large", details=details)
    return message


def request_context(hold: Hold, chat: Chat) -> inference_pb2.RequestContext:
    """Return the account, key, day, permitted models and surface of a request."""
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
    )


def models(listed: list[chat_pb2.Model]) -> list[JSONObject]:
    """Return models as JSON objects, whose values are read by the gateway, unlike those of answers."""
    return [_decode(json_codec.encode(model)) for model in listed]
