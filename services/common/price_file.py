"""Price tables in TOML: the built-in one with Groq's public prices, and the operator's own.

include_defaults = true            # false: only the prices of this file

[models."openai/gpt-oss-120b"]     # an upstream model, or a pattern with `*`
input = 0.15                       # US dollars per million tokens
cached_input = 0.075               # the same as `input` if it is missing
output = 0.60
audio_second = 0.000030834         # US dollars per second of audio
image = 0.001                      # US dollars per image
"""

import tomllib
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from services.common.errors import StartError
from services.common.prices import ModelPrice, Prices

_DEFAULTS = Path(__file__).with_name("groq_prices.toml")
_NAME_CHARACTERS_MAX = 256
"""The same as the ledger's column of the upstream model."""
_DOLLARS_MAX = 1_000
"""A higher price is a mistake, and sums of costs would not fit into 64 bits."""
_DECIMALS = {"input": 6, "cached_input": 6, "output": 6, "audio_second": 12, "image": 12}
"""Prices of an entry and their maximum number of decimals. With these, microdollars per million units are integers."""


def read_prices(path: str) -> Prices:
    """Return the prices of the operator's file and, unless it excludes them, the built-in ones.

    Args:
        path: The file; empty means only the built-in prices.

    Raises:
        StartError: The file cannot be read, or an entry is invalid.
    """
    return Prices(_File(Path(path)).models() if path else _default_models())


@cache
def _default_models() -> dict[str, ModelPrice]:
    return _File(_DEFAULTS).models()


class _File:
    """A price table in a file. All methods raise `StartError` if the file is invalid."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def models(self) -> dict[str, ModelPrice]:
        """Return the prices by model, in the order of the file, after the built-in ones."""
        table = self._table()
        if unknown := sorted(table.keys() - {"include_defaults", "models"}):
            raise self._error(f"unknown key {unknown[0]!r}", "Use `include_defaults` and `models`")
        include_defaults, models = table.get("include_defaults", self._path != _DEFAULTS), table.get("models", {})
        if not isinstance(include_defaults, bool):
            raise self._error("include_defaults: expected true or false", "Correct the value")
        if not isinstance(models, dict):
            raise self._error("models: expected a table", 'Write one table for each model: [models."NAME"]')
        own = {name: self._price(name, entry) for name, entry in models.items()}
        return {**_default_models(), **own} if include_defaults else own

    def _table(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self._path.read_text(encoding="utf-8"), parse_float=Decimal)
        except OSError as exc:
            raise self._error(f"cannot be read: {exc.strerror}", "Correct the path, or unset it") from exc
        except UnicodeDecodeError as exc:
            raise self._error("is not UTF-8 text", "Save it as UTF-8") from exc
        except (ValueError, ArithmeticError, RecursionError) as exc:
            problem = str(exc) if isinstance(exc, tomllib.TOMLDecodeError) else type(exc).__name__
            raise self._error(f"is not valid TOML: {problem}", "Correct that line") from exc

    def _price(self, name: str, entry: object) -> ModelPrice:
        where = f'[models."{name}"]'
        if not name.strip() or len(name) > _NAME_CHARACTERS_MAX:
            raise self._error(
                f"{where}: invalid name", f"Use the model's id, at most {_NAME_CHARACTERS_MAX} characters"
            )
        if not isinstance(entry, dict) or not entry:
            raise self._error(f"{where}: no prices", f"Set some of {', '.join(_DECIMALS)}")
        if unknown := sorted(entry.keys() - _DECIMALS.keys()):
            raise self._error(f"{where}: unknown price {unknown[0]!r}", f"Use {', '.join(_DECIMALS)}")
        values = {key: self._microdollars(f"{where} {key}", value, _DECIMALS[key]) for key, value in entry.items()}
        return self._complete(where, values)

    def _complete(self, where: str, values: dict[str, int]) -> ModelPrice:
        """Apply the default of `cached_input` and refuse a table that would price tokens only in part."""
        if ("input" in values) != ("output" in values) or ("cached_input" in values and "input" not in values):
            raise self._error(f"{where}: `input` and `output` belong together", "Set both; 0 means free")
        cached_input = values.setdefault("cached_input", values.get("input", 0))
        if cached_input > values.get("input", 0):
            raise self._error(f"{where}: `cached_input` is higher than `input`", "Lower it, or leave it out")
        return ModelPrice(**values)

    def _microdollars(self, where: str, value: object, decimals: int) -> int:
        """Return a price in dollars as microdollars per million units."""
        number = Decimal(value) if type(value) is int else value
        if isinstance(number, Decimal) and number.is_finite() and 0 <= number <= _DOLLARS_MAX:
            exponent = number.as_tuple().exponent
            if isinstance(exponent, int) and exponent >= -decimals:
                return int(number.scaleb(decimals))
        expected = f"expected US dollars from 0 to {_DOLLARS_MAX:,} with at most {decimals} decimals"
        raise self._error(f"{where}: {expected}", "Correct the number, such as 0.15, without quotes")

    def _error(self, problem: str, remedy: str) -> StartError:
        return StartError(f"Setting PRICES_FILE: {self._path}: {problem}. {remedy}.")
