"""Static files of the console, with cache headers."""

import asyncio
import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_YEAR_SECONDS = 31_536_000
_IMMUTABLE = f"public, max-age={_YEAR_SECONDS}, immutable"
_NO_CACHE = "no-cache"
_DIGEST_CHARACTERS = 16
_SHARED = Path(__file__).parent / "static"
_COMPRESSED_BYTES_MIN = 100_000
"""Smaller files are sent as they are. Only the viewer of the API reference is larger."""


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    media_type: str
    digest: str


class Assets:
    """Serves the files of a folder from memory.

    URLs contain a digest of the content, `console.css?v=…`. A response is cacheable forever only if its content has the
    requested digest: during a rollout, a page of one version may request files from a gateway of another.
    """

    def __init__(self, folder: Path, others: Mapping[str, Path] | None = None) -> None:
        """Read the files that both consoles share, all files of `folder`, and `others` by their names."""
        found = (*_SHARED.iterdir(), *folder.iterdir())
        files = {path.name: path for path in found if path.is_file()} | dict(others or {})
        self._assets = {name: _read(path) for name, path in files.items()}
        self._compressed: dict[str, bytes] = {}

    def url(self, name: str) -> str:
        """Return the URL of a file, which changes with its content."""
        return f"/static/{name}?v={self._assets[name].digest}"

    def content(self, name: str) -> bytes:
        """Return the content of a file."""
        return self._assets[name].content

    async def serve(self, request: Request) -> Response:
        """`GET /static/{name}`."""
        asset = self._assets.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404)
        is_compressed = len(asset.content) >= _COMPRESSED_BYTES_MIN and _accepts_gzip(request)
        etag = f'"{asset.digest}{"-gzip" if is_compressed else ""}"'
        is_current = request.query_params.get("v") == asset.digest
        headers = {"cache-control": _IMMUTABLE if is_current else _NO_CACHE, "etag": etag, "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        if not is_compressed:
            return Response(asset.content, media_type=asset.media_type, headers=headers)
        headers["content-encoding"] = "gzip"
        return Response(await self._compress(asset), media_type=asset.media_type, headers=headers)

    async def _compress(self, asset: _Asset) -> bytes:
        """Return a file compressed. The first time, this takes some 100 ms in a thread."""
        content = self._compressed.get(asset.digest)
        if content is None:
            content = self._compressed[asset.digest] = await asyncio.to_thread(gzip.compress, asset.content, 6)
        return content


def _accepts_gzip(request: Request) -> bool:
    codings = request.headers.get("accept-encoding", "").replace(" ", "").split(",")
    return any(one == "gzip" or (one.startswith("gzip;") and not one.endswith("q=0")) for one in codings)


def _read(path: Path) -> _Asset:
    content = path.read_bytes()
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return _Asset(content, media_type, hashlib.sha256(content).hexdigest()[:_DIGEST_CHARACTERS])
