"""Costs are exact, and a table of prices is read strictly."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import StartError
from services.common.price_file import read_prices
from services.common.prices import ModelPrice, PricedCall, Prices, dollars

COUNTS = st.integers(0, 10**9)
PRICES = st.builds(
    lambda input_price, cached, *others: ModelPrice(
        input=input_price,
        cached_input=min(cached, input_price),
        output=others[0],
        audio_second=others[1],
        image=others[2],
    ),
    *[st.integers(0, 10**9)] * 5,
)


@dataclass(frozen=True)
class Tokens:
    """Token counts of a call."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


TOKENS = st.builds(Tokens, COUNTS, COUNTS, COUNTS)
CALLS = st.lists(st.tuples(PRICES, TOKENS, st.integers(0, 10_000), st.integers(0, 100)), max_size=4)


def _exact(price: ModelPrice, tokens: Tokens, audio_seconds: int, images: int) -> Fraction:
    """Return the cost of a call in microdollars as a fraction."""
    cached = min(tokens.cached_tokens, tokens.prompt_tokens)
    parts = [
        (price.input, tokens.prompt_tokens - cached),
        (price.cached_input, cached),
        (price.output, tokens.completion_tokens),
        (price.audio_second, audio_seconds),
        (price.image, images),
    ]
    return sum((Fraction(one, 10**6) * count for one, count in parts), Fraction(0))


@given(CALLS)
def test_a_cost_is_the_exact_sum_of_all_calls_rounded_up_once(
    calls: list[tuple[ModelPrice, Tokens, int, int]],
) -> None:
    prices = Prices({f"model-{number}": price for number, (price, *_) in enumerate(calls)})
    priced = [
        PricedCall(f"model-{number}", tokens, audio_seconds=seconds, images=images)
        for number, (_, tokens, seconds, images) in enumerate(calls)
    ]

    cost = prices.total_cost(priced)

    # A call that used nothing is not priced, even if it had images.
    used = [one for one, call in zip(calls, priced, strict=True) if not call.is_empty]
    assert cost == ceil(sum((_exact(*one) for one in used), Fraction(0)))


@given(PRICES, TOKENS)
def test_the_prices_of_input_and_output_bound_the_cost(price: ModelPrice, tokens: Tokens) -> None:
    prices = Prices({"*": price})
    input_price, output_price = prices.input_price("a"), prices.output_price("a")
    assert input_price is not None
    assert output_price is not None

    bound = ceil(Fraction(tokens.prompt_tokens * input_price + tokens.completion_tokens * output_price, 10**6))

    cost = prices.cost("a", tokens)
    assert cost is not None
    assert cost <= bound


def test_known_costs() -> None:
    prices = read_prices("")

    costs = [
        prices.cost("openai/gpt-oss-120b", Tokens(1_000_000, 1_000_000)),
        prices.cost("openai/gpt-oss-120b", Tokens(1_000_000, 0, cached_tokens=1_000_000)),
        prices.cost("openai/gpt-oss-20b", Tokens(1)),
        prices.cost("openai/gpt-oss-20b", Tokens()),
        prices.cost("whisper-large-v3", Tokens(), audio_seconds=3600),
    ]

    assert costs == [750_000, 75_000, 1, 0, 111_001]


def test_more_cached_tokens_than_prompt_tokens_do_not_lower_the_cost_below_the_cached_price() -> None:
    prices = Prices({"m": ModelPrice(input=10, cached_input=5, output=0)})

    assert prices.cost("m", Tokens(10**6, 0, cached_tokens=10**9)) == 5


def test_a_model_without_a_price_has_no_cost_unless_nothing_was_used() -> None:
    prices = read_prices("")

    assert prices.cost("unknown", Tokens(1)) is None
    assert prices.cost("unknown", Tokens()) == 0
    assert (prices.input_price("unknown"), prices.output_price("unknown")) == (None, None)
    assert prices.total_cost([PricedCall("openai/gpt-oss-20b", Tokens(1)), PricedCall("unknown", Tokens(1))]) is None


def test_an_exact_name_counts_before_patterns_and_the_first_pattern_before_later_ones() -> None:
    prices = Prices({name: ModelPrice(input=price) for price, name in enumerate(["*", "a-*", "a-b"], start=1)})
    others = Prices({name: ModelPrice(input=price) for price, name in enumerate(["a-*", "*"], start=1)})

    assert [prices.input_price(name) for name in ("a-b", "a-c", "b")] == [3, 1, 1]
    assert [others.input_price(name) for name in ("a-b", "b")] == [1, 2]


