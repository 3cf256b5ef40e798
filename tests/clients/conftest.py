"""The client matrix, which only `make test-clients` collects: it needs environments that `make test` does not
create.
"""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.clients.agents import program
from tests.clients.agents.program import Home
from tests.clients.matrix import CLIENTS, Client, Matrix, Run
from tests.clients.node import npm
from tests.clients.table import CASES, Row, Table, row_of
from tests.e2e.stack import Stack, running_stack

_TABLE = Table()
collect_ignore_glob = [] if os.environ.get("CLIENT_MATRIX") else ["*"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the tests that prove a cell of the table in docs/clients.md."""
    config.addinivalue_line("markers", "cell(*cases): proves cells of the table in docs/clients.md")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the cells that a test proves to the table."""
    report = yield
    marker = item.get_closest_marker("cell")
    if marker and isinstance(item, pytest.Function) and report.when == "call" and report.passed:
        assert set(marker.args) <= set(CASES), marker.args
        _TABLE.add(_row(item), marker.args)
    return report


def _row(item: pytest.Function) -> Row:
    run = item.funcargs.get("run")
    if isinstance(run, Run):
        return row_of(run.client, run.version)
    row: Row = item.module.ROW
    return row


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Write the table after a run in which all tests of the folder passed."""
    left_out = [name for name in ("skipped", "deselected") if terminalreporter.stats.get(name)]
    if config.args == ["tests/clients"] and exitstatus == pytest.ExitCode.OK and not left_out:
        _TABLE.write()


@pytest.fixture(scope="session")
def clients_stack() -> Iterator[Stack]:
    """Yield a running stack that no other test uses."""
    # One attempt: a failure of Groq must reach the client, whose retry is under test. The alias is for Codex, which
    # offers other tools with OpenAI's own models.
    with running_stack(
        INFERENCE_ATTEMPTS_MAX="1",
        INFERENCE_KEY_COOLDOWN_SECONDS_MAX="0",
        INFERENCE_MODEL_ALIASES='{"gpt-6.2-sol": "openai/gpt-oss-120b"}',
    ) as stack:
        yield stack


@pytest.fixture(scope="session")
def matrix(clients_stack: Stack, request: pytest.FixtureRequest) -> Matrix:
    """Return the matrix over the running stacks."""
    return Matrix(clients_stack, lambda: request.getfixturevalue("storing_stack"))


@pytest.fixture(scope="session")
def storing_stack() -> Iterator[Stack]:
    """Yield a running stack that stores responses."""
    with running_stack(
        INFERENCE_ATTEMPTS_MAX="1", INFERENCE_KEY_COOLDOWN_SECONDS_MAX="0", stores_responses=True
    ) as stack:
        yield stack


@pytest.fixture(params=CLIENTS, ids=str)
def run(request: pytest.FixtureRequest, matrix: Matrix) -> Run:
    """Return a client's observations; its program runs once, for the first test that needs it."""
    client: Client = request.param
    if client.node_folder and (reason := npm.problem(client.node_folder)):
        pytest.skip(reason)
    return matrix.run(client)


@pytest.fixture(scope="session")
def agents() -> None:
    """Install the coding agents."""
    if reason := npm.problem(program.FOLDER):
        pytest.skip(reason)


@pytest.fixture
async def agent_home(clients_stack: Stack, tmp_path: Path, agents: None) -> Home:
    """Return an empty home with a new key."""
    return Home(clients_stack, await clients_stack.create_key(), tmp_path)


@pytest.fixture
async def exhausted_home(clients_stack: Stack, tmp_path: Path, agents: None) -> Home:
    """Return an empty home with a key for one request per day."""
    return Home(clients_stack, await clients_stack.create_key(daily_limit=1), tmp_path)
