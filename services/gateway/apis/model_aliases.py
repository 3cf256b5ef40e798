"""Aliases of models: names that clients ask for by default, such as `claude-opus-5-5`, and the models that answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from services.common.wildcards import permits

_PATTERN_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True)
class ModelAliases:
    """Patterns of model names, each with a served model."""

    pairs: tuple[tuple[str, str], ...] = ()
    """Patterns, in which `*` stands for any characters, and the served models. The first match counts."""

    def resolve(self, name: str) -> str:
        """Return the served model for a name. A name that matches no pattern is returned as it is."""
        if not self.pairs or len(name) > _PATTERN_CHARACTERS_MAX:
            return name
        return next((model for pattern, model in self.pairs if permits((pattern,), name)), name)


def model_aliases(models: Mapping[str, str]) -> ModelAliases:
    """Return the aliases of a setting such as `{"claude-haiku-*": "openai/gpt-oss-20b"}`.

    Raises:
        ValueError: A pattern has more than one `*`, or a name is empty or contains white space.
    """
    for pattern, model in models.items():
        if pattern.count("*") > 1 or not all(re.fullmatch(r"\S+", name) for name in (pattern, model)) or "*" in model:
            raise ValueError(
                f"Invalid model alias {pattern!r}: write a name with at most one `*`, and the model that answers, such "
                'as {"claude-*": "openai/gpt-oss-120b"}.'
            )
    return ModelAliases(tuple(models.items()))
