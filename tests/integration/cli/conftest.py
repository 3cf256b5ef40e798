"""`stackctl` against one real auth service."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli.main import main
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, AuthProcess, running_auth

Stackctl = Callable[..., Result]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthProcess]:
    """One service for all tests of a module; each uses its own e-mail address."""
    settings = {"STACK_ADMIN_TOKEN": ADMIN_TOKEN, "AUTH_KEY_PEPPER": PEPPER}
    with running_auth(tmp_path_factory.mktemp("auth"), settings) as service:
        yield service


@pytest.fixture
def stackctl(service: AuthProcess, tmp_path: Path) -> Stackctl:
    """Run one command; keyword arguments are environment variables."""

    def run(*arguments: str, **variables: str) -> Result:
        settings = {
            "AUTH_TARGET": service.target,
            "STACK_ADMIN_TOKEN": ADMIN_TOKEN,
            "STACK_OPERATOR": "grace",
            "DATA_DIR": str(tmp_path),
            **variables,
        }
        result = CliRunner().invoke(main, arguments, env=settings)
        assert result.exception is None or isinstance(result.exception, SystemExit), "a traceback"
        return result

    return run
