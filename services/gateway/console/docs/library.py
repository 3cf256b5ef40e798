"""The pages of the docs with their values, cached."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import jinja2
import msgspec

from services.gateway.console.docs.error_codes import ERRORS, ErrorCode, error_codes
from services.gateway.console.docs.markdown import Document, Section, parse, to_html
from services.gateway.console.docs.outline import INDEX, OUTLINE, PAGES, markdown_path_of, path_of
from services.gateway.console.docs.values import BASE_URL, Values

_CONTENT = Path(__file__).parent / "content"
_CONTENTS_LEVEL = 2
"""Level of the headings that the contents of a page list."""
_INDEX_TITLE = "Overview"
_BLANK_LINES = re.compile(r"\n{4,}")
"""What conditions without a value leave."""
_REFERENCE = "All paths, parameters and answers."


@dataclass(frozen=True, slots=True)
class Page:
    """A page whose placeholders have values."""

    name: str
    markdown: str
    document: Document

    @property
    def title(self) -> str:
        """The title in the side bar and in results of the search."""
        return _INDEX_TITLE if self.name == INDEX else self.document.sections[0].title

    @property
    def contents(self) -> Sequence[Section]:
        """The headings below the title."""
        return [one for one in self.document.sections if one.level == _CONTENTS_LEVEL]

    @property
    def entries(self) -> list[tuple[str, str, str, str]]:
        """The sections for the search: page title, heading, path and text of each."""
        path = path_of(self.name)
        first, *others = self.document.sections
        return [
            (self.title, "", path, first.text),
            *((self.title, one.title, f"{path}#{one.id}", one.text) for one in others),
        ]


@dataclass(frozen=True, slots=True)
class Edition:
    """All pages with the same values."""

    values: Values
    pages: Mapping[str, Page]
    """By name, in order."""
    search_index: bytes
    """All sections as JSON: an array of page title, heading, path and text for each."""
    error_codes: Mapping[str, ErrorCode]
    """What each `error.code` means."""
    _html: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def titles(self) -> dict[str, str]:
        """The titles of the pages by name, in order."""
        return {name: page.title for name, page in self.pages.items()}

    def html(self, name: str, *, language: str, base_url: str) -> str:
        """Return the HTML of a page, with the examples of `language` open."""
        html = self._html.get((name, language))
        if html is None:
            html = self._html[name, language] = to_html(self.pages[name].document, language)
        return html.replace(BASE_URL, escape(base_url))

    def markdown(self, name: str, *, base_url: str) -> str:
        """Return the Markdown of a page."""
        return self.pages[name].markdown.replace(BASE_URL, base_url)

    def llms_txt(self, *, base_url: str) -> str:
        """Return the list of pages in the format of https://llmstxt.org."""
        index = self.pages[INDEX].document
        groups = [f"## {group}\n\n" + "\n".join(map(self._item, names)) for group, names in OUTLINE]
        reference = f"## Reference\n\n- [OpenAPI document]({BASE_URL}/api/v1/openapi.json): {_REFERENCE}"
        text = "\n\n".join([f"# {index.sections[0].title}", f"> {index.description}", *groups, reference])
        return f"{text}\n".replace(BASE_URL, base_url)

    def _item(self, name: str) -> str:
        page = self.pages[name]
        return f"- [{page.title}]({BASE_URL}{markdown_path_of(name)}): {page.document.description}"


class Library:
    """Returns the pages. They are rendered again when a value changes, in a thread, since that takes some 100 ms."""

    def __init__(self) -> None:
        """Read no page yet."""
        self._templates = _templates()
        self._edition: Edition | None = None
        self._lock = asyncio.Lock()

    async def edition(self, values: Values) -> Edition:
        """Return the pages with these values."""
        async with self._lock:
            if self._edition is None or self._edition.values != values:
                self._edition = await asyncio.to_thread(self._render, values)
            return self._edition

    def _render(self, values: Values) -> Edition:
        members = {name: getattr(values, name) for name in dir(values) if not name.startswith("_")}
        rendered = ((name, self._templates.get_template(f"{name}.md").render(**members)) for name in PAGES)
        texts = {name: _BLANK_LINES.sub("\n\n", text) for name, text in rendered}
        pages = {name: Page(name, text, parse(text)) for name, text in texts.items()}
        index = msgspec.json.encode([entry for page in pages.values() for entry in page.entries])
        errors = pages[ERRORS]
        return Edition(values, pages, index, error_codes(errors.markdown, errors.document))


def _templates() -> jinja2.Environment:
    """Return the templates of the pages, which are Markdown, so that nothing is escaped as HTML here."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_CONTENT),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["number"] = lambda value: f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"
    return templates
