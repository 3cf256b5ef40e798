"""The client matrix, which only `make test-clients` collects: it needs environments that `make test` does not
create.
"""

import os
from collections.abc import Iterator

import pytest

from tests.clients.matrix import CLIENTS, Client, Matrix, Run
from tests.clients.node import npm
from tests.e2e.stack import running_stack

collect_ignore_glob = [] if os.environ.get("CLIENT_MATRIX") else ["*"]


@pytest.fixture(scope="session")
def matrix() -> Iterator[Matrix]:
    """Yield the matrix over a running stack that no other test uses."""
    # One attempt: a failure of Groq must reach the client, whose retry is under test.
    with running_stack(INFERENCE_ATTEMPTS_MAX="1", INFERENCE_KEY_COOLDOWN_SECONDS_MAX="0") as stack:
        yield Matrix(stack)


@pytest.fixture(params=CLIENTS, ids=str)
def run(request: pytest.FixtureRequest, matrix: Matrix) -> Run:
    """Return a client's observations; its program runs once, for the first test that needs it."""
    client: Client = request.param
    if client.is_node and (reason := npm.problem()):
        pytest.skip(reason)
    return matrix.run(client)
