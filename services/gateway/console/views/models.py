"""Models page: what can be called, with abilities, limits, prices and code."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import Response

from services.common.prices import ModelPrice, Prices, dollars
from services.common.surface import Surface
from services.gateway.console.facts import Facts
from services.gateway.console.page import Pages
from services.gateway.console.ports import Model
from services.gateway.console.request_context import RequestContext

_FEATURES = {
    "tools": "Tools",
    "json_mode": "JSON mode",
    "structured_outputs": "Structured output",
    "reasoning": "Reasoning",
}


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model as the page shows it."""

    model: Model
    abilities: Sequence[str]
    input_usd: str | None
    """US dollars per million tokens of prompts; None if there is no price."""
    output_usd: str | None


class ModelsPage:
    """Handler of the models page."""

    def __init__(self, pages: Pages, facts: Facts, prices: Prices) -> None:
        """Render with `pages`; `facts` have the models."""
        self._pages = pages
        self._facts = facts
        self._prices = prices

    async def index(self, context: RequestContext) -> Response:
        """`GET /docs/models`, since `/models` is a path of the API."""
        listed = self._facts.models
        models = [model for model in listed.models if model.chats] if listed else []
        return self._pages.show(
            context,
            "models",
            is_known=listed is not None,
            default=listed.default if listed else "",
            cards=[self._card(model) for model in models],
            surfaces=tuple(Surface),
        )

    def _card(self, model: Model) -> ModelCard:
        price = self._prices.find(model.served_by or model.name)
        return ModelCard(model, abilities_of(model), _usd(price, "input"), _usd(price, "output"))


def abilities_of(model: Model) -> list[str]:
    """Return the labels of what a model can do besides text. What is not known is left out."""
    features = model.features if model.features is not None else (("reasoning",) if model.facts.reasons else ())
    labels = [_FEATURES.get(name, name.replace("_", " ").capitalize()) for name in features]
    return [*labels, "Images"] if model.facts.reads_images else labels


def _usd(price: ModelPrice | None, field: str) -> str | None:
    return None if price is None else dollars(getattr(price, field))
