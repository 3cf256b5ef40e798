"""Values of the placeholders in the pages: what settings, plans and the model list decide."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.console.facts import Facts
from services.gateway.console.ports import Model, ModelList
from services.gateway.console.site import Site
from services.gateway.settings import GatewaySettings

BASE_URL = "https://base-url.invalid"
"""Stands for the address of the service in rendered pages, since it differs between requests."""
_UNKNOWN_MODEL = "MODEL"
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Values:
    """The values of one moment. While a service is unavailable, its values are None or empty."""

    name: str
    """Name of the service."""
    contact: str
    contact_link: str
    terms: str
    sign_up: str
    """`open`, `invite` or `closed`; empty if it is not known."""
    daily_limit: int | None
    """Requests per UTC day of each key of a new account."""
    default_model: str
    models: tuple[Model, ...]
    """The models that chat."""
    body_megabytes: float
    messages_max: int
    tools_max: int
    nesting_max: int
    invalid_requests_per_second: float
    request_seconds: float
    heartbeat_seconds: float
    stall_seconds: float
    message_aliases: tuple[tuple[str, str], ...]
    """Names that clients of `/v1/messages` ask for, and the models that answer."""
    base_url: str = BASE_URL

    @property
    def model(self) -> str:
        """The model of the examples. It supports tools, structured output and reasoning if any does."""
        able = [one for one in self.models if one.features and set(one.features) >= _TEXT_FEATURES]
        preferred = [one.name for one in able if one.name == self._served_default] or [one.name for one in able]
        return (preferred or [self.default_model or _UNKNOWN_MODEL])[0]

    @property
    def image_model(self) -> str:
        """A model that reads images; empty if none does."""
        return next((one.name for one in self.models if one.facts.reads_images), "")

    @property
    def aliases(self) -> tuple[Model, ...]:
        """The models that are other names of models."""
        return tuple(one for one in self.models if one.served_by)

    @property
    def _served_default(self) -> str:
        served = next((one.served_by for one in self.models if one.name == self.default_model), "")
        return served or self.default_model


_TEXT_FEATURES = {"tools", "structured_outputs", "reasoning"}


class ValueSource:
    """Returns the current values."""

    def __init__(self, settings: GatewaySettings, site: Site, facts: Facts) -> None:
        """Read `settings` and `site` once, and `facts` each time."""
        self._settings = settings
        self._site = site
        self._facts = facts

    async def read(self) -> Values:
        """Return the values. They may be some seconds old."""
        await self._facts.refresh()
        settings, site, sign_up = self._settings, self._site, self._facts.sign_up
        return Values(
            name=site.name,
            contact=site.contact,
            contact_link=site.contact_link,
            terms=site.terms,
            sign_up=sign_up.policy if sign_up else "",
            daily_limit=sign_up.daily_limit if sign_up else None,
            default_model=self._facts.models.default if self._facts.models else "",
            models=_chat_models(self._facts.models),
            body_megabytes=settings.body_bytes_max / _MEBIBYTE,
            messages_max=settings.messages_max,
            tools_max=settings.tools_max,
            nesting_max=settings.nesting_max,
            invalid_requests_per_second=settings.invalid_requests_per_second,
            request_seconds=settings.request_timeout_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            stall_seconds=settings.stall_timeout_seconds,
            message_aliases=tuple(settings.model_aliases.items()),
        )


def _chat_models(listed: ModelList | None) -> tuple[Model, ...]:
    models: Sequence[Model] = listed.models if listed else ()
    return tuple(one for one in models if one.chats)
