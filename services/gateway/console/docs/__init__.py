"""The users' documentation at `/docs`.

    content/*.md    the pages, with placeholders for what settings and plans decide
    outline.py      their order
    values.py       the values of the placeholders
    markdown.py     Markdown as HTML
    library.py      the pages with their values, cached; the search index and llms.txt
    views.py        routes
    viewer.py       the packaged viewer of the API reference

Each page is served as HTML and, at the same path with `.md`, as Markdown. Links between pages name their files.
"""
