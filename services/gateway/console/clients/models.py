"""gRPC client for the model list."""

from collections.abc import Sequence

from grpc import aio

from services.common.rpc.status import rpc_errors
from services.gateway.apis.model_facts import facts_of
from services.gateway.clients.translate import models as to_json
from services.gateway.console.ports import Model, ModelList
from services.gateway.requests.types import JSONObject
from stack.inference.v1 import inference_pb2, inference_pb2_grpc


class GrpcModelsClient:
    """A `ModelsClient` over inference's InferenceService."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Use `channel`, with a timeout of `timeout_seconds` per call."""
        self._stub = inference_pb2_grpc.InferenceServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def list_models(self, permitted: Sequence[str] = ()) -> ModelList:
        """Return the models, by name."""
        request = inference_pb2.ListModelsRequest(permitted=permitted)
        with rpc_errors(unavailable_reason="inference_unavailable"):
            answer = await self._stub.ListModels(request, timeout=self._timeout_seconds)
        return ModelList(models_of(to_json(list(answer.models))), answer.default_model)


def models_of(listed: Sequence[JSONObject]) -> list[Model]:
    """Return the models of a list in Groq's format, by name. Members that are missing or malformed are not known."""
    facts = facts_of(listed)
    named = {name: model for model in listed if isinstance(name := model.get("id"), str)}
    return [
        Model(name, _text(model, "owned_by"), facts[name], _chats(model), _features(model))
        for name, model in sorted(named.items())
    ]


def _text(model: JSONObject, member: str) -> str:
    value = model.get(member)
    return value if isinstance(value, str) else ""


def _chats(model: JSONObject) -> bool:
    """Return whether a model reads and writes text. Without modalities in the list, it does."""
    modalities = [model.get(member) for member in ("input_modalities", "output_modalities")]
    return all("text" in one for one in modalities if isinstance(one, list))


def _features(model: JSONObject) -> tuple[str, ...] | None:
    features = model.get("supported_features")
    return tuple(one for one in features if isinstance(one, str)) if isinstance(features, list) else None
