"""The table of docs/internal-callers.md: every RPC, and who may make it."""

from pathlib import Path

from tests.permissions import DECLARED, OPERATOR, ROLES, permissions, table

_PAGE = Path(__file__).parents[2] / "docs" / "internal-callers.md"


def test_the_documented_table_is_that_of_the_contracts_and_the_declared_callers() -> None:
    documented = _PAGE.read_text().partition("## Who may call what\n")[2]
    lines = "\n".join(line for line in documented.splitlines() if line.startswith("|"))
    assert lines == table(), "print the new table with `python -m tests.permissions`"


def test_every_rpc_has_a_role_and_every_declared_service_exists() -> None:
    found = permissions()
    assert [one.name for one in found if not one.roles] == []
    assert {role for one in found for role in one.roles} == set(ROLES)
    assert set(DECLARED) == {one.service for one in found}


def test_what_operators_do_is_for_their_console_only_and_changes_need_their_session() -> None:
    of_console = [one for one in permissions() if "operator-console" in one.roles]
    assert {one.service.rpartition(".")[2] for one in of_console} == {
        "OperatorService",
        "OperatorSessionService",
        "OperatorUsageService",
    }
    assert {one.roles for one in of_console} == {frozenset({"operator-console"})}
    reads = ("List", "Search", "Describe", "Get", "Summarize")
    without = [one.name for one in of_console if one.needs != OPERATOR and not one.method.name.startswith(reads)]
    assert without == [
        "OperatorSessionService.CompleteOperatorLogIn",
        "OperatorSessionService.LogInOperator",
        "OperatorSessionService.LogOutOperator",
    ]
