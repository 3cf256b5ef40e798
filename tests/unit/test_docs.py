"""The documentation matches the code."""

import json
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from services.auth import metrics as auth_metrics
from services.auth.settings import AuthSettings
from services.common.concurrency import batch
from services.common.rpc import interceptors
from services.common.rpc.multiplex import client as multiplex_client
from services.common.runtime.settings import ServiceSettings
from services.common.telemetry import log
from services.gateway import metrics as gateway_metrics
from services.gateway.settings import GatewaySettings
from services.inference import metrics as inference_metrics
from services.inference.settings import InferenceSettings
from services.local.settings import LocalSettings
from services.operator_console.settings import OperatorConsoleSettings
from services.quota import metrics as quota_metrics
from services.quota.settings import QuotaSettings

_ROOT = Path(__file__).parents[2]
_PAGES = sorted([*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md")])
_PATH = re.compile(r"\b(?:services|tools|tests|deploy|docs|examples|bench|protos|requirements)/[\w./-]*\w")
_METRICS = (auth_metrics, gateway_metrics, quota_metrics, inference_metrics, batch, interceptors, multiplex_client, log)
_SETTINGS = (
    ServiceSettings,
    GatewaySettings,
    AuthSettings,
    QuotaSettings,
    InferenceSettings,
    LocalSettings,
    OperatorConsoleSettings,
)

_NOT_OF_THE_API = frozenset({"caller_not_expected", "invalid_limit", "no_verdict", "session_ended"})
"""Reasons that a client of the HTTP API never receives as `error.code`."""


def _documented() -> set[tuple[str, str]]:
    text = (_ROOT / "docs" / "configuration.md").read_text()
    return set(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| .+ \|$", text, flags=re.MULTILINE))


def _default(field: FieldInfo) -> str:
    defaults = {"request_timeout_seconds": ServiceSettings.model_fields["request_timeout_seconds"].default}
    value = field.get_default(call_default_factory=True, validated_data=defaults)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == "":
        return "none"
    if isinstance(value, dict | list):
        return f"`{json.dumps(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _settings() -> set[tuple[str, str]]:
    return {
        (str(field.validation_alias or f"{kind.model_config.get('env_prefix', '')}{name}".upper()), _default(field))
        for kind in _SETTINGS
        for name, field in kind.model_fields.items()
    }


def test_every_setting_is_documented_with_its_default_and_all_documented_ones_exist() -> None:
    assert _documented() == _settings()


def test_every_metric_is_documented_with_its_labels_and_all_documented_ones_exist() -> None:
    text = (_ROOT / "docs" / "observability.md").read_text()
    documented = re.findall(r"^\| `(stack_\w+)` \| (.+?) \| (.+) \|$", text, flags=re.MULTILINE)
    ours = [one for module in _METRICS for one in vars(module).values() if isinstance(one, MetricWrapperBase)]
    assert sorted(documented) == sorted(_described(one) for one in ours)


def _described(metric: MetricWrapperBase) -> tuple[str, str, str]:
    (family,) = metric.describe()
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return name, ", ".join(f"`{label}`" for label in metric._labelnames) or "none", family.documentation


def test_no_service_redefines_a_common_setting() -> None:
    """A setting of the same name would silently replace the common one: `drain_seconds` once did."""
    for kind in _SETTINGS[1:]:
        assert not set(kind.__annotations__) & set(ServiceSettings.model_fields), kind


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_between_pages_have_targets(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_to_sections_have_targets(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)", page.read_text())
    missing = [
        f"{name}#{section}"
        for name, section in targets
        if section not in _anchors(page.parent / name if name else page)
    ]
    assert missing == []


def _anchors(page: Path) -> set[str]:
    """Return the sections of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_path_named_on_a_page_exists(page: Path) -> None:
    """`deploy/stackctl` is kubectl's notation for a Deployment; an ellipsis shortens a long name."""
    text = re.sub("deploy/(stackctl|operator-console)", "", page.read_text())
    paths = [match[0] for match in _PATH.finditer(text) if not text[match.end() :].startswith(("…", "-…"))]
    assert [path for path in paths if not (_ROOT / path).exists() and not (page.parent / path).exists()] == []


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_test_named_on_a_page_exists(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"\b(test_\w+\.py)", text)) - _test_files() == set()
    names = re.findall(r"`(test_\w+)…?`", text)
    assert [name for name in names if not any(one.startswith(name) for one in _test_names())] == []


@cache
def _test_files() -> set[str]:
    return {path.name for path in (_ROOT / "tests").rglob("test_*.py")}


@cache
def _test_names() -> list[str]:
    code = "".join(path.read_text() for path in (_ROOT / "tests").rglob("*.py"))
    return re.findall(r"def (test_\w+)", code)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/guarantees.md", "docs/operations.md"])
def test_every_make_target_named_on_a_page_exists(page: str) -> None:
    text, makefile = (_ROOT / page).read_text(), (_ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:`|^)make ([a-z-]+)", text, flags=re.MULTILINE)
    assert targets
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def _codes_of_failure_modes() -> set[str]:
    text = (_ROOT / "docs" / "failure-modes.md").read_text()
    section = text.partition("## By error code\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (.+?) \| (?:[\d, ]+|event) \| ", section, flags=re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"`(\w+)`", cell)}


def test_every_error_code_of_the_api_is_explained_and_all_explained_ones_exist() -> None:
    """Codes of OpenAI's rules for parameters (`apis/checks.py`) are explained together, in one row."""
    folders = ("gateway", "quota", "inference", "common")
    files = [
        path
        for name in folders
        for path in (_ROOT / "services" / name).rglob("*.py")
        if not {"console", "web"} & set(path.parts)
    ]
    code = "".join(path.read_text() for path in files)
    named = set(re.findall(r"""(?:reason|code|unavailable_reason)=f?"(\w+)"|"code": "(\w+)\"""", code))
    ours = {one or other for one, other in named} - _NOT_OF_THE_API
    documented = _codes_of_failure_modes()
    assert ours - documented == set()
    assert {one for one in documented if f'"{one}"' not in code and f"`{one}`" not in code} == set()


def test_the_readme_states_the_software_version() -> None:
    version = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.findall(r"semantic\s+version\s+of\s+its\s+own,\s+(\S+)", (_ROOT / "README.md").read_text()) == [version]
    assert set(re.findall(r"\bstack:(\d\S*)", (_ROOT / "README.md").read_text())) == {version}


def test_the_contributing_guide_and_the_module_map_answer_where_things_are() -> None:
    questions = (
        *("key revoked", "slot reserved", "HTTP status", "console page", "request parameter"),
        *("HTTP surface", "metric", "setting"),
    )
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        rows = re.findall(r"^\| (Where .+?\?) \| (.+) \|$", (_ROOT / page).read_text(), flags=re.MULTILINE)
        for question in questions:
            assert any(question in asked and "services/" in answer for asked, answer in rows), (page, question)
