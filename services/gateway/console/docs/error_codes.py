"""What the page of errors says about each `error.code`, for other pages of the console."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from services.gateway.console.docs.markdown import Document, inline_html
from services.gateway.console.docs.outline import path_of

ERRORS = "errors"
"""Name of the page."""
_SECTION = "## "
_CODE = re.compile(r"`([a-z0-9_]+)`")
_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """An explanation of an `error.code`."""

    happened: Markup
    """What happened, as HTML."""
    remedy: Markup
    """What to do, as HTML."""
    path: str
    """Path of the section that has it."""


def error_codes(markdown: str, document: Document) -> Mapping[str, ErrorCode]:
    """Return the explanations in the tables of the page, by code. Of several, the first one counts."""
    found: dict[str, ErrorCode] = {}
    ids = {section.title: section.id for section in document.sections}
    path = path_of(ERRORS)
    for line in markdown.splitlines():
        if line.startswith(_SECTION):
            path = f"{path_of(ERRORS)}#{ids[line.removeprefix(_SECTION)]}"
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("|") else []
        if len(cells) == _COLUMNS and (codes := _CODE.findall(cells[0])):
            explained = ErrorCode(Markup(inline_html(cells[1])), Markup(inline_html(cells[2])), path)
            found = dict.fromkeys(codes, explained) | found
    return found
