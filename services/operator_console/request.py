"""A request to the operators' console, with the operator's session."""

from dataclasses import dataclass
from typing import ClassVar

from starlette.requests import Request

from services.common.web.browser_request import BrowserRequest, NotLoggedIn, session_and_visitor
from services.common.web.origins import Origin, console_origins
from services.operator_console.clients.operators import OperatorClient
from services.operator_console.model import Session


@dataclass(slots=True)
class OperatorRequest(BrowserRequest):
    """A request with the operator's session, and the client that acts with it."""

    PUBLIC_URL_SETTING: ClassVar[str] = "OPERATOR_CONSOLE_PUBLIC_URL"
    session: Session | None = None
    """None without one."""
    _operator: OperatorClient | None = None

    @property
    def has_session(self) -> bool:
        """Whether the token is that of a session that is open."""
        return self.session is not None

    @property
    def operator(self) -> OperatorClient:
        """What the operator can do.

        Raises:
            NotLoggedIn: The request has no session.
        """
        if self._operator is None:
            raise NotLoggedIn
        return self._operator

    def authenticate(self, session: Session, operator: OperatorClient) -> None:
        """Set the session that auth has found for the request's token."""
        self.session, self._operator = session, operator


def request_of(request: Request, public: Origin | None) -> OperatorRequest:
    """Return a request that is not authenticated yet. `public` is the configured origin."""
    origins = console_origins(request, public)
    return OperatorRequest(request, origins, *session_and_visitor(request, origins))
