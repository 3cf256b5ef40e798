"""Errors of the HTTP client. They contain nothing that was sent or received, so they can be logged."""


class HTTPClientError(Exception):
    """There was no complete, valid response."""


class ConnectError(HTTPClientError):
    """No connection could be opened, so the request was not sent."""


class ConnectTimeout(ConnectError):
    """The time-out of connecting expired."""


class ProxyRefused(ConnectError):
    """The proxy did not open a tunnel.

    Attributes:
        status: HTTP status of the proxy's response; 0 if it is not valid HTTP.
    """

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


class ConnectionLost(HTTPClientError):
    """The connection was closed before the response was complete."""


class StaleConnection(ConnectionLost):
    """A connection of an earlier request was lost at once, without a byte of a response.

    The server, or something on the way such as a NAT, had closed it while it was idle.
    """


class MalformedResponse(HTTPClientError):
    """The response is not valid HTTP, or its head is too large."""
