"""A stack with the operators' console."""

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack, running_stack


@pytest.fixture(scope="package")
def operated() -> Iterator[Stack]:
    """Yield a running stack with the operators' console, which all tests of this folder share."""
    with running_stack(
        operator_console=True,
        AUTH_SIGN_UPS_PER_ADDRESS_MAX="100000",
        AUTH_LOG_INS_PER_ADDRESS_MAX="100000",
    ) as running:
        yield running
