"""The context of a console request: the request of a browser, and its session."""

from dataclasses import dataclass

from starlette.requests import Request

from services.common.web import browser_request
from services.common.web.browser_request import BrowserRequest, NotLoggedIn, session_and_visitor
from services.common.web.origins import Origin, console_origins
from services.gateway.console.ports import OpenSession, OwnerClient, Session, UsageClient
from services.gateway.console.refusals import RefusalClient

__all__ = ["NotLoggedIn", "RequestContext", "SessionScope", "context_of", "local_path"]


@dataclass(frozen=True, slots=True)
class SessionScope:
    """A session with clients for its account."""

    session: Session
    owner: OwnerClient
    usage: UsageClient
    refusals: RefusalClient


@dataclass(slots=True)
class RequestContext(BrowserRequest):
    """A request with its session, form and cookies."""

    session_scope: SessionScope | None = None
    """Scope of the session; None without one."""
    has_lapsed: bool = False
    """Whether the browser sent the token of a session that has ended."""

    @property
    def has_session(self) -> bool:
        """Whether the token is that of a session that is open."""
        return self.session_scope is not None

    @property
    def scope(self) -> SessionScope:
        """The scope of the session.

        Raises:
            NotLoggedIn: The request has no valid session.
        """
        if self.session_scope is None:
            raise NotLoggedIn
        return self.session_scope

    def set_session(self, opened: OpenSession, *, now: float) -> None:
        """Set the cookies of a new session, which replaces the previous one."""
        self.open_session(opened.token, opened.device_token, seconds=opened.session.expires_at - now)


def context_of(request: Request, public: Origin | None) -> RequestContext:
    """Return the context of a request that is not authenticated yet. `public` is the configured origin."""
    origins = console_origins(request, public)
    return RequestContext(request, origins, *session_and_visitor(request, origins))


def local_path(text: str, *, otherwise: str = "/keys") -> str:
    """Return `text` if it is a path on this site, or else `otherwise`, to prevent open redirects."""
    return browser_request.local_path(text, otherwise=otherwise)
