"""The table of clients and cases in docs/clients.md, which a run of all tests in this folder writes if all pass.

A test that proves a cell has the marker `cell`, with the names of the cases. Its row is its client: the one of its
parameter `run`, or `ROW` in its module.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.matrix import Client

_PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
_BEGIN, _END = "<!-- Written by `make test-clients`. -->\n", "<!-- The end of the table. -->\n"
CASES = {
    "text": "text",
    "stream": "stream",
    "tools": "two tools",
    "history": "second turn",
    "structured": "schema",
    "image": "image",
    "cut": "cut is an error",
    "exhausted": "limit: one request",
}
"""The cases, and the headings of their columns."""
_APIS = {"responses": "`/v1/responses`", "messages": "`/v1/messages`", "completions": "`/v1/completions`"}
_CHAT = "`/v1/chat/completions`"


@dataclass(frozen=True)
class Row:
    """One client of the table."""

    name: str
    version: str
    api: str
    notes: Mapping[str, str] = field(default_factory=dict, hash=False)
    """By case: what the client itself does differently, or why it has no such case."""
    failing: frozenset[str] = frozenset()
    """The cases in which the client itself has a fault, which the notes name."""


def row_of(client: Client, version: str) -> Row:
    """Return the row of a client of the matrix."""
    surface, _, name = client.name.partition("-")
    api = _APIS.get(surface, _CHAT)
    name = name if surface in (*_APIS, "chat") else client.name
    failing = set()
    if client.attempts_at_the_limit > 1:
        failing.add("exhausted")
    if not client.sees_a_cut:
        failing.add("cut")
    return Row(name, version, api, client.notes, frozenset(failing))


@dataclass
class Table:
    """The cells that a run has proved."""

    _cells: dict[Row, set[str]] = field(default_factory=dict)

    def add(self, row: Row, cases: Iterable[str]) -> None:
        """Add the cells of a test that passed."""
        self._cells.setdefault(row, set()).update(cases)

    def text(self) -> str:
        """Return the table and its notes in Markdown."""
        notes: list[str] = []
        lines = ["| client | API | " + " | ".join(CASES.values()) + " |", "|---" * (len(CASES) + 2) + "|"]
        for row, cells in sorted(self._cells.items(), key=lambda item: (item[0].api, item[0].name)):
            shown = [_shown(row, case, case in cells, notes) for case in CASES]
            lines.append(f"| {row.name} {row.version} | {row.api} | " + " | ".join(shown) + " |")
        numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
        return "\n".join([*lines, "", *numbered]) + "\n"

    def write(self) -> None:
        """Replace the table of the page."""
        before, _, rest = _PAGE.read_text().partition(_BEGIN)
        _, _, after = rest.partition(_END)
        _PAGE.write_text(f"{before}{_BEGIN}\n{self.text()}\n{_END}{after}")


def _shown(row: Row, case: str, is_proved: bool, notes: list[str]) -> str:
    mark = "-" if not is_proved else "✗" if case in row.failing else "✓"
    note = row.notes.get(case)
    if note is None:
        return mark
    if note not in notes:
        notes.append(note)
    return f"{mark} ({notes.index(note) + 1})"
