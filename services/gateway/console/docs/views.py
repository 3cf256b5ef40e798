"""Routes of the docs."""

from collections.abc import Mapping, Sequence

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.common.web.origins import Origin
from services.gateway.console.docs.error_codes import ErrorCode
from services.gateway.console.docs.library import Edition, Library
from services.gateway.console.docs.markdown import LANGUAGES
from services.gateway.console.docs.outline import INDEX, OUTLINE, PAGES, markdown_path_of, path_of
from services.gateway.console.docs.values import BASE_URL, ValueSource
from services.gateway.console.page import Pages
from services.gateway.console.request_context import RequestContext, context_of

LANGUAGE_COOKIE = "docs-language"
_YEAR_SECONDS = 31_536_000
_PATHS = {name: path_of(name) for name in PAGES}


class DocsViews:
    """Handlers of the docs. They need no session, and work while the services are unavailable."""

    def __init__(self, pages: Pages, values: ValueSource, public: Origin | None) -> None:
        """Render with `pages` and `values`. `public` is the console's configured origin."""
        self._pages = pages
        self._values = values
        self._public = public
        self._library = Library()

    async def index(self, context: RequestContext) -> Response:
        """`GET /docs`."""
        return await self._show(context, INDEX)

    async def page(self, context: RequestContext) -> Response:
        """`GET /docs/{name}`."""
        name = context.request.path_params["name"]
        if name not in PAGES or name == INDEX:
            raise HTTPException(404)
        return await self._show(context, name)

    async def reference(self, context: RequestContext) -> Response:
        """`GET /docs/reference`: the API reference."""
        edition = await self._edition()
        return self._pages.show(context, "docs/reference", outline=OUTLINE, titles=edition.titles, paths=_PATHS)

    async def error_codes(self) -> Mapping[str, ErrorCode]:
        """Return what the page of errors says about each `error.code`."""
        return (await self._edition()).error_codes

    def files(self) -> Sequence[Route]:
        """Return the routes of what is not a page in HTML."""
        return [
            Route("/llms.txt", self._llms_txt),
            Route("/docs/search.json", self._search_index),
            Route("/docs/{name}.md", self._markdown),
        ]

    async def _show(self, context: RequestContext, name: str) -> Response:
        edition = await self._edition()
        chosen = context.query("language")
        language = _language(chosen or context.request.cookies.get(LANGUAGE_COOKIE, ""))
        position = PAGES.index(name)
        response = self._pages.show(
            context,
            "docs/page",
            html=edition.html(name, language=language, base_url=context.base_url),
            title=edition.titles[name],
            contents=edition.pages[name].contents,
            before=PAGES[position - 1] if position else None,
            after=PAGES[position + 1] if position + 1 < len(PAGES) else None,
            markdown_path=markdown_path_of(name),
            outline=OUTLINE,
            titles=edition.titles,
            paths=_PATHS,
        )
        if chosen:
            response.set_cookie(LANGUAGE_COOKIE, language, max_age=_YEAR_SECONDS, path="/docs", samesite="lax")
        return response

    async def _markdown(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in PAGES:
            raise HTTPException(404)
        text = (await self._edition()).markdown(name, base_url=self._base_url(request))
        return PlainTextResponse(text, media_type="text/markdown")

    async def _llms_txt(self, request: Request) -> Response:
        return PlainTextResponse((await self._edition()).llms_txt(base_url=self._base_url(request)))

    async def _search_index(self, request: Request) -> Response:
        content = (await self._edition()).search_index
        base_url = msgspec.json.encode(self._base_url(request))[1:-1]
        return Response(content.replace(BASE_URL.encode(), base_url), media_type="application/json")

    async def _edition(self) -> Edition:
        return await self._library.edition(await self._values.read())

    def _base_url(self, request: Request) -> str:
        return context_of(request, self._public).base_url


def _language(text: str) -> str:
    return text if text in LANGUAGES else next(iter(LANGUAGES))
