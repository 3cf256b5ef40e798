"""Every `error.code` that the code can emit has a row in the docs' page of errors, and every row is one that exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs_examples import source_of

_SERVICES = Path(__file__).parents[4] / "services"
_FOLDERS = ("common", "gateway", "inference", "quota")
_KEYWORDS = {"code", "reason", "unavailable_reason"}
_POSITIONS = {"refusal": 2, "_invalid": 2, "_denied": 1}
"""Position of the code among the arguments of functions that build errors."""
_NUMBERS = ("integer", "decimal")
_NOT_OF_THE_API = {"caller_not_expected", "invalid_event", "invalid_limit", "no_verdict", "session_ended"}
"""Reasons that a client of the HTTP API never receives as `error.code`."""


def _files() -> Iterator[Path]:
    for folder in _FOLDERS:
        yield from (path for path in (_SERVICES / folder).rglob("*.py") if "console" not in path.parts)
    yield from (_SERVICES / "auth" / "accounts" / name for name in ("plan_events.py", "webhook_signatures.py"))


def _texts(node: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    """Yield the codes that an expression can be: constants, names of constants, and texts about a kind of number."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Name) and node.id in constants:
        yield constants[node.id]
    elif isinstance(node, ast.IfExp):
        yield from (*_texts(node.body, constants), *_texts(node.orelse, constants))
    elif isinstance(node, ast.BoolOp):
        yield from (text for value in node.values for text in _texts(value, constants))
    elif isinstance(node, ast.JoinedStr):
        end = node.values[-1]
        yield from (f"{kind}{text}" for kind in _NUMBERS for text in _texts(end, constants))


def _arguments(call: ast.Call) -> Iterator[ast.expr]:
    yield from (keyword.value for keyword in call.keywords if keyword.arg in _KEYWORDS)
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    position = _POSITIONS.get(name)
    if position is not None and len(call.args) > position:
        yield call.args[position]


def _codes_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    constants = {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    found = {text for call in calls for one in _arguments(call) for text in _texts(one, constants)}
    return {text for text in found if re.fullmatch(r"[a-z]+(_[a-z]+)+|overloaded", text)} - {"null"}


def _emitted() -> set[str]:
    return {code for path in _files() for code in _codes_in(path)} - _NOT_OF_THE_API


def _documented() -> set[str]:
    rows = re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \| .+ \| .+ \|$", source_of("errors"), flags=re.MULTILINE)
    return {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}


def test_every_emitted_code_has_a_row() -> None:
    assert len(_emitted()) > 50
    assert _emitted() - _documented() == set()


def test_every_row_is_a_code_of_the_program() -> None:
    code = "".join(path.read_text() for path in _files())
    numbers = {f"{kind}_{side}_value" for kind in _NUMBERS for side in ("below_min", "above_max")}
    assert {
        one for one in _documented() - _emitted() - numbers if f'"{one}"' not in code and f"`{one}`" not in code
    } == set()


def test_no_code_has_two_rows() -> None:
    rows = re.findall(r"^\| (`.+?) \| .+ \| .+ \|$", source_of("errors"), flags=re.MULTILINE)
    codes = [code for row in rows for code in re.findall(r"`([a-z_]+)`", row)]
    assert sorted(codes) == sorted(set(codes))
