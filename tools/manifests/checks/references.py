"""References between objects resolve: ConfigMaps, Secrets and their keys, ServiceAccounts, variables in variables."""

import re
from collections.abc import Iterator

from tools.manifests.objects import Object, Objects, Workload

SECRET = "stack-secrets"
"""The one Secret that an operator creates."""

SECRET_KEYS = frozenset(
    {
        "GROQ_API_KEY",
        "STACK_ADMIN_TOKEN",
        "AUTH_KEY_PEPPER",
        "AUTH_KEY_PEPPERS_ACCEPTED",
        "AUTH_PLAN_WEBHOOK_SECRETS",
        "POSTGRES_PASSWORD",
        "AUTH_DATABASE_PASSWORD",
        "INFERENCE_DATABASE_PASSWORD",
        "INFERENCE_RECEIPT_KEYS",
        "REDIS_PASSWORD",
        # Used instead of the passwords, where the stores are the operator's own.
        "AUTH_DATABASE_URL",
        "INFERENCE_DATABASE_URL",
        "QUOTA_REDIS_URL",
        "INFERENCE_REDIS_URL",
        "AUTH_SMTP_URL",
        # With stored-responses.
        "RESPONSES_REDIS_PASSWORD",
        "INFERENCE_RESPONSES_SECRETS",
    }
)
"""Its possible keys; docs/deployment.md explains each."""

_VARIABLE = re.compile(r"\$\((\w+)\)")


def config_maps(objects: Objects) -> Iterator[str]:
    """Each referenced ConfigMap exists, and each existing one is referenced."""
    read = set()
    for workload in objects.workloads():
        for name in _config_maps(workload):
            read.add(name)
            if objects.find("ConfigMap", name) is None:
                yield f"{workload.title}: there is no ConfigMap {name}"
    left = {one["metadata"]["name"] for one in objects.of("ConfigMap") if not _is_grafanas(one)} - read
    yield from (f"ConfigMap/{name}: is not referenced" for name in sorted(left))


def _is_grafanas(config: Object) -> bool:
    """Whether Grafana's sidecar, which is not one of our pods, reads it."""
    return bool(config["metadata"].get("labels", {}).get("grafana_dashboard") == "1")


def _config_maps(workload: Workload) -> Iterator[str]:
    for container in workload.containers:
        yield from (one["configMapRef"]["name"] for one in container.get("envFrom", ()) if "configMapRef" in one)
    yield from (one["configMap"]["name"] for one in workload.pod.get("volumes", ()) if "configMap" in one)


def secrets(objects: Objects) -> Iterator[str]:
    """Each Secret is the operator's, with a key explained in the guide, or a certificate's."""
    issued = {one["spec"]["secretName"] for one in objects.of("Certificate")}
    for workload in objects.workloads():
        for container in workload.containers:
            for name, key in _secret_keys(container):
                if name != SECRET or key not in SECRET_KEYS:
                    yield f"{workload.title}: nothing creates key {key} of Secret {name}"
        for volume in workload.pod.get("volumes", ()):
            name = volume.get("secret", {}).get("secretName")
            if name and name not in issued:
                yield f"{workload.title}: nothing creates Secret {name}"


def _secret_keys(container: Object) -> Iterator[tuple[str, str]]:
    for one in container.get("env", ()):
        reference = one.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            yield reference["name"], reference["key"]


def service_accounts(objects: Objects) -> Iterator[str]:
    """Each workload has a ServiceAccount with its own name that mounts no token."""
    for workload in objects.workloads():
        account = objects.find("ServiceAccount", workload.pod.get("serviceAccountName", "default"))
        if account is None:
            yield f"{workload.title}: its ServiceAccount does not exist"
        elif account.get("automountServiceAccountToken") is not False:
            yield f"{workload.title}: its ServiceAccount mounts a token"


def variables(objects: Objects) -> Iterator[str]:
    """`$(NAME)` refers to a variable defined before it; otherwise the cluster leaves it unexpanded."""
    for workload in objects.workloads():
        for container in workload.containers:
            known: set[str] = set()
            for one in container.get("env", ()):
                unknown = set(_VARIABLE.findall(str(one.get("value", "")))) - known
                yield from (f"{workload.title}: {one['name']} uses {name} before it is defined" for name in unknown)
                known.add(one["name"])
            words = [*container.get("command", ()), *container.get("args", ())]
            unknown = {name for word in words for name in _VARIABLE.findall(word)} - known
            yield from (f"{workload.title}: the command uses {name}, which is not defined" for name in unknown)


CHECKS = (config_maps, secrets, service_accounts, variables)
