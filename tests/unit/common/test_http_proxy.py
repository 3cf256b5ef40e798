"""The proxy that the environment configures for an address."""

import pytest

from services.common.errors import StartError
from services.common.runtime.http_proxy import Proxy, proxy_for

GROQ = "https://api.groq.com"
PROXY = Proxy("http://proxy:3128")


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        (GROQ, {}, None),
        (GROQ, {"https_proxy": "http://proxy:3128"}, PROXY),
        (GROQ, {"HTTPS_PROXY": "http://proxy:3128/"}, PROXY),
        (GROQ, {"ALL_PROXY": "proxy:3128"}, PROXY),
        (GROQ, {"https_proxy": "http://proxy:3128", "HTTPS_PROXY": "http://b:1", "ALL_PROXY": "http://c:1"}, PROXY),
        (GROQ, {"http_proxy": "http://proxy:3128", "HTTPS_PROXY": "  "}, None),
        ("http://groq.test", {"HTTP_PROXY": "proxy:3128"}, PROXY),
        ("http://groq.test", {"HTTP_PROXY": "proxy:3128", "REQUEST_METHOD": "GET"}, None),
        (GROQ, {"https_proxy": "https://[2001:db8::1]:443"}, Proxy("https://[2001:db8::1]:443")),
        (GROQ, {"https_proxy": "ada:secret@proxy:3128"}, Proxy("http://proxy:3128", "ada", "secret")),
        (GROQ, {"https_proxy": "http://a%40b:p%2Fw@proxy"}, Proxy("http://proxy", "a@b", "p/w")),
        (GROQ, {"https_proxy": "http://ada:p@s/s#w:rd@proxy:3128"}, Proxy("http://proxy:3128", "ada", "p@s/s#w:rd")),
    ],
)
def test_the_variable_of_the_urls_scheme_takes_precedence(
    url: str, environment: dict[str, str], proxy: Proxy | None
) -> None:
    found = proxy_for(url, environment=environment)
    assert found == proxy
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://127.9.9.9", "http://localhost", "http://[::1]:1", "http://a.localhost"]
)
def test_a_loopback_address_is_never_reached_through_a_proxy(url: str) -> None:
    environment = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY"), "socks5://proxy:1080")
    assert proxy_for(url, environment=environment) is None


@pytest.mark.parametrize(
    ("url", "no_proxy", "is_direct"),
    [
        (GROQ, "*", True),
        (GROQ, "api.groq.com", True),
        (GROQ, "API.Groq.Com", True),
        (GROQ, "groq.com", True),
        (GROQ, ".groq.com", True),
        (GROQ, "*.groq.com", True),
        (GROQ, "localhost, 10.0.0.0/8 groq.com", True),
        (GROQ, "api.groq.com:443", True),
        (GROQ, "api.groq.com:8443", False),
        (GROQ, "roq.com", False),
        (GROQ, "[::1],fd00::/8", False),
        (GROQ, "[::1],fd00::/8,::,[,:,/,a b:c:d,10.0.0.0/99", False),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://10.1.2.3", "10.1.2.3", True),
        ("https://10.1.2.3", "1.2.3", False),
        ("https://[fd00::7]", "[::1],fd00::/8", True),
        ("https://[fd00::7]", "[fd00::7]", True),
        ("https://[fd00::7]", "[fd00::7]:443", True),
        ("https://[fd01::7]", "[fd00::7]", False),
    ],
)
def test_no_proxy_accepts_hosts_domains_addresses_and_networks(url: str, no_proxy: str, is_direct: bool) -> None:
    environment = {"https_proxy": "http://proxy:3128", "no_proxy": no_proxy}
    assert (proxy_for(url, environment=environment) is None) is is_direct


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks://canary:1080"),
        ("all_proxy", "socks5h://user:canary@host:1080"),
        ("HTTPS_PROXY", "http://user:canary@"),
        ("https_proxy", "http://user:canary@host:port"),
        ("https_proxy", "http://user:canary@host:99999"),
        ("https_proxy", "user:canary@host/path"),
        ("https_proxy", "http://user:canary@ho st"),
        ("https_proxy", "http://user:canary\N{SNOWMAN}@host"),
        ("https_proxy", "http://user:canary\n@host"),
        ("https_proxy", "://canary"),
    ],
)
def test_an_unusable_proxy_is_reported_in_one_sentence_with_the_variable_and_without_its_value(
    variable: str, value: str
) -> None:
    with pytest.raises(StartError) as raised:
        proxy_for(GROQ, environment={variable: value})
    assert str(raised.value).startswith(f"{variable}: ")
    assert "canary" not in str(raised.value)
    assert "\n" not in str(raised.value)
