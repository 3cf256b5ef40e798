"""The page of Groq's keys and what is left of their rate limits."""

from starlette.responses import Response

from services.common.errors import PermissionDenied
from services.common.web.unknown import or_none
from services.operator_console.clients.usage import UsageClient
from services.operator_console.page import Pages
from services.operator_console.request import OperatorRequest


class GroqKeysPage:
    """Handler of the page."""

    def __init__(self, pages: Pages, usage: UsageClient) -> None:
        self._pages = pages
        self._usage = usage

    async def index(self, request: OperatorRequest) -> Response:
        """`GET /groq-keys`."""
        return self._pages.show(request, "groq_keys", groq=await or_none(self._usage.groq_keys(), PermissionDenied))
