"""Rendering of the operators' pages."""

from pathlib import Path
from typing import Any

import jinja2
from starlette.responses import HTMLResponse, RedirectResponse, Response

from services.common.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ServiceError,
    Throttled,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from services.common.prices import dollars
from services.common.readable_email import readable_email
from services.common.runtime.clock import Clock
from services.common.web.assets import Assets
from services.common.web.times import ago, moment
from services.operator_console.labels import actor_label, label
from services.operator_console.request import OperatorRequest

_FOLDER = Path(__file__).parent
STATIC = _FOLDER / "static"
_STATUSES: dict[type[ServiceError], int] = {
    InvalidRequest: 400,
    # 401 is reserved for HTTP authentication and requires a `www-authenticate` header.
    Unauthenticated: 403,
    PermissionDenied: 403,
    NotFound: 404,
    FailedPrecondition: 409,
    AlreadyExists: 409,
    TooLarge: 413,
    Throttled: 429,
    Unavailable: 503,
    DeadlineExceeded: 504,
}
_INTERNAL = "An internal error occurred. Look for the request's id in the log of the operators' console."


class Pages:
    """Renders the pages."""

    def __init__(self, clock: Clock, assets: Assets) -> None:
        """Show times relative to `clock`, and the static files of `assets`."""
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
            "ago": lambda seconds: ago(seconds, now=clock.now()),
            "label": label,
            "actor": actor_label,
            "readable_email": readable_email,
            "cost": lambda cost: "not priced" if cost is None else f"${dollars(cost)}",
        }
        self._templates.globals["asset"] = assets.url

    def now(self) -> float:
        """Return the current time in Unix seconds."""
        return self._clock.now()

    def show(self, request: OperatorRequest, name: str, *, status: int = 200, **variables: Any) -> Response:
        """Render a page with template `variables`."""
        html = self._templates.get_template(f"{name}.html").render(
            context=request,
            session=request.session,
            path=request.request.url.path,
            confirmation=request.take_notice("message", now=self.now()),
            **variables,
        )
        return HTMLResponse(html, status_code=status)

    def confirm(self, request: OperatorRequest, message: str, path: str) -> Response:
        """Redirect the browser after a form to a page that shows a confirmation once."""
        request.notify(now=self.now(), message=message)
        return redirect(path)

    def show_error(self, request: OperatorRequest, name: str, error: ServiceError, **variables: Any) -> Response:
        """Render a page with its form and an error message.

        Raises:
            ServiceError: `error` itself, if it is not the operator's mistake.
        """
        if isinstance(error, (Unavailable, DeadlineExceeded, InternalError)):
            raise error
        return self.show(request, name, status=status_of(error), error=error.message, **variables)

    def error_page(self, request: OperatorRequest, error: ServiceError) -> Response:
        """Render the page of an error. Internal errors show no details."""
        status = status_of(error)
        message = _INTERNAL if status == 500 else error.message
        return self.show(request, "error", status=status, code=status, message=message)


def status_of(error: ServiceError) -> int:
    """Return the HTTP status of an error."""
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)


def redirect(path: str) -> Response:
    """Redirect the browser after a form, with a GET request (RFC 9110, 303)."""
    return RedirectResponse(path, status_code=303)
