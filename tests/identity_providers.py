"""Stand-ins for identity providers on real sockets: an OpenID Connect provider that signs ID tokens, and GitHub.

They check what a real provider checks: client, redirect URI, PKCE, and that a code is used once. Their user consents at
once, so that the authorization endpoint redirects straight back. Tests change single answers with the attributes.
"""

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.ports import free_port

CLIENT_ID, CLIENT_SECRET = "stack-client", "a secret of the client"
_START_SECONDS = 10


@dataclass
class _Provider:
    """What the two stand-ins have in common."""

    url: str = ""
    redirect_uri: str = ""
    """The only registered one."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Parameters of the authorization request of each unused code."""
    requests: list[str] = field(default_factory=list)
    """Paths of all requests."""
    is_down: bool = False

    def authorize(self, request: Request) -> Response:
        """Redirect back with a code, as if the user had consented."""
        query = dict(request.query_params)
        has_pkce = query.get("code_challenge_method") == "S256" and len(query.get("code_challenge", "")) == 43
        if (query.get("client_id"), query.get("redirect_uri")) != (CLIENT_ID, self.redirect_uri) or not has_pkce:
            return Response("invalid request", 400)
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return RedirectResponse(f"{self.redirect_uri}?{urlencode({'code': code, 'state': query['state']})}", 302)

    async def redeem(self, request: Request) -> dict[str, str] | str:
        """Return the authorization request of a code, or an error."""
        self.requests.append(request.url.path)
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        if self._client(request, form) != (CLIENT_ID, CLIENT_SECRET):
            return "invalid_client"
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None or form.get("redirect_uri") != asked["redirect_uri"]:
            return "invalid_grant"
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        is_proved = _base64(digest) == asked["code_challenge"]
        return asked if is_proved else "invalid_grant"

    def _client(self, request: Request, form: Mapping[str, str]) -> tuple[str, str]:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme != "Basic":
            return form.get("client_id", ""), form.get("client_secret", "")
        name, _, password = base64.b64decode(given).decode().partition(":")
        return name, password


@dataclass
class OIDCStandIn(_Provider):
    """An OpenID Connect provider with one user."""

    subject: str = "1001"
    email: str = "ada@example.com"
    is_email_verified: bool = True
    claims: dict[str, Any] = field(default_factory=dict)
    """Claims to replace in the next ID tokens; None leaves a claim out."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Members to replace in the discovery document."""
    user_info: dict[str, Any] = field(default_factory=dict)
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "first"}))
    signs_with: RSAKey | None = None
    """Another key than the published one."""
    forged_with: tuple[str, bytes] | None = None
    """Name of the algorithm and secret of an HMAC; without a secret, there is no signature."""
    padding: int = 0
    """Characters to add to token responses."""

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/authorize", self.authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/keys", self._keys),
                Route("/userinfo", self._user_info),
            ]
        )

    async def _discovery(self, request: Request) -> Response:
        self.requests.append(request.url.path)
        if self.is_down:
            return Response("down", 503)
        document = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "userinfo_endpoint": f"{self.url}/userinfo",
            **self.metadata,
        }
        return JSONResponse(document)

    async def _keys(self, request: Request) -> Response:
        self.requests.append(request.url.path)
        return JSONResponse({"keys": [self.key.as_dict(private=False), {"kty": "future", "kid": "other"}]})

    async def _user_info(self, request: Request) -> Response:
        self.requests.append(request.url.path)
        return JSONResponse({"sub": self.subject, **self.user_info})

    async def _token(self, request: Request) -> Response:
        if self.is_down:
            return Response("down", 503)
        asked = await self.redeem(request)
        if isinstance(asked, str):
            return JSONResponse({"error": asked}, 401 if asked == "invalid_client" else 400)
        answer = {"access_token": "access", "token_type": "Bearer", "id_token": self._id_token(asked["nonce"])}
        return JSONResponse(answer | ({"padding": "x" * self.padding} if self.padding else {}))

    def _id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "sub": self.subject,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "email": self.email,
            "email_verified": self.is_email_verified,
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.forged_with is not None:
            return _forged({"alg": self.forged_with[0], "kid": self.key.kid}, claims, self.forged_with[1])
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.signs_with or self.key)


@dataclass
class GitHubStandIn(_Provider):
    """GitHub with one user."""

    user_id: object = 4002
    emails: list[dict[str, object]] = field(
        default_factory=lambda: [
            {"email": "other@example.com", "primary": False, "verified": True},
            {"email": "ada@example.com", "primary": True, "verified": True},
        ]
    )

    def app(self) -> Starlette:
        """Return the application, with the site and the API on one address."""
        return Starlette(
            routes=[
                Route("/login/oauth/authorize", self.authorize),
                Route("/login/oauth/access_token", self._token, methods=["POST"]),
                Route("/user", self._user),
                Route("/user/emails", self._emails),
            ]
        )

    async def _token(self, request: Request) -> Response:
        if self.is_down:
            return Response("<html>unicorn</html>", 502)
        asked = await self.redeem(request)
        if isinstance(asked, str):
            # GitHub reports errors with 200, and with names of its own.
            names = {"invalid_grant": "bad_verification_code", "invalid_client": "incorrect_client_credentials"}
            return JSONResponse({"error": names[asked]})
        return JSONResponse({"access_token": "gho_access", "token_type": "bearer", "scope": "user:email"})

    async def _user(self, request: Request) -> Response:
        return self._with_token(request, {"id": self.user_id, "login": "ada"})

    async def _emails(self, request: Request) -> Response:
        return self._with_token(request, self.emails)

    def _with_token(self, request: Request, content: object) -> Response:
        is_known = request.headers.get("authorization") == "Bearer gho_access"
        return JSONResponse(content) if is_known else JSONResponse({"message": "Bad credentials"}, 401)


def _forged(header: Mapping[str, object], claims: Mapping[str, object], secret: bytes) -> str:
    """Return a JWT that the library refuses to make."""
    head = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
    return f"{head}.{_base64(hmac.digest(secret, head.encode(), 'sha256')) if secret else ''}"


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """Serve an application in a thread until the end of the block, and yield its URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    ends = time.monotonic() + _START_SECONDS
    while not server.started:
        assert thread.is_alive(), "the stand-in did not start"
        assert time.monotonic() < ends, "the stand-in did not start in time"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(_START_SECONDS)


def settings_of(oidc: OIDCStandIn, github: GitHubStandIn) -> dict[str, str]:
    """Return the settings of auth with which users log in at the stand-ins."""
    return {
        "AUTH_OIDC_ISSUER": oidc.url,
        "AUTH_OIDC_CLIENT_ID": CLIENT_ID,
        "AUTH_OIDC_CLIENT_SECRET": CLIENT_SECRET,
        "AUTH_OIDC_LABEL": "Example ID",
        "AUTH_GITHUB_CLIENT_ID": CLIENT_ID,
        "AUTH_GITHUB_CLIENT_SECRET": CLIENT_SECRET,
        "AUTH_GITHUB_URL": github.url,
        "AUTH_GITHUB_API_URL": github.url,
    }


def parameters(url: str) -> dict[str, str]:
    """Return the query parameters of a URL."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
