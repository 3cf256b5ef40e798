"""The client matrix, which only `make test-clients` collects: it needs environments that `make test` does not make."""

import os
from collections.abc import Iterator

import pytest

from tests.clients.matrix import CLIENTS, Client, Matrix, Run
from tests.clients.node import npm
from tests.e2e.stack import running_stack

collect_ignore_glob = [] if os.environ.get("CLIENT_MATRIX") else ["*"]


@pytest.fixture(scope="session")
def matrix() -> Iterator[Matrix]:
    """Give the matrix over a running stack, which nobody else asks."""
    # One attempt: a failure of Groq is to reach the client, whose own retry is what is tested.
    with running_stack(INFERENCE_ATTEMPTS_MAX="1", INFERENCE_KEY_COOLDOWN_SECONDS_MAX="0") as stack:
        yield Matrix(stack)


@pytest.fixture(params=CLIENTS, ids=str)
def run(request: pytest.FixtureRequest, matrix: Matrix) -> Run:
    """Give what a client saw; its program runs once, for the first test that asks."""
    client: Client = request.param
    if client.is_node and (reason := npm.problem()):
        pytest.skip(reason)
    return matrix.run(client)
