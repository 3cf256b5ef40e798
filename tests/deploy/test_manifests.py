"""The manifests render and are correct; `make manifests` checks every combination of components in the same way."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.common.price_file import read_prices
from services.local.settings import LocalSettings
from services.local.supervisor.programs import services
from tools.manifests import checkov
from tools.manifests.__main__ import problems
from tools.manifests.checks.references import SECRET_KEYS
from tools.manifests.objects import Objects
from tools.manifests.render import (
    COMPONENTS,
    K8S,
    REFINEMENTS,
    ROOT,
    combinations,
    overlays,
    refined,
    render,
    render_combination,
)


@pytest.mark.parametrize("folder", overlays(), ids=lambda folder: folder.name)
def test_an_overlay_has_no_fault(folder: Path) -> None:
    assert problems(Objects.parse(render(folder))) == []


@pytest.mark.long
@pytest.mark.parametrize("components", [(), ("external-redis", "mail"), refined(COMPONENTS)], ids="+".join)
def test_components_can_be_omitted_and_combined(components: tuple[str, ...]) -> None:
    assert problems(Objects.parse(render_combination(components))) == []


def test_every_component_is_in_the_combinations() -> None:
    components = K8S / "components"
    found = {str(path.parent.relative_to(components)) for path in components.rglob("kustomization.yaml")}
    assert found == {*COMPONENTS, *REFINEMENTS.values()}
    assert {name for combination in combinations() for name in combination} == found
    assert len(set(combinations())) == 2 ** len(COMPONENTS) + 2 ** (len(COMPONENTS) - len(REFINEMENTS))


def test_the_local_overlay_needs_only_the_image_and_one_secret() -> None:
    local = Objects.parse(render(K8S / "overlays" / "local"))
    apis = {one["apiVersion"] for one in local.all}
    secrets = {
        value.partition("/")[0]
        for workload in local.workloads()
        for container in workload.containers
        for value in local.environment(container).values()
        if value.startswith("secret:")
    }
    assert apis == {"v1", "apps/v1", "batch/v1", "networking.k8s.io/v1", "policy/v1"}
    assert secrets == {"secret:stack-secrets"}


def test_production_uses_mtls_everywhere_and_contains_no_store() -> None:
    production = Objects.parse(render(K8S / "overlays" / "production"))
    for workload in production.workloads():
        if workload.kind == "Deployment":
            assert "TLS_CERTIFICATE_FILE" in production.environment(workload.containers[0]), workload.title
    assert list(production.of("StatefulSet")) == []


def test_the_manifests_have_the_packages_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    for folder in overlays():
        objects = Objects.parse(render(folder))
        assert objects.find("Job", f"migrate-{version[1]}"), folder.name


def test_the_documented_patch_mounts_the_price_file_where_the_services_read_it(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "costs.md").read_text()
    (patch,), (prices,) = (re.findall(rf"```{kind}\n(.+?)```", page, re.DOTALL) for kind in ("yaml", "toml"))
    production = K8S / "overlays" / "production"
    overlay = yaml.safe_load((production / "kustomization.yaml").read_text())
    for name in ("resources", "components"):
        overlay[name] = [os.path.relpath(production / one, tmp_path.resolve()) for one in overlay[name]]
    for name, added in yaml.safe_load(patch).items():
        overlay[name] += added
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    (tmp_path / "prices.toml").write_text(prices)

    objects = Objects.parse(render(tmp_path))

    assert problems(objects) == []
    mounting = [one for one in objects.workloads() if "PRICES_FILE" in objects.environment(one.containers[0])]
    assert sorted(one.title for one in mounting) == ["Deployment/gateway", "Deployment/inference"]
    path = objects.environment(mounting[0].containers[0])["PRICES_FILE"]
    (config,) = [one for one in objects.of("ConfigMap") if one["metadata"]["name"].startswith("prices-")]
    (mount,) = [one for one in mounting[0].containers[0]["volumeMounts"] if one["name"] == "prices"]
    assert path == f"{mount['mountPath']}/{next(iter(config['data']))}"
    assert read_prices(str(tmp_path / "prices.toml")).find("any") is not None, "the example is valid"


def test_the_guide_explains_every_key_of_the_secret() -> None:
    guide = (ROOT / "docs" / "deployment.md").read_text()
    assert [key for key in sorted(SECRET_KEYS) if f"`{key}`" not in guide] == []


def test_the_guide_explains_every_component() -> None:
    guide = (ROOT / "docs" / "deployment.md").read_text()
    assert [name for name in (*COMPONENTS, *REFINEMENTS.values()) if f"`{name}`" not in guide] == []


def test_a_cluster_runs_the_same_services_as_one_machine() -> None:
    local = LocalSettings(quota_redis_url="redis://nowhere").configuration()
    on_one_machine = {program.name for program in services(local, sockets=ROOT, groq_base_url="")}
    deployed = {one["metadata"]["name"] for one in Objects.parse(render(K8S / "overlays" / "local")).of("Deployment")}
    assert deployed - {"stackctl"} == on_one_machine


def test_all_four_services_are_scraped_and_have_alerts_and_a_dashboard() -> None:
    production = Objects.parse(render(K8S / "overlays" / "production"))
    assert {one.name for one in production.workloads() if "metrics" in one.ports} == {
        *("gateway", "auth", "quota", "inference")
    }
    (rules,) = production.of("PrometheusRule")
    (dashboard,) = (one for one in production.of("ConfigMap") if "dashboard" in one["metadata"]["name"])
    alerts = [rule["alert"] for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    guide = (ROOT / "docs" / "operations.md").read_text()
    assert sorted(alerts) == sorted(re.findall(r"^### (Stack\w+)$", guide, re.MULTILINE))
    assert json.loads(dashboard["data"]["stack.json"])["title"] == "Stack 3.0 API"


def test_each_skipped_check_has_a_reason() -> None:
    assert all(len(skip["reason"].split()) >= 8 for skip in checkov.skips().values())


def test_checkovs_report_must_match_the_list_in_both_directions() -> None:
    skipped: dict[str, dict[str, Any]] = {
        "CKV_1": {"reason": "a"},
        "CKV_2": {"reason": "b", "only": ["Deployment/auth"]},
    }
    failed = [("CKV_2", "two", "Deployment/auth"), ("CKV_2", "two", "Deployment/quota"), ("CKV_3", "three", "Job/x")]

    assert list(checkov.findings(failed, skipped)) == [
        "Deployment/quota: CKV_2 two",
        "Job/x: CKV_3 three",
        "the skip of CKV_1 is not needed",
    ]
    assert "the skip of CKV_2 for Deployment/auth is not needed" in checkov.findings([], skipped)
