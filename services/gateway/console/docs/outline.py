"""The pages of the docs, in the order of the side bar."""

INDEX = "index"
"""Name of the page at `/docs`."""
OUTLINE = (
    ("Get started", (INDEX, "quickstart", "authentication", "model-names", "sdks")),
    ("APIs", ("chat", "responses", "messages")),
    ("Guides", ("streaming", "tools", "structured-output", "images", "reasoning")),
    ("Operation", ("errors", "limits", "alerts", "idempotency", "receipts")),
    ("More", ("faq", "changelog")),
)
"""Groups of pages, by the names of their files."""
PAGES = tuple(name for _, names in OUTLINE for name in names)
"""The names of all pages, in order."""


def path_of(name: str) -> str:
    """Return the path of a page."""
    return "/docs" if name == INDEX else f"/docs/{name}"


def markdown_path_of(name: str) -> str:
    """Return the path of a page's Markdown."""
    return f"/docs/{name}.md"
