"""The code blocks of the users' docs."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

_CONTENT = Path(__file__).parents[1] / "services" / "gateway" / "console" / "docs" / "content"
_PACKAGE = re.compile(r'^import .* from "', re.MULTILINE)
_PROGRAMS = ("sh", "python", "javascript")


@dataclass(frozen=True)
class Example:
    """A code block."""

    page: str
    number: int
    """Its position among the code blocks of its language on the page."""
    language: str
    caption: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.language}-{self.number}"

    @property
    def is_program(self) -> bool:
        """Whether it calls the API. A caption marks what a reader runs once, such as an installation."""
        return self.language in _PROGRAMS and not self.caption

    @property
    def imports_package(self) -> bool:
        """Whether it needs a package for JavaScript."""
        return self.language == "javascript" and bool(_PACKAGE.search(self.text))


def source_of(page: str) -> str:
    """Return a page with its placeholders."""
    return (_CONTENT / f"{page}.md").read_text()


def examples_in(page: str, markdown: str) -> list[Example]:
    """Return the code blocks of a page, in order."""
    counts: dict[str, int] = {}
    examples = []
    for token in MarkdownIt("commonmark").parse(markdown):
        if token.type == "fence":
            language, _, caption = token.info.partition(" ")
            counts[language] = counts.get(language, 0) + 1
            examples.append(Example(page, counts[language], language, caption, token.content))
    return examples
