"""Fixtures for all tests, and the assignment of tests to workers of pytest-xdist."""

import gc
from functools import cache

import httpx._transports.default
import pytest

from tests.backends import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

# Every client of httpx loads the certificate authorities, which takes 15 ms; tests create thousands of clients and
# share one context.
httpx._transports.default.create_ssl_context = cache(httpx.create_ssl_context)  # type: ignore[attr-defined]


_HEAVY = ("stack",)
"""Session fixtures of which only one worker may have an instance."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that share a fixture of their module, or an expensive one, on one worker, so that it is set up once."""
    for item in items:
        if not isinstance(item, pytest.Function) or item.get_closest_marker("xdist_group"):
            continue
        if shared := _of_the_module(item) or _heavy(item):
            item.add_marker(pytest.mark.xdist_group(shared))


def pytest_collection_finish() -> None:
    """Exempt the thousands of collected tests from garbage collection.

    A full collection of them takes half a second, which tests that bound the time of a call would measure.
    """
    gc.collect()
    gc.freeze()


def _of_the_module(item: pytest.Function) -> str:
    """Return the module whose fixtures a test shares, with their parameters; empty if it shares none."""
    values = item.callspec.params if hasattr(item, "callspec") else {}
    names = [name for name, found in item._fixtureinfo.name2fixturedefs.items() if found[-1].scope == "module"]
    parameters = [f"{name}={values[name]}" for name in sorted(names) if name in values]
    return " ".join([item.module.__name__, *parameters]) if names else ""


def _heavy(item: pytest.Function) -> str:
    found = item._fixtureinfo.name2fixturedefs
    return next((name for name in _HEAVY if name in found and found[name][-1].scope == "session"), "")
