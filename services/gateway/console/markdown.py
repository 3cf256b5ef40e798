"""Markdown of answers as HTML. Models write what users and web pages tell them to, so the HTML is sanitised.

Both libraries are native code that takes linear time: cmark-gfm, GitHub's parser, and nh3, which uses the parser of
browsers. The exception is deep nesting, for which nh3 takes quadratic time, so it is refused.
"""

import re

import cmarkgfm
import nh3
from cmarkgfm.cmark import Options

CHARACTERS_MAX = 200_000
"""Longer answers are shown as plain text."""
_DEPTH_MAX = 100
_NESTED = re.compile(r"<(/?)(?:blockquote|[uo]l)\b")
_EXTENSIONS = ("table", "strikethrough")
_TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code"),
    *("em", "strong", "del", "a", "table", "thead", "tbody", "tr", "th", "td"),
}
"""Without images: pages load nothing from other sites."""
_ATTRIBUTES = {"a": {"href"}, "code": {"class"}, "ol": {"start"}, "th": {"align"}, "td": {"align"}}


def to_html(text: str) -> str | None:
    """Return Markdown as HTML that runs no script and loads nothing. Line breaks are kept.

    Returns None if quotes or lists are nested too deeply.
    """
    html = cmarkgfm.markdown_to_html_with_extensions(text, Options.CMARK_OPT_HARDBREAKS, _EXTENSIONS)
    if _depth(html) > _DEPTH_MAX:
        return None
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )


def _depth(html: str) -> int:
    deepest = depth = 0
    for tag in _NESTED.finditer(html):
        depth += -1 if tag[1] else 1
        deepest = max(deepest, depth)
    return deepest
