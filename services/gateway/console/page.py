"""Rendering of the console's pages."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from starlette.responses import HTMLResponse, RedirectResponse, Response

from services.common.errors import DeadlineExceeded, InternalError, ServiceError, Unavailable
from services.common.readable_email import readable_email
from services.common.runtime.clock import Clock
from services.common.web.assets import Assets
from services.common.web.times import ago, moment
from services.gateway.console.facts import Facts
from services.gateway.console.labels import label
from services.gateway.console.request_context import RequestContext
from services.gateway.console.site import Site
from services.gateway.http.errors import http_error

_FOLDER = Path(__file__).parent
STATIC = _FOLDER / "static"


class Pages:
    """Renders the console's pages."""

    def __init__(self, clock: Clock, assets: Assets, site: Site, facts: Facts) -> None:
        """Create a renderer.

        Args:
            clock: Used for relative times.
            assets: Returns the URLs of static files.
            site: What the operator sets for all pages.
            facts: What all pages know about the service.
        """
        self._clock = clock
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "number": lambda value: f"{value:,}",
            "moment": moment,
            "clock": lambda seconds: f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S}",
            "ago": lambda seconds: ago(seconds, now=clock.now()),
            "label": label,
        }
        self._templates.filters["readable_email"] = readable_email
        self._templates.globals |= {"asset": assets.url, "site": site, "facts": facts, "providers": tuple}

    def add_global(self, name: str, value: object) -> None:
        """Make a value available to all templates."""
        self._templates.globals[name] = value

    def now(self) -> float:
        """Return the current time in Unix seconds."""
        return self._clock.now()

    def show(self, context: RequestContext, name: str, *, status: int = 200, **variables: Any) -> Response:
        """Render a page with template `variables`."""
        template = self._templates.get_template(f"{name}.html")
        path = context.request.url.path
        html = template.render(
            context=context,
            session=context.session_scope and context.session_scope.session,
            path=path,
            confirmation=context.take_notice("message", now=self.now()),
            **variables,
        )
        return HTMLResponse(html, status_code=status)

    def part(self, name: str, **variables: Any) -> str:
        """Render a part of a page with template `variables`."""
        return self._templates.get_template(f"{name}.html").render(**variables)

    def confirm(self, context: RequestContext, message: str, path: str) -> Response:
        """Redirect the browser after a form to a page that shows a confirmation once."""
        context.notify(now=self.now(), message=message)
        return redirect(path)

    def show_error(self, context: RequestContext, name: str, error: ServiceError, **variables: Any) -> Response:
        """Render a page with its form and an error message.

        Raises:
            ServiceError: `error` itself, if it is not the user's mistake.
        """
        if isinstance(error, (Unavailable, DeadlineExceeded, InternalError)):
            raise error
        status = http_error(error, now=self.now()).status
        # 401 is reserved for HTTP authentication and requires a `www-authenticate` header.
        return self.show(context, name, status=403 if status == 401 else status, error=error.message, **variables)


def redirect(path: str) -> Response:
    """Redirect the browser after a form, with a GET request (RFC 9110, 303)."""
    return RedirectResponse(path, status_code=303)
