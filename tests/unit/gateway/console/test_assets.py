"""Static files are cached for ever only under the digest of the content that was served."""

from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from services.common.web.assets import Assets

_FOREVER = "public, max-age=31536000, immutable"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "console.css").write_text("body { color: black }")
    return tmp_path


def _client(assets: Assets) -> httpx.AsyncClient:
    app = Starlette(routes=[Route("/static/{name}", assets.serve)])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console")


async def test_a_file_is_cached_for_ever_under_the_digest_of_its_content(folder: Path) -> None:
    assets = Assets(folder)
    async with _client(assets) as client:
        answer = await client.get(assets.url("console.css"))
    assert (answer.text, answer.headers["cache-control"]) == ("body { color: black }", _FOREVER)
    assert answer.headers["content-type"] == "text/css; charset=utf-8"


@pytest.mark.parametrize("query", ["", "?v=", "?v=0a1b", "?v=0a1b&v={right}x", "?w={right}"])
async def test_under_any_other_name_it_is_revalidated(folder: Path, query: str) -> None:
    """During a rollout, a page of the new version requests `console.css?v=new` from the old one."""
    assets = Assets(folder)
    right = assets.url("console.css").partition("=")[2]
    async with _client(assets) as client:
        answer = await client.get(f"/static/console.css{query.format(right=right)}")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")


async def test_the_content_read_at_start_is_served_even_if_the_file_changes(folder: Path) -> None:
    assets = Assets(folder)
    url = assets.url("console.css")
    (folder / "console.css").write_text("body { color: red }")
    async with _client(assets) as client:
        answer = await client.get(url)
    assert (answer.text, answer.headers["cache-control"]) == ("body { color: black }", _FOREVER)
    assert assets.url("console.css") == url
    assert Assets(folder).url("console.css") != url


async def test_a_browser_that_has_the_content_gets_304(folder: Path) -> None:
    async with _client(Assets(folder)) as client:
        first = await client.get("/static/console.css")
        again = await client.get("/static/console.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["none.css", "..%2fconsole.css", ".", "%00"])
async def test_a_missing_file_is_a_404(folder: Path, name: str) -> None:
    async with _client(Assets(folder)) as client:
        assert (await client.get(f"/static/{name}")).status_code == 404


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip, br", "gzip"), ("br;q=1, gzip;q=0.5", "gzip"), ("identity", None), ("gzip;q=0", None), ("", None)],
)
async def test_a_large_file_is_compressed_for_clients_that_accept_it(
    folder: Path, accepted: str, coding: str | None
) -> None:
    (folder / "large.js").write_text("let a = 1;\n" * 20_000)
    async with _client(Assets(folder)) as client:
        for _ in range(2):
            answer = await client.get("/static/large.js", headers={"accept-encoding": accepted})
            assert answer.headers.get("content-encoding") == coding
            assert answer.text == "let a = 1;\n" * 20_000
            assert answer.headers["vary"] == "accept-encoding"
        same = {"accept-encoding": accepted, "if-none-match": answer.headers["etag"]}
        assert (await client.get("/static/large.js", headers=same)).status_code == 304
        assert "content-encoding" not in (await client.get("/static/console.css", headers=same)).headers


async def test_a_compressed_file_has_another_etag(folder: Path) -> None:
    (folder / "large.js").write_text("let a = 1;\n" * 20_000)
    async with _client(Assets(folder)) as client:
        etags = [
            (await client.get("/static/large.js", headers={"accept-encoding": one})).headers["etag"]
            for one in ("gzip", "identity")
        ]
    assert etags[0] != etags[1]
