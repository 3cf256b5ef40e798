"""Aliases of models: names that clients ask for by default, such as `claude-opus-5-5`, and the models that answer."""

import re
from dataclasses import dataclass

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
        return next((model for pattern, model in self.pairs if _matches(pattern, name)), name)


def parse_aliases(text: str) -> ModelAliases:
    """Parse a setting such as `claude-haiku-*=openai/gpt-oss-20b, claude-*=openai/gpt-oss-120b`.

    Empty text means no aliases.

    Raises:
        ValueError: An entry is not of the form `pattern=model`, or its pattern has more than one `*`.
    """
    return ModelAliases(tuple(_parse_entry(entry.strip()) for entry in text.split(",") if entry.strip()))


def _parse_entry(entry: str) -> tuple[str, str]:
    pattern, _, model = (part.strip() for part in entry.partition("="))
    if not pattern or not model or pattern.count("*") > 1 or re.search(r"\s|\*", model):
        raise ValueError(
            f"Invalid model alias {entry!r}. Write `pattern=model` with at most one `*` in the pattern, and separate "
            "aliases by commas, such as `claude-*=openai/gpt-oss-120b`."
        )
    return pattern, model


def _matches(pattern: str, name: str) -> bool:
    prefix, star, suffix = pattern.partition("*")
    if not star:
        return name == pattern
    return len(name) >= len(prefix) + len(suffix) and name.startswith(prefix) and name.endswith(suffix)
