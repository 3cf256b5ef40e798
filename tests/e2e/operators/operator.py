"""Operators with browsers without rendering, at the operators' console."""

import base64
import re
import secrets
import time
from dataclasses import dataclass

import httpx

from services.auth.totp.codes import Secret
from services.common.rpc.channel import open_channel
from stack.auth.v1 import accounts_pb2
from stack.auth.v1.accounts_pb2_grpc import AccountServiceStub
from tests.e2e.console.browser import HTML, PASSWORD, Browser
from tests.e2e.stack import Stack


class OperatorBrowser(Browser):
    """A browser at the operators' console."""

    def __init__(self, stack: Stack) -> None:
        self.origin = stack.settings.operator_console_url
        self.client = httpx.AsyncClient(base_url=self.origin, trust_env=False, timeout=20, headers=HTML)

    async def __aenter__(self) -> "OperatorBrowser":
        return self

    async def enter_password(self, email: str, *, page: str = "/login") -> httpx.Response:
        """Fill in the first form of the log-in."""
        return await self.submit(page, "/login", {"email": email, "password": PASSWORD})

    async def log_in(self, owner: "Owner", *, page: str = "/login") -> httpx.Response:
        """Log in with both steps, and return the page that is then shown."""
        asked = await self.enter_password(owner.email, page=page)
        return await self.send(asked.text, "/login/code", {"code": owner.code()})


@dataclass
class Owner:
    """The owner of an account with TOTP."""

    email: str
    secret: Secret
    used: int = 0

    def code(self) -> str:
        """Return the next code that was not used. Two are accepted at any time, even if a step ends in ten seconds."""
        self.used = max(self.used + 1, int(time.time() + 10) // 30 - 1)
        return self.secret.code(self.used).decode()


async def signed_up(stack: Stack) -> str:
    """Create an account, and return its address."""
    email = f"{secrets.token_hex(6)}@example.com"
    async with Browser(stack) as browser:
        assert (await browser.sign_up(email)).status_code == 200
    return email


async def with_totp(stack: Stack) -> Owner:
    """Create an account, and turn on its second factor."""
    email, methods = f"{secrets.token_hex(6)}@example.com", "/account/log-in"
    async with Browser(stack) as browser:
        await browser.sign_up(email)
        page = await browser.submit(methods, f"{methods}/totp/enrol", {"password": PASSWORD})
        shown = re.search(r"Key: <code>([A-Z2-7]{32})</code>", page.text)
        assert shown, page.text
        owner = Owner(email, Secret(base64.b32decode(shown[1])))
        enabled = await browser.send(page.text, f"{methods}/totp/enable", {"code": owner.code()})
        assert enabled.status_code == 200
    return owner


async def set_role(stack: Stack, email: str, *, is_operator: bool = True) -> str:
    """Give an account the role of operators, or take it away, and return the account's id."""
    async with open_channel(stack.socket("auth")) as channel:
        accounts = AccountServiceStub(channel)
        if is_operator:
            adding = accounts_pb2.AddOperatorRequest(account=email)
            return (await accounts.AddOperator(adding, metadata=stack.admin_metadata, timeout=5)).account.id
        removing = accounts_pb2.RemoveOperatorRequest(account=email)
        return (await accounts.RemoveOperator(removing, metadata=stack.admin_metadata, timeout=5)).account.id


async def operator(stack: Stack) -> Owner:
    """Create an account with TOTP and the role."""
    owner = await with_totp(stack)
    await set_role(stack, owner.email)
    return owner


async def account_id_of(stack: Stack, email: str) -> str:
    """Return the id of an account."""
    async with open_channel(stack.socket("auth")) as channel:
        request = accounts_pb2.GetAccountRequest(account=email)
        answer = await AccountServiceStub(channel).GetAccount(request, metadata=stack.admin_metadata, timeout=5)
    return answer.account.id
