"""The upper bound of what a request takes of limits of tokens and cost."""

from dataclasses import dataclass

from services.common.limits import Unit
from services.common.verdict import Amounts


@dataclass(frozen=True, slots=True)
class Estimate:
    """An upper bound of what a request takes of limits of tokens and cost."""

    prompt_tokens: int
    output_tokens: int
    """Tokens of output that are wanted; limits may allow less."""
    prompt_cost: int
    """Microdollars."""
    output_cost_per_million: int
    """Microdollars for a million tokens of output."""

    def least(self, unit: Unit) -> int:
        """Return what the request takes at least of a limit: with one token of output."""
        least = self.held(1)
        return {Unit.TOKENS: least.tokens, Unit.COST: least.cost}.get(unit, 1)

    def held(self, output_tokens: int) -> Amounts:
        """Return what a hold with these tokens of output takes."""
        output_cost = -(-output_tokens * self.output_cost_per_million // 1_000_000)
        return Amounts(self.prompt_tokens + output_tokens, self.prompt_cost + output_cost)
