"""The models of the stand-in: Groq's public list of late 2026, with all members.

The retired llama ids are omitted: ordinary keys get 404 `model_not_found` for them since August 2026.
"""

from dataclasses import dataclass

_TEXT = ("text",)
"""Modalities of a text model."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model of `GET /openai/v1/models`."""

    id: str
    created: int
    owned_by: str
    context_window: int
    max_completion_tokens: int
    name: str
    input_modalities: tuple[str, ...] = _TEXT
    output_modalities: tuple[str, ...] = _TEXT
    supported_features: tuple[str, ...] = ()
    reasoning_efforts: tuple[str, ...] = ()
    """Accepted values of `reasoning_effort`; empty for a model that does not reason."""
    reasons_unasked: bool = False
    """Whether the model reasons if the request has no reasoning parameters."""
    names_channel: bool = False
    """Whether streamed reasoning has `"channel":"analysis"`, as with gpt-oss."""

    @property
    def chats(self) -> bool:
        """Whether the model accepts and returns text."""
        return "text" in self.input_modalities and "text" in self.output_modalities

    def as_wire(self) -> dict[str, object]:
        """Return the model object, in Groq's key order."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": self.owned_by,
            "active": True,
            "context_window": self.context_window,
            "public_apps": None,
            "max_completion_tokens": self.max_completion_tokens,
            "name": self.name,
            "input_modalities": self.input_modalities,
            "output_modalities": self.output_modalities,
            "supported_features": self.supported_features,
        }


_FEATURES = ("tools", "json_mode", "structured_outputs", "reasoning")
_OSS_EFFORTS = ("low", "medium", "high")
_QWEN_EFFORTS = ("none", "default", "low", "medium", "high")
_SPEECH = ("audio",)


def _gpt_oss(suffix: str, created: int, name: str) -> Model:
    return Model(
        id=f"openai/gpt-oss-{suffix}",
        created=created,
        owned_by="OpenAI",
        context_window=131072,
        max_completion_tokens=65536,
        name=name,
        supported_features=_FEATURES,
        reasoning_efforts=_OSS_EFFORTS,
        reasons_unasked=True,
        names_channel=True,
    )


# `created` and the owners of models that are not in Groq's reference come from older public lists.
_ALL = (
    _gpt_oss("120b", 1754408224, "GPT OSS 120B"),
    _gpt_oss("20b", 1754407957, "GPT OSS 20B"),
    _gpt_oss("safeguard-20b", 1761708789, "GPT OSS Safeguard 20B"),
    Model(
        "qwen/qwen3.8-27b",
        1786984846,
        "Alibaba Cloud",
        131072,
        16384,
        "Qwen 3.8 27B",
        input_modalities=("text", "image"),
        supported_features=_FEATURES,
        reasoning_efforts=_QWEN_EFFORTS,
    ),
    Model("allam-2-7b", 1737672203, "SDAIA", 4096, 4096, "ALLaM 2 7B"),
    Model("meta-llama/llama-prompt-guard-2-22m", 1748632101, "Meta", 512, 512, "Prompt Guard 2 22M"),
    Model("meta-llama/llama-prompt-guard-2-86m", 1748632165, "Meta", 512, 512, "Prompt Guard 2 86M"),
    Model("groq/compound", 1756949530, "Groq", 131072, 8192, "Compound"),
    Model("groq/compound-mini", 1756949707, "Groq", 131072, 8192, "Compound Mini"),
    Model("whisper-large-v3", 1693721698, "OpenAI", 448, 448, "Whisper Large v3", _SPEECH),
    Model("whisper-large-v3-turbo", 1728413088, "OpenAI", 448, 448, "Whisper Large v3 Turbo", _SPEECH),
    Model(
        "canopylabs/orpheus-v1-english",
        1766186316,
        "Canopy Labs",
        4000,
        50000,
        "Orpheus English",
        output_modalities=_SPEECH,
    ),
)

MODELS = {model.id: model for model in _ALL}
"""Models by id."""