def test_any_number_of_model_names_takes_bounded_memory() -> None:
    prices = Prices({"*": ModelPrice(input=1)})
    for number in range(5_000):
        prices.input_price(f"model-{number}")

    assert prices.find.cache_info().currsize <= 1_024


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0.00"),
        (1, "0.000001"),
        (1_234, "0.001234"),
        (1_500_000, "1.50"),
        (12_345_678_900_000, "12345678.90"),
        (100, "0.0001"),
    ],
)
def test_an_amount_is_shown_exactly_in_dollars(amount: int, text: str) -> None:
    assert dollars(amount) == text


def _read(folder: Path, text: str) -> Prices:
    file = folder / "prices.toml"
    file.write_text(text, encoding="utf-8")
    return read_prices(str(file))


def test_the_operators_prices_complete_and_replace_the_built_in_ones(tmp_path: Path) -> None:
    prices = _read(
        tmp_path,
        """
        [models."openai/gpt-oss-20b"]
        input = 0.1
        output = 0.000001
        [models."qwen/*"]
        input = 1
        output = 2
        [models."*"]
        input = 1000
        output = 1_000.0
        image = 0.000000000001
        """,
    )

    assert prices.find("openai/gpt-oss-20b") == ModelPrice(input=100_000, cached_input=100_000, output=1)
    assert prices.find("openai/gpt-oss-120b") == read_prices("").find("openai/gpt-oss-120b"), "built in"
    assert prices.find("qwen/qwen3.8-27b") == read_prices("").find("qwen/qwen3.8-27b"), "an exact name, built in"
    assert prices.find("qwen/other") == ModelPrice(input=10**6, cached_input=10**6, output=2 * 10**6)
    assert prices.find("any") == ModelPrice(input=10**9, cached_input=10**9, output=10**9, image=1)


def test_the_built_in_prices_can_be_left_out(tmp_path: Path) -> None:
    prices = _read(tmp_path, 'include_defaults = false\n[models."a"]\ninput = 0\noutput = 0')

    assert prices.find("openai/gpt-oss-20b") is None
    assert prices.cost("a", Tokens(10, 10)) == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("models = 1", "models: expected a table"),
        ('include_defaults = "no"', "include_defaults: expected true or false"),
        ("prices = 1", "unknown key 'prices'"),
        ("[models.a]", '[models."a"]: no prices'),
        ("models.a = 1", '[models."a"]: no prices'),
        ("[models.a]\ninput = 1\noutput = 1\nouput = 1", "[models.\"a\"]: unknown price 'ouput'"),
        ("[models.a]\ninput = 1", '[models."a"]: `input` and `output` belong together'),
        ("[models.a]\ncached_input = 1\nimage = 1", '[models."a"]: `input` and `output` belong together'),
        (
            "[models.a]\ninput = 1\ncached_input = 2\noutput = 1",
            '[models."a"]: `cached_input` is higher than `input`',
        ),
        ('[models."  "]\ninput = 1\noutput = 1', '[models."  "]: invalid name'),
        (f"[models.{'a' * 257}]\ninput = 1\noutput = 1", "invalid name"),
        *[
            (f"[models.a]\ninput = {value}\noutput = 1", '[models."a"] input: expected US dollars from 0 to 1,000')
            for value in (
                *("-1", "1000.1", "nan", "inf", "true", '"0.15"', "[1]", "0.0000001", "1e-99", "2026-01-01"),
                "0.1500000000000000000000000000000000001",
                "1e999999999",
            )
        ],
        ("[models.a]\nimage = 0.0000000000001", "at most 12 decimals"),
        ("[models.a\n", "is not valid TOML"),
        (f"a = {'9' * 5_000}", "is not valid TOML"),
        ("a = " + "[" * 5_000, "is not valid TOML"),
    ],
)
def test_an_invalid_file_stops_the_start_and_the_error_names_file_entry_and_remedy(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(StartError) as refused:
        _read(tmp_path, text)

    message = str(refused.value)
    assert message.startswith(f"Setting PRICES_FILE: {tmp_path}/prices.toml: ")
    assert problem in message
    assert message.count(". ") >= 1, "a remedy follows"
    assert message.endswith(".")


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")

    for path, problem in (
        (tmp_path / "missing.toml", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "latin.toml", "is not UTF-8 text"),
    ):
        with pytest.raises(StartError, match=problem) as refused:
            read_prices(str(path))
        assert str(path) in str(refused.value)
