"""Markdown of the docs as HTML.

In addition to CommonMark and tables:

- Code blocks that follow each other are one example in several languages, with a tab for each.
- The text after a code block's language is its caption: ```sh Terminal. Such a block stands alone.
- A block quote is a note.
- Links to `page.md#heading` lead to the page in HTML.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from services.gateway.console.docs.outline import path_of

LANGUAGES = {"sh": "curl", "python": "Python", "javascript": "JavaScript"}
"""Languages of examples, with the names of their tabs."""
_CAPTIONS = {**LANGUAGES, "json": "JSON", "toml": "TOML", "http": "HTTP"}
_LEXERS = {"http": "text"}
"""Languages whose blocks are read as another one."""
_FORMATTER = HtmlFormatter(nowrap=True)
_PAGE_LINK = re.compile(r"([a-z-]+)\.md(#[\w-]+)?")
_NOT_IN_IDS = re.compile(r"[^a-z0-9]+")


@dataclass(slots=True)
class Section:
    """A heading with its text, for the search and for the contents of a page."""

    id: str
    title: str
    level: int
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text below the heading, without code blocks."""
        return " ".join(self.texts)


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed page."""

    tokens: Sequence[Token]
    sections: Sequence[Section]
    """The first one is the page itself."""
    description: str
    """The first paragraph."""


def parse(text: str) -> Document:
    """Parse a page, which begins with its title and a paragraph."""
    tokens = [_transformed(token) for token in _with_samples(_PARSER.parse(text))]
    sections = _sections(tokens)
    _label_tables(tokens)
    description = next(tokens[index + 1] for index, token in enumerate(tokens) if token.type == "paragraph_open")
    return Document(tokens, sections, _plain(description))


def to_html(document: Document, language: str) -> str:
    """Return the HTML of a page, with the tabs of `language` open."""
    html: str = _PARSER.renderer.render(document.tokens, _PARSER.options, {"language": language})
    return html


def inline_html(text: str) -> str:
    """Return the HTML of text without paragraphs, such as a cell of a table. Links lead to the pages in HTML."""
    tokens = [_transformed(token) for token in _PARSER.parseInline(text)]
    html: str = _PARSER.renderer.render(tokens, _PARSER.options, {})
    return html


def _with_samples(tokens: Sequence[Token]) -> Iterator[Token]:
    """Replace each run of adjacent code blocks by one token that has them as children."""
    blocks: list[Token] = []
    count = 0
    for token in tokens:
        continues = token.type == "fence" and bool(blocks) and _is_variant(token) and _is_variant(blocks[-1])
        if token.type != "fence":
            blocks = []
            yield token
        elif continues:
            blocks.append(token)
        else:
            blocks, count = [token], count + 1
            yield Token("sample", "figure", 0, children=blocks, meta={"id": f"sample-{count}"})


def _is_variant(block: Token) -> bool:
    """Return whether a code block can be an example in one of several languages: it has no caption."""
    return block.info in LANGUAGES


def _transformed(token: Token) -> Token:
    for inner in token.children or ():
        if inner.type == "link_open":
            _set_target(inner)
    return token


def _set_target(link: Token) -> None:
    href = str(link.attrs["href"])
    page = _PAGE_LINK.fullmatch(href)
    if page:
        link.attrs["href"] = path_of(page[1]) + (page[2] or "")
    elif "://" in href:
        link.attrs["rel"] = "noopener"


def _sections(tokens: Sequence[Token]) -> list[Section]:
    """Return the sections, and give their headings ids."""
    sections: list[Section] = []
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            title = _plain(tokens[index + 1])
            token.attrs["id"] = _unused(_NOT_IN_IDS.sub("-", title.lower()).strip("-"), sections)
            sections.append(Section(str(token.attrs["id"]), title, int(token.tag[1:])))
        elif token.type == "inline" and sections and tokens[index - 1].type != "heading_open":
            sections[-1].texts.append(_plain(token))
    return sections


def _unused(name: str, sections: Sequence[Section]) -> str:
    taken = {one.id for one in sections}
    return next(one for one in (name, *(f"{name}-{number}" for number in range(2, 100))) if one not in taken)


def _label_tables(tokens: Sequence[Token]) -> None:
    """Give each cell the title of its column, which is shown on narrow screens, and each table a unique label."""
    titles: list[str] = []
    column, table, label = 0, 0, ""
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            label = _plain(tokens[index + 1])
        elif token.type == "table_open":
            table, titles = table + 1, []
            token.meta = {"label": f"{label}, table {table}"}
        elif token.type == "tr_open":
            column = 0
        elif token.type == "th_open":
            titles.append(_plain(tokens[index + 1]))
        elif token.type == "td_open":
            if column:
                token.attrs["data-label"] = titles[column]
            column += 1


def _plain(inline: Token) -> str:
    texts = (" " if token.type == "softbreak" else token.content for token in inline.children or ())
    return "".join(texts)


def _sample(self: Any, tokens: Sequence[Token], index: int, options: Any, env: dict[str, str]) -> str:
    """Render an example: one code block, or several of which one is shown."""
    sample = tokens[index]
    blocks = sample.children or []
    name = sample.meta["id"]
    languages = [_language(block) for block in blocks]
    shown = env["language"] if env["language"] in languages else languages[0]
    caption = escape(_caption(blocks[0])) if len(blocks) == 1 else _tabs(name, languages, shown)
    button = f'<button type="button" class="copy" data-copy="{name}-{shown}" hidden>Copy</button>'
    code = "".join(_code(name, block, is_shown=_language(block) == shown) for block in blocks)
    return (
        f'<figure class="code" id="{name}"><figcaption><span>{caption}</span>{button}</figcaption>\n{code}</figure>\n'
    )


def _code(name: str, block: Token, *, is_shown: bool) -> str:
    language = _language(block)
    attributes = f'tabindex="0" role="region" aria-label="{escape(_caption(block))}, {name}" data-language="{language}"'
    hidden = "" if is_shown else " hidden"
    return f'<pre {attributes}{hidden}><code id="{name}-{language}">{_coloured(block)}</code></pre>'


def _coloured(block: Token) -> str:
    """Return code as HTML with the classes of Pygments."""
    language = _language(block)
    lexer = get_lexer_by_name(_LEXERS.get(language, language), stripnl=False, ensurenl=False)
    html: str = highlight(block.content.rstrip(), lexer, _FORMATTER)
    return html.rstrip()


def _tabs(name: str, languages: Sequence[str], shown: str) -> str:
    """Links that work without JavaScript, too."""
    links = (
        f'<a href="?language={one}#{name}" data-language="{one}"{" aria-current=true" if one == shown else ""}>'
        f"{escape(_CAPTIONS[one])}</a>"
        for one in languages
    )
    return f'<span class="languages" role="group" aria-label="Language, {name}">{"".join(links)}</span>'


def _language(block: Token) -> str:
    return block.info.partition(" ")[0]


def _caption(block: Token) -> str:
    language, _, caption = block.info.partition(" ")
    return caption or _CAPTIONS.get(language, "Text")


def _heading_open(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    link = f'<a href="#{token.attrs["id"]}">' if token.tag != "h1" else ""
    return f'<{token.tag} id="{token.attrs["id"]}">{link}'


def _heading_close(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    tag = tokens[index].tag
    return f"</a></{tag}>\n" if tag != "h1" else f"</{tag}>\n"


def _table_open(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    label = escape(tokens[index].meta["label"])
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="lines">\n'


def _cell_open(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A cell with one element, so that its label can stand next to it on narrow screens."""
    label = tokens[index].attrs.get("data-label")
    return f'<td data-label="{escape(str(label))}"><div>' if label else "<td><div>"


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    rules = {
        "sample": _sample,
        "heading_open": _heading_open,
        "heading_close": _heading_close,
        "table_open": _table_open,
        "table_close": lambda *_: "</table></div>\n",
        "td_open": _cell_open,
        "td_close": lambda *_: "</div></td>\n",
        "blockquote_open": lambda *_: '<div class="note">\n',
        "blockquote_close": lambda *_: "</div>\n",
    }
    for name, rule in rules.items():
        parser.add_render_rule(name, rule)
    return parser


_PARSER = _parser()
