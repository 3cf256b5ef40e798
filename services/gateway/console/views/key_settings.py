"""Fields of the forms for a key: expiry, models and limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.common.errors import InvalidRequest
from services.common.limits import Limit, Scope, Unit, Window
from services.gateway.console.ports import Key, ModelList

_MODEL = "model:"
"""Prefix of the check boxes of models."""
_NUMBER_MAX = 10**12
LIMITS = {
    "tokens_minute": (Unit.TOKENS, Window.MINUTE),
    "tokens_day": (Unit.TOKENS, Window.DAY),
}
"""Limits that owners can set besides requests per day, by form field."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A check box of a model."""

    name: str
    served_by: str
    """The model that answers, if the name is an alias; else empty."""
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class ModelPicker:
    """The models of a form: check boxes of the listed ones, and a text field for other names and patterns."""

    choices: Sequence[ModelChoice]
    others: str


def model_picker(chosen: Sequence[str], listed: ModelList | None) -> ModelPicker:
    """Return the picker for a key with the models `chosen`. While the list is not known, all are in the text field."""
    models = [model for model in listed.models if model.chats] if listed else []
    names = {model.name for model in models}
    choices = [ModelChoice(model.name, model.served_by, model.name in chosen) for model in models]
    return ModelPicker(choices, ", ".join(name for name in chosen if name not in names))


def chosen_models(form: Mapping[str, str]) -> tuple[str, ...]:
    """Return the models of a form, by check boxes and by text."""
    checked = [name.removeprefix(_MODEL) for name in form if name.startswith(_MODEL)]
    return tuple(dict.fromkeys([*checked, *form.get("models", "").replace(",", " ").split()]))


def owner_limits(form: Mapping[str, str]) -> tuple[Limit, ...]:
    """Return the limits of a form besides requests per day. Empty fields set none.

    Raises:
        InvalidRequest: A field is not a number in range.
    """
    numbers = {name: whole_number(form.get(name, "")) for name in LIMITS}
    return tuple(Limit(Scope.KEY, *LIMITS[name], number) for name, number in numbers.items() if number is not None)


def with_other_limits(key: Key, limits: Sequence[Limit]) -> tuple[Limit, ...]:
    """Return limits with those of the key that the form does not have, so that they stay."""
    in_form = set(LIMITS.values())
    return (*limits, *(limit for limit in key.owner_limits if (limit.unit, limit.window) not in in_form))


def limit_fields(key: Key) -> dict[str, str]:
    """Return the values of the fields of limits."""
    by_what = {(limit.unit, limit.window): str(limit.limit) for limit in key.owner_limits}
    return {name: by_what.get(what, "") for name, what in LIMITS.items()}


def whole_number(text: str) -> int | None:
    """Return a number such as `1,000`; None if the text is empty.

    Raises:
        InvalidRequest: The text is not a whole number.
    """
    digits = text.strip().replace(",", "").replace(" ", "")
    if not digits:
        return None
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(_NUMBER_MAX))):
        raise InvalidRequest("A limit is not a whole number. Enter it in digits, such as 1000, or leave it empty.")
    return int(digits)


def day_of(expires_at: float | None) -> str:
    """Return the last UTC day on which a key works, as `YYYY-MM-DD`; empty for a key without expiry."""
    return "" if expires_at is None else datetime.fromtimestamp(expires_at - 1, UTC).date().isoformat()


def end_of(day: str, *, now: float) -> float | None:
    """Return the end of a UTC day, when a key expires; None if `day` is empty.

    Raises:
        InvalidRequest: The day is not a date, or has passed.
    """
    if not day:
        return None
    try:
        ends = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequest("The expiry date is not valid. Enter it as YYYY-MM-DD.") from exc
    if ends.timestamp() <= now:
        raise InvalidRequest("The expiry date is in the past. Choose a later one, or leave it empty.")
    return ends.timestamp()
