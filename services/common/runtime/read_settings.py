"""Reading settings from the environment, with error messages that name the variable and no value."""

import os
import re
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import SettingsError

from services.common.errors import StartError
from services.common.runtime.settings import REMOVED, RENAMED, ServiceSettings

Settings = TypeVar("Settings", bound=ServiceSettings)


def read(settings_type: type[Settings]) -> Settings:
    """Read the settings from the environment.

    Raises:
        StartError: A setting is invalid or exists only in an earlier version.
    """
    if old := next(filter(os.environ.__contains__, RENAMED), None):
        raise StartError(f"Setting {old} has been replaced. Set {RENAMED[old]} instead.")
    if old := next(filter(os.environ.__contains__, REMOVED), None):
        raise StartError(f"Setting {old} has been removed: {REMOVED[old]}. Unset it.")
    try:
        return settings_type()
    except ValidationError as exc:
        raise StartError(_first_error(exc, settings_type)) from exc
    except SettingsError as exc:
        raise StartError(_not_json(exc, settings_type)) from exc
    except Exception as exc:
        # The error text may contain secret values, so it is not shown.
        raise StartError(f"the settings cannot be read ({type(exc).__name__}); check the environment") from exc


def _first_error(error: ValidationError, settings_type: type[ServiceSettings]) -> str:
    details = error.errors()[0]
    message = details["msg"].removeprefix("Value error, ").removesuffix(".")
    if not details["loc"]:  # The message contains the names of contradictory settings.
        return f"Settings: {message}."
    return f"Setting {_variable(str(details['loc'][0]), settings_type)}: {message}."


def _not_json(error: SettingsError, settings_type: type[ServiceSettings]) -> str:
    """Return the message for a setting that is not valid JSON. The error contains only the field's name."""
    match = re.search(r'field "(\w+)"', str(error))
    if match is None:
        return str(error)
    default = settings_type.model_fields[match[1]].get_default(call_default_factory=True, validated_data={})
    expected = 'array, such as ["a", "b"]' if isinstance(default, list) else 'object, such as {"a": …}'
    return f"Setting {_variable(match[1], settings_type)}: expected a JSON {expected}."


def _variable(field: str, settings_type: type[ServiceSettings]) -> str:
    """Return the environment variable of a field. Errors contain the field's alias, or its name if it has none."""
    if field.isupper():
        return field
    known = settings_type.model_fields.get(field)
    prefix = settings_type.model_config.get("env_prefix", "")
    return str((known and known.validation_alias) or f"{prefix}{field}".upper())
